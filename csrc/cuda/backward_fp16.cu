#include "backward.cuh"

flow::cuda::Chosen flow::cuda::choose_backward_fp16(const Problem &p) { return choose_backward<Fp16>(p); }
