// The forward kernels: one for each tile of sequences and type.
#include "forward.h"

#include "launch.cuh"

namespace flow::cuda {

template <typename T, int N>
__global__ void __launch_bounds__(kWarps * 32, 1) routed_gru_forward(const __grid_constant__ Problem p) {
  extern __shared__ __align__(128) char shared[];
  DeviceBlock<ForwardRegisters<T, N>> block(shared);
  forward<T, N>(block, p);
}

template <typename T, int N>
static Chosen chosen(const Shape &s) {
  return {routed_gru_forward<T, N>, ForwardMemory(s, forward_held(N)).bytes, s.unit_warps() * 32};
}

template <typename T>
static Chosen for_tile(const Shape &s) {
  switch (s.n_tiles()) {
    case 1: return chosen<T, 1>(s);
    case 2: return chosen<T, 2>(s);
    case 4: return chosen<T, 4>(s);
    default: return {};
  }
}

Chosen choose_forward(const Problem &p) {
  const Shape &s = p.shape;
  if (s.unit_warps() > kWarps) return {};
  return p.dtype ? for_tile<Fp16>(s) : for_tile<Bf16>(s);
}

}  // namespace flow::cuda
