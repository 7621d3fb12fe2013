// What a multiprocessor gets out of mma.sync m16n8k16 (bfloat16) as the recurrent kernels use it: three row tiles by two
// n-tiles a warp, the weights in registers, or read from shared memory each time, which is then bound by its bandwidth.
#include "../../../csrc/cuda/device.cuh"
#include "probe.cuh"

using namespace flow::cuda;

constexpr int kRows = 3, kTiles = 2, kSteps = 16;

template <bool kFromShared>
__global__ void __launch_bounds__(256, 1) products(int count, float *out) {
  extern __shared__ __align__(128) char shared[];
  const int lane = (int)threadIdx.x % 32, warp = (int)threadIdx.x / 32;
  Fragment *weights = reinterpret_cast<Fragment *>(shared) + warp * kSteps * kRows * 32;
  for (int n = 0; n < kSteps * kRows; ++n) weights[n * 32 + lane] = Fragment{};
  __syncthreads();
  float acc[kRows][kTiles][4] = {};
  Fragment held[kRows];
  for (int m = 0; m < kRows; ++m) held[m] = weights[m * 32 + lane];
  const uint32_t b = (uint32_t)lane;
  for (int n = 0; n < count; ++n) {
#pragma unroll
    for (int k = 0; k < kSteps; ++k)
#pragma unroll
      for (int m = 0; m < kRows; ++m) {
        Fragment w = held[m];
        if constexpr (kFromShared)
          asm volatile("ld.shared.v4.b32 {%0,%1,%2,%3}, [%4];"
                       : "=r"(w.v[0]), "=r"(w.v[1]), "=r"(w.v[2]), "=r"(w.v[3])
                       : "r"(shared_address(weights + (k * kRows + m) * 32 + lane)));
#pragma unroll
        for (int t = 0; t < kTiles; ++t) multiply<Bf16>(acc[m][t], w, b, b);
      }
  }
  float sum = 0;
  for (int m = 0; m < kRows; ++m)
    for (int t = 0; t < kTiles; ++t)
      for (int c = 0; c < 4; ++c) sum += acc[m][t][c];
  if (sum == 1) *out = sum;  // never, but the compiler cannot know
}

int main() {
  const int sms = multiprocessors(), many = 2000, few = 200;
  float *out;
  CHECK(cudaMalloc(&out, sizeof *out));
  for (int from_shared : {0, 1})
    for (int warps : {4, 8}) {
      const auto kernel = from_shared ? products<true> : products<false>;
      const int shared = warps * kSteps * kRows * kFragment;
      CHECK(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, shared));
      const auto run = [&](int count) {
        return milliseconds(nullptr, [&] { kernel<<<sms, warps * 32, shared>>>(count, out); });
      };
      const double seconds = (run(many) - run(few)) * 1e-3 / (many - few);
      const double products_a_pass = (double)sms * warps * kSteps * kRows * kTiles;
      printf(
          "{\"probe\": \"mma_issue\", \"weights\": \"%s\", \"warps\": %d, \"ns_a_pass\": %.1f, \"tflops\": %.1f, "
          "\"shared_gbytes_per_s_and_sm\": %.1f}\n",
          from_shared ? "shared memory" : "registers", warps, seconds * 1e9, products_a_pass * 4096 / seconds * 1e-12,
          from_shared ? (double)shared / seconds * 1e-9 : 0.0);
    }
  CHECK(cudaFree(out));
}
