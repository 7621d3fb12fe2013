// What the processor can do at most: multiply-adds a second, and bytes read a second from an array of a given size.
//
// Written in vector extensions, so that it means the same on every processor; compiled on the machine it measures, for that
// machine. Enough independent accumulators hide the latency of a multiply-add, and few enough stay in registers.
#include <stdint.h>
#include <string.h>

#include <atomic>
#include <chrono>
#include <thread>
#include <vector>

#if defined(__AVX512BF16__) && defined(__AVX512F__)
#include <immintrin.h>
#endif

namespace {

#if defined(__AVX512F__)
constexpr int kBytes = 64, kAccumulators = 24;
#elif defined(__AVX__)
constexpr int kBytes = 32, kAccumulators = 12;
#elif defined(__aarch64__)
constexpr int kBytes = 16, kAccumulators = 24;
#else
constexpr int kBytes = 16, kAccumulators = 12;
#endif

template <class Real>
struct MultiplyAdd {
  typedef Real Vector __attribute__((vector_size(kBytes)));
  static constexpr double kFlops = 2.0 * kAccumulators * (kBytes / sizeof(Real));

  static double run(int64_t times, double seed) {
    Vector s[kAccumulators], a = Vector{} + (Real)(0.5 + seed), b = Vector{} + (Real)0.25;  // stays finite: tends to b / (1 - a)
    for (int j = 0; j < kAccumulators; ++j) s[j] = Vector{} + (Real)j;
    for (int64_t i = 0; i < times; ++i)
#pragma GCC unroll 24
      for (int j = 0; j < kAccumulators; ++j) s[j] = s[j] * a + b;
    double sum = 0;
    for (int j = 0; j < kAccumulators; ++j) sum += s[j][0];
    return sum;
  }
};

#if defined(__AVX512BF16__) && defined(__AVX512F__)
struct Bfloat16Dot {
  static constexpr double kFlops = 2.0 * 32 * kAccumulators;

  static double run(int64_t times, double seed) {
    const __m512bh a = _mm512_cvtne2ps_pbh(_mm512_set1_ps((float)(0.5 + seed)), _mm512_set1_ps(0.5f));
    const __m512bh b = _mm512_cvtne2ps_pbh(_mm512_set1_ps(0.5f), _mm512_set1_ps(-0.5f));
    __m512 s[kAccumulators];
    for (int j = 0; j < kAccumulators; ++j) s[j] = _mm512_set1_ps((float)j);
    for (int64_t i = 0; i < times; ++i)
#pragma GCC unroll 24
      for (int j = 0; j < kAccumulators; ++j) s[j] = _mm512_dpbf16_ps(s[j], a, b);
    double sum = 0;
    for (int j = 0; j < kAccumulators; ++j) sum += s[j][0];
    return sum;
  }
};
#endif

typedef uint64_t Words __attribute__((vector_size(kBytes)));

uint64_t read_all(const Words *data, int64_t vectors, int64_t times) {
  Words s[8] = {};
  for (int64_t i = 0; i < times; ++i) {
    for (int64_t n = 0; n + 8 <= vectors; n += 8)
#pragma GCC unroll 8
      for (int j = 0; j < 8; ++j) s[j] ^= data[n + j];
    asm volatile("" ::: "memory");  // the next pass reads it all again
  }
  uint64_t sum = 0;
  for (const Words &w : s) sum ^= w[0];
  return sum;
}

std::atomic<uint64_t> g_sink;  // results go here, or the compiler would drop the loops that made them

void keep(double value) {
  uint64_t bits;
  memcpy(&bits, &value, sizeof bits);
  g_sink ^= bits;
}

// Seconds from the moment all threads stand ready to the end of the last.
template <class Work>
double on_threads(int threads, const Work &work) {
  std::atomic<int> ready{0};
  std::atomic<bool> go{false};
  std::vector<std::thread> others;
  const auto wait_and_work = [&](int me) {
    ++ready;
    while (!go) {
    }
    work(me);
  };
  for (int me = 1; me < threads; ++me) others.emplace_back(wait_and_work, me);
  while (ready < threads - 1) {
  }
  const auto start = std::chrono::steady_clock::now();
  go = true;
  work(0);
  for (std::thread &other : others) other.join();
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

template <class Kernel>
double flops(int threads, double seconds, volatile double seed) {
  int64_t times = 1000;
  for (;;) {
    const double took = on_threads(threads, [&](int) { keep(Kernel::run(times, seed)); });
    if (took >= seconds) return Kernel::kFlops * times * threads / took;
    times = took < seconds / 16 ? times * 8 : (int64_t)(times * 1.2 * seconds / took) + 1;
  }
}

}  // namespace

extern "C" {

// Floating-point operations a second of so many threads together, over at least so many seconds. dtype: 0 float32, 1 float64,
// 2 bfloat16 products summed in float32; -1 where this build has no instruction for it.
double probe_flops(int dtype, int threads, double seconds) {
  if (dtype == 0) return flops<MultiplyAdd<float>>(threads, seconds, 0.0);
  if (dtype == 1) return flops<MultiplyAdd<double>>(threads, seconds, 0.0);
#if defined(__AVX512BF16__) && defined(__AVX512F__)
  if (dtype == 2) return flops<Bfloat16Dot>(threads, seconds, 0.0);
#endif
  return -1;
}

// Bytes a second read from an array of `bytes` bytes, every thread its own part of it again and again.
double probe_bandwidth(int64_t bytes, int threads, double seconds) {
  const int64_t vectors = bytes / kBytes / threads / 8 * 8;
  if (vectors < 8) return -1;
  std::vector<char> store((size_t)(vectors * threads + 1) * kBytes, 1);
  Words *data = (Words *)(((uintptr_t)store.data() + kBytes - 1) / kBytes * kBytes);
  int64_t times = 1;
  for (;;) {
    const double took =
        on_threads(threads, [&](int me) { g_sink ^= read_all(data + me * vectors, vectors, times); });
    if (took >= seconds) return (double)(vectors * threads * kBytes) * times / took;
    times = took < seconds / 16 ? times * 8 : (int64_t)(times * 1.2 * seconds / took) + 1;
  }
}

int probe_vector_bytes() { return kBytes; }
}
