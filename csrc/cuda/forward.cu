// The forward kernels: one for each tile of sequences, number of warps that share units, and type.
#include "forward.h"

#include "launch.cuh"

namespace flow::cuda {

template <typename T, int N, int S>
__global__ void __launch_bounds__(kWarps * 32, 1) routed_gru_forward(const __grid_constant__ Problem p) {
  extern __shared__ __align__(128) char shared[];
  DeviceBlock<ForwardRegisters<T, N, S>> block(shared);
  forward<T, N, S>(block, p);
}

template <typename T, int N, int S>
static Chosen chosen(const Shape &s) {
  return {routed_gru_forward<T, N, S>, ForwardMemory(s, forward_held(N, S)).bytes, forward_warps(s) * 32};
}

template <typename T>
static Chosen for_tile(const Shape &s) {
  switch (s.n_tiles() * 10 + forward_split(s)) {
    case 11: return chosen<T, 1, 1>(s);
    case 12: return chosen<T, 1, 2>(s);
    case 21: return chosen<T, 2, 1>(s);
    case 22: return chosen<T, 2, 2>(s);
    case 41: return chosen<T, 4, 1>(s);
    default: return {};
  }
}

Chosen choose_forward(const Problem &p) {
  const Shape &s = p.shape;
  if (forward_warps(s) > kWarps) return {};
  return p.dtype ? for_tile<Fp16>(s) : for_tile<Bf16>(s);
}

}  // namespace flow::cuda
