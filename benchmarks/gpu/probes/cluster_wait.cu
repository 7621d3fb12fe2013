// What `.acquire.cluster` costs on the wait of an exchange: the assembler puts an invalidation of the L1 cache (CCTL.IVALL) behind
// every such wait, and none behind a plain one. What is waited for lies in shared memory, which that cache does not hold, so
// "stale" counts the words that were not those of the step.
#include "../../../csrc/cuda/device.cuh"
#include "probe.cuh"

using namespace flow::cuda;

constexpr int kWords = 512;  // to each peer

template <bool kAcquire>
__device__ bool passed(uint32_t barrier, int parity) {
  uint32_t yes;
  if constexpr (kAcquire)
    asm volatile(
        "{\n\t.reg .pred p;\n\t"
        "mbarrier.try_wait.parity.acquire.cluster.shared::cta.b64 p, [%1], %2;\n\t"
        "selp.u32 %0, 1, 0, p;\n\t}"
        : "=r"(yes) : "r"(barrier), "r"(parity) : "memory");
  else
    asm volatile(
        "{\n\t.reg .pred p;\n\t"
        "mbarrier.try_wait.parity.shared::cta.b64 p, [%1], %2;\n\t"
        "selp.u32 %0, 1, 0, p;\n\t}"
        : "=r"(yes) : "r"(barrier), "r"(parity) : "memory");
  return yes;
}

// Every block sends its piece of each step to every peer. A step also reads global memory, as the kernels do: an invalidated
// cache has to read it again.
template <bool kAcquire>
__global__ void __launch_bounds__(256, 1) exchanges(int steps, const float *global, unsigned *stale, float *out) {
  extern __shared__ __align__(128) unsigned shared[];
  const int rank = (int)blockIdx.x, blocks = (int)gridDim.x, thread = (int)threadIdx.x, bytes = kWords * 4;
  unsigned *data = shared + 32;  // behind the barriers: two buffers of a piece a block
  const auto barrier = [=](int n) { return shared_address(shared) + 8 * (n & 1); };
  const auto piece = [=](int n, int block) { return data + ((n & 1) * blocks + block) * kWords; };
  if (thread == 0) {
    barrier_init(barrier(0));
    barrier_init(barrier(1));
    asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
    barrier_expect(barrier(0), (blocks - 1) * bytes);
    if (steps > 1) barrier_expect(barrier(1), (blocks - 1) * bytes);
  }
  cluster_barrier();
  unsigned wrong = 0;
  float sum = 0;
  for (int n = 0; n < steps; ++n) {
    for (int w = thread; w < kWords; w += 256) piece(n, rank)[w] = (unsigned)(n * 16 + rank);
    asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
    __syncthreads();
    if (thread < blocks && thread != rank)
      copy_to_peer(at_peer(shared_address(piece(n, rank)), thread), shared_address(piece(n, rank)), bytes,
                   at_peer(barrier(n), thread));
    sum += global[(rank * 256 + thread) & 4095];
    while (!passed<kAcquire>(barrier(n), (n >> 1) & 1)) {
    }
    if (thread == 0 && n + 2 < steps) barrier_expect(barrier(n), (blocks - 1) * bytes);
    for (int block = 0; block < blocks; ++block)
      for (int w = thread; w < kWords; w += 256) wrong += piece(n, block)[w] != (unsigned)(n * 16 + block);
    __syncthreads();
  }
  cluster_barrier();
  if (wrong) atomicAdd(stale, wrong);
  if (sum == 1) *out = sum;  // never, but the compiler cannot know
}

int main() {
  float *global, *out;
  unsigned *stale, counted;
  CHECK(cudaMalloc(&global, 4096 * sizeof *global));
  CHECK(cudaMemset(global, 0, 4096 * sizeof *global));
  CHECK(cudaMalloc(&out, sizeof *out));
  CHECK(cudaMalloc(&stale, sizeof *stale));
  for (int blocks : {4, 16})
    for (bool acquire : {true, false}) {
      const auto kernel = acquire ? exchanges<true> : exchanges<false>;
      ClusterLaunch launch(kernel, blocks, 256, 128 + 2 * (size_t)blocks * kWords * 4);
      if (!launch.most) continue;
      CHECK(cudaMemset(stale, 0, sizeof *stale));
      const auto run = [&](int steps) {
        return milliseconds(nullptr, [&] { CHECK(cudaLaunchKernelEx(&launch.config, kernel, steps, global, stale, out)); });
      };
      const int many = 4000, few = 400;
      const double ns = (run(many) - run(few)) * 1e6 / (many - few);
      CHECK(cudaMemcpy(&counted, stale, sizeof counted, cudaMemcpyDeviceToHost));
      printf("{\"probe\": \"cluster_wait\", \"wait\": \"%s\", \"blocks\": %d, \"clusters\": %d, \"ns\": %.1f, \"stale\": %u}\n",
             acquire ? "acquire.cluster" : "plain", blocks, launch.most, ns, counted);
    }
  CHECK(cudaFree(global));
  CHECK(cudaFree(out));
  CHECK(cudaFree(stale));
}
