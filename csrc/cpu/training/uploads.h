// Sums of uploads that no order changes. Every summand is cut into three numbers, multiples of three fixed units; sums of such
// multiples are exact in double as long as they stay below 2^53 units, so neither the order of clients nor how they are
// grouped, over threads or processes, leaves a trace in the last bit.
#pragma once

#include <stdint.h>

namespace {

constexpr int kLevels = 3;
constexpr double kUnits[kLevels] = {0x1p-12, 0x1p-45, 0x1p-78};

// total [3][n] += the parts of weights[k] * uploads[k][i]; a piece at a time, so that its sums stay in the first cache.
template <class T>
inline void accumulate(int64_t K, int64_t n, const T *uploads, const double *weights, double *total) {
  constexpr int64_t kPiece = 1024;
  constexpr double kRound[kLevels] = {0x1.8p52 * kUnits[0], 0x1.8p52 * kUnits[1], 0x1.8p52 * kUnits[2]};
  double *const high = total, *const middle = total + n, *const low = total + 2 * n;
  for (int64_t first = 0; first < n; first += kPiece) {
    const int64_t end = n - first < kPiece ? n : first + kPiece;
    for (int64_t k = 0; k < K; ++k) {
      const double weight = weights[k];
      const T *one = uploads + k * n;
      double products[kPiece];  // in memory, so that they are rounded: no instruction set joins them with what follows
      for (int64_t i = first; i < end; ++i) products[i - first] = weight * (double)one[i];
      for (int64_t i = first; i < end; ++i) {
        const double value = products[i - first];
        const double a = (value + kRound[0]) - kRound[0], rest = value - a;
        const double b = (rest + kRound[1]) - kRound[1];
        const double c = ((rest - b) + kRound[2]) - kRound[2];
        high[i] += a, middle[i] += b, low[i] += c;
      }
    }
  }
}

}  // namespace
