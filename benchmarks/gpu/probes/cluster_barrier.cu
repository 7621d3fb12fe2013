// Time of a cluster barrier, and how many clusters of a size run at once when a block takes nearly all shared memory.
#include "probe.cuh"

__global__ void __launch_bounds__(256, 1) barriers(int count) {
  for (int n = 0; n < count; ++n)
    asm volatile("barrier.cluster.arrive.release.aligned;\n\tbarrier.cluster.wait.acquire.aligned;" ::: "memory");
}

int main() {
  const int many = 20000, few = 1000;
  for (int blocks : {1, 2, 4, 8, 16}) {
    const ClusterLaunch full(barriers, blocks, 256, 227 * 1024);
    if (!full.most) {
      printf("{\"probe\": \"cluster_barrier\", \"blocks\": %d, \"active_clusters\": 0}\n", blocks);
      continue;
    }
    const auto run = [&](int count) {
      return milliseconds(nullptr, [&] { CHECK(cudaLaunchKernelEx(&full.config, barriers, count)); });
    };
    const double ns = (run(many) - run(few)) * 1e6 / (many - few);
    printf("{\"probe\": \"cluster_barrier\", \"blocks\": %d, \"active_clusters\": %d, \"ns\": %.1f}\n", blocks, full.most, ns);
  }
}
