// The backward kernels of one type: one for each tile of sequences and number of row tiles a warp.
#pragma once

#include "backward.h"
#include "launch.cuh"

namespace flow::cuda {

template <typename T, int N, int M>
__global__ void __launch_bounds__(kWarps * 32, 1) routed_gru_backward(const __grid_constant__ Problem p) {
  extern __shared__ __align__(128) char shared[];
  DeviceBlock<BackwardRegisters<T, N, M>> block(shared);
  backward<T, N, M>(block, p);
}

template <typename T, int N, int M>
Chosen chosen_backward(const Shape &s) {
  return {routed_gru_backward<T, N, M>, BackwardMemory(s, backward_held(M, N)).bytes, kWarps * 32};
}

template <typename T>
Chosen choose_backward(const Problem &p) {
  const Shape &s = p.shape;
  if (s.unit_warps() > kWarps) return {};
  switch (s.n_tiles() * 10 + backward_rows(s)) {
    case 11: return chosen_backward<T, 1, 1>(s);
    case 12: return chosen_backward<T, 1, 2>(s);
    case 13: return chosen_backward<T, 1, 3>(s);
    case 14: return chosen_backward<T, 1, 4>(s);
    case 21: return chosen_backward<T, 2, 1>(s);
    case 22: return chosen_backward<T, 2, 2>(s);
    case 23: return chosen_backward<T, 2, 3>(s);
    case 24: return chosen_backward<T, 2, 4>(s);
    default: return {};
  }
}

}  // namespace flow::cuda
