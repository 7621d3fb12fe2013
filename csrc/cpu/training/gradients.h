// One client's gradients before a step: rows of one number added up, and the factor that brings the norm of all down to a bound.
#pragma once

#include <math.h>

#include "../../training.h"
#include "../common/simd.h"

namespace {

template <class T>
struct Gradients {
  static constexpr int64_t W = Simd<T>::width;
  static constexpr int64_t kSome = 64 * W;  // summed in T before they join the sum in double
  const FlowParameter *parameters;
  const int64_t count;
  const int64_t k;
  T *const summed;       // rows of gradients added up, [rows named][width], one tensor behind the other
  int64_t *const named;  // of each tensor how many there are, then their numbers in the order in which they were met
  int32_t *const slot;   // [rows of a parameter]: where a row's sum lies; -1 for none

  // The factor for all tensors: 1, or what makes `clip` of a larger norm. Rows are added up on the way.
  T scale(double clip) {
    double square = 0;
    T *sum = summed;
    int64_t *name = named;
    for (int64_t i = 0; i < count; ++i) {
      const FlowParameter &one = parameters[i];
      if (one.N) {
        const int64_t rows = add_rows(one, sum, name);
        if (clip > 0) square += squares(sum, rows * one.width);
        sum += one.N * one.width, name += one.N + 1;
      } else if (clip > 0) {
        square += squares(static_cast<const T *>(one.gradient) + k * one.n, one.n);
      }
    }
    const double norm = sqrt(square);
    // not `norm > clip`: a norm that is no number must reach the parameters, where it is noticed
    return clip > 0 && !(norm <= clip) ? (T)(clip / norm) : T(1);
  }

  // Adds the rows that have the same number up, in their order; name[0] gets how many there are, which is returned.
  int64_t add_rows(const FlowParameter &one, T *sum, int64_t *name) {
    const int64_t *rows = one.rows + k * one.N;
    const T *gradient = static_cast<const T *>(one.gradient) + k * one.N * one.width;
    memset(slot, 0xff, (size_t)(one.n / one.width) * sizeof *slot);
    int64_t found = 0;
    for (int64_t i = 0; i < one.N; ++i, gradient += one.width) {
      if (rows[i] < 0) continue;
      int32_t &at = slot[rows[i]];
      if (at < 0) {
        at = (int32_t)found;
        name[1 + found] = rows[i];
        memcpy(sum + found++ * one.width, gradient, (size_t)one.width * sizeof(T));
      } else {
        T *to = sum + at * one.width;
        for (int64_t j = 0; j < one.width; ++j) to[j] += gradient[j];
      }
    }
    return name[0] = found;
  }

  static double squares(const T *g, int64_t n) {
    double total = 0;
    for (int64_t first = 0; first < n; first += kSome) {
      const int64_t end = n - first < kSome ? n : first + kSome;
      Vec<T> s[4] = {};
      int64_t i = first;
      for (; i + 4 * W <= end; i += 4 * W)
        for (int j = 0; j < 4; ++j) {
          const Vec<T> v = load(g + i + j * W);
          s[j] += v * v;
        }
      for (; i < end; i += W) {
        const Vec<T> v = load_some(g + i, end - i);
        s[0] += v * v;
      }
      total += (double)sum_lanes<T>((s[0] + s[1]) + (s[2] + s[3]));
    }
    return total;
  }
};

}  // namespace
