// Time of a barrier of the whole grid, one block a multiprocessor: what a kernel that keeps all weights on the chip would pay a
// step.
#include <cooperative_groups.h>

#include "probe.cuh"

__global__ void __launch_bounds__(256, 1) barriers(int count) {
  const auto grid = cooperative_groups::this_grid();
  for (int n = 0; n < count; ++n) grid.sync();
}

int main() {
  const int many = 5000, few = 500, sms = multiprocessors();
  cudaLaunchAttribute attribute{};
  attribute.id = cudaLaunchAttributeCooperative;
  attribute.val.cooperative = 1;
  cudaLaunchConfig_t config{};
  config.gridDim = dim3((unsigned)sms), config.blockDim = dim3(256), config.attrs = &attribute, config.numAttrs = 1;
  const auto run = [&](int count) {
    return milliseconds(nullptr, [&] { CHECK(cudaLaunchKernelEx(&config, barriers, count)); });
  };
  printf("{\"probe\": \"grid_barrier\", \"blocks\": %d, \"ns\": %.1f}\n", sms, (run(many) - run(few)) * 1e6 / (many - few));
}
