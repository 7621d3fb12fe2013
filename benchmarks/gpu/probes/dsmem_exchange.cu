// Time of one exchange of the recurrent kernels: every block sends a piece to every peer by cp.async.bulk and waits on an
// mbarrier for theirs. The same code as in csrc/cuda, without the arithmetic between.
#include "../../../csrc/cuda/device.cuh"
#include "probe.cuh"

using namespace flow::cuda;

struct NoRegisters {};

__global__ void __launch_bounds__(256, 1) exchanges(const __grid_constant__ Problem p, int bytes) {
  extern __shared__ __align__(128) char shared[];
  DeviceBlock<NoRegisters> block(shared);
  const Place place = block.place(p);
  const int blocks = p.shape.blocks;
  block.open(place.shape, p.T, (blocks - 1) * bytes);
  for (int64_t n = 0; n < p.T; ++n) {
    const int buffer = 128 + (int)(n & 1) * blocks * bytes;
    block.publish();
    block.send(n, [=](int) { return buffer + place.rank * bytes; }, buffer + place.rank * bytes, bytes);
    block.wait(n);
  }
  block.close();
}

int main() {
  for (int blocks : {2, 4, 8, 16})
    for (int bytes : {256, 1024, 2048, 4096}) {
      const size_t shared = 128 + 2 * (size_t)blocks * bytes;
      FlowCluster sizes{};
      sizes.K = 1, sizes.B = 8, sizes.tile = 8, sizes.blocks = blocks, sizes.H = 16 * blocks;
      Problem p(sizes);
      for (int all : {0, 1}) {
        ClusterLaunch launch(exchanges, blocks, 256, shared, all ? 0 : 1);
        if (!launch.most) continue;
        const auto run = [&](int steps) {
          p.T = steps;
          return milliseconds(nullptr, [&] { CHECK(cudaLaunchKernelEx(&launch.config, exchanges, p, bytes)); });
        };
        const int many = 4000, few = 400;
        const double ns = (run(many) - run(few)) * 1e6 / (many - few);
        printf("{\"probe\": \"dsmem_exchange\", \"blocks\": %d, \"bytes_to_each_peer\": %d, \"clusters\": %d, \"ns\": %.1f}\n",
               blocks, bytes, (int)launch.config.gridDim.y, ns);
      }
    }
}
