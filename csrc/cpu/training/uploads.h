// Sums of uploads that no order changes. Every summand is cut into three numbers, multiples of three fixed units.
// Sums of such multiples are exact in double as long as they stay below 2^53 units. So the result does not depend, to
// the last bit, on the order of clients or on how they are grouped over threads or processes.
#pragma once

#include <stdint.h>
#include <string.h>

#include "../common/simd.h"

namespace {

constexpr int kLevels = 3;
constexpr double kUnits[kLevels] = {0x1p-12, 0x1p-45, 0x1p-78};
constexpr double kRound[kLevels] = {0x1.8p52 * kUnits[0], 0x1.8p52 * kUnits[1], 0x1.8p52 * kUnits[2]};  // x + r - r rounds x

// A product as it is rounded, not contracted with the sums that follow: the same parts on every instruction set.
template <class V>
inline V rounded(V value) {
#if defined(__x86_64__)
  __asm__("" : "+v"(value));
#elif defined(__aarch64__)
  __asm__("" : "+w"(value));
#endif
  return value;
}

// The parts of `value`, a number or a vector of them, join the sums.
template <class V>
inline void add_parts(V value, V (&sums)[kLevels]) {
  const V a = (value + kRound[0]) - kRound[0], rest = value - a;
  const V b = (rest + kRound[1]) - kRound[1];
  sums[0] += a, sums[1] += b, sums[2] += ((rest - b) + kRound[2]) - kRound[2];
}

// total [3][n] += the parts of weights[k] * uploads[k][i], uploads[k] a client's, or = them where it is fresh. The sums of a few
// numbers stay in registers through all clients.
template <class T>
inline void accumulate(int64_t K, int64_t n, const void *const *uploads, const double *weights, double *total, bool fresh) {
  constexpr int64_t W = Simd<double>::width, kSome = 2;
  typedef T Lanes __attribute__((vector_size(W * sizeof(T))));
  int64_t i = 0;
  for (; i + kSome * W <= n; i += kSome * W) {
    Vec<double> sums[kSome][kLevels];
    for (int64_t s = 0; s < kSome; ++s)
      for (int level = 0; level < kLevels; ++level)
        sums[s][level] = fresh ? Vec<double>{} : load(total + level * n + i + s * W);
    for (int64_t k = 0; k < K; ++k)
      for (int64_t s = 0; s < kSome; ++s) {
        Lanes lanes;
        memcpy(&lanes, static_cast<const T *>(uploads[k]) + i + s * W, sizeof lanes);
        add_parts(rounded(__builtin_convertvector(lanes, Vec<double>) * weights[k]), sums[s]);
      }
    for (int64_t s = 0; s < kSome; ++s)
      for (int level = 0; level < kLevels; ++level) store(total + level * n + i + s * W, sums[s][level]);
  }
  for (; i < n; ++i) {
    double sums[kLevels] = {};
    for (int level = 0; level < kLevels && !fresh; ++level) sums[level] = total[level * n + i];
    for (int64_t k = 0; k < K; ++k) add_parts(rounded((double)static_cast<const T *>(uploads[k])[i] * weights[k]), sums);
    for (int level = 0; level < kLevels; ++level) total[level * n + i] = sums[level];
  }
}

}  // namespace
