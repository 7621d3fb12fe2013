#include "backward.cuh"

flow::cuda::Chosen flow::cuda::choose_backward_bf16(const Problem &p) { return choose_backward<Bf16>(p); }
