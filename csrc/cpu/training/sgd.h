// One step of SGD for one client: the norm of its gradients in a first pass, the update in a second.
#pragma once

#include <math.h>

#include "../../training.h"
#include "../common/simd.h"

namespace {

template <class T>
struct SgdRun {
  static constexpr int64_t W = Simd<T>::width;
  static constexpr int64_t kSome = 64 * W;  // summed in T before they join the sum in double
  const FlowSgd &p;
  const int64_t k;
  T *summed;      // rows of gradients added up, [rows named][width], one tensor behind the other
  int32_t *slot;  // [rows of the parameter]: where a row's sum lies; -1 for none
  int64_t *named; // the rows in the order in which they were met
  bool pulled;

  SgdRun(const FlowSgd &p, int64_t k, T *summed, int64_t *named, int32_t *slot)
      : p(p), k(k), summed(summed), slot(slot), named(named), pulled(p.mu != 0 || p.decay != 0 || p.momentum != 0) {}

  void run() {
    if (p.present && !p.present[k]) return;
    double square = 0;
    T *sum = summed;
    int64_t *name = named;
    for (int64_t i = 0; i < p.count; ++i) {
      const FlowParameter &one = p.parameters[i];
      if (one.N) {
        const int64_t rows = add_rows(one, sum, name);
        if (p.clip > 0) square += squares(sum, rows * one.width);
        sum += one.N * one.width, name += one.N + 1;
      } else if (p.clip > 0) {
        square += squares(static_cast<const T *>(one.gradient) + k * one.n, one.n);
      }
    }
    const double norm = sqrt(square);
    // not `norm > clip`: a norm that is no number must reach the parameters, where it is noticed
    const T scale = p.clip > 0 && !(norm <= p.clip) ? (T)(p.clip / norm) : T(1);
    sum = summed, name = named;
    for (int64_t i = 0; i < p.count; ++i) {
      const FlowParameter &one = p.parameters[i];
      T *parameter = static_cast<T *>(one.parameter) + k * one.n;
      if (one.N) {
        for (int64_t r = 0; r < name[0]; ++r) step(parameter + name[1 + r] * one.width, sum + r * one.width, one.width, scale);
        sum += one.N * one.width, name += one.N + 1;
      } else if (pulled) {
        pull(one, parameter, scale);
      } else {
        step(parameter, static_cast<const T *>(one.gradient) + k * one.n, one.n, scale);
      }
    }
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

  void step(T *parameter, const T *gradient, int64_t n, T scale) const {
    const T rate = (T)p.lr * scale;
    int64_t i = 0;
    for (; i + W <= n; i += W) store(parameter + i, load(parameter + i) - load(gradient + i) * rate);
    for (; i < n; ++i) parameter[i] -= gradient[i] * rate;
  }

  void pull(const FlowParameter &one, T *parameter, T scale) const {
    const T *gradient = static_cast<const T *>(one.gradient) + k * one.n;
    const T *anchor = p.mu != 0 && one.anchor ? static_cast<const T *>(one.anchor) + k * one.n : nullptr;
    T *momentum = p.momentum != 0 ? static_cast<T *>(one.momentum) + k * one.n : nullptr;
    const T lr = (T)p.lr, mu = (T)p.mu, decay = (T)p.decay, keep = (T)p.momentum;
    for (int64_t i = 0; i < one.n; ++i) {
      T g = gradient[i] * scale + decay * parameter[i];
      if (anchor) g += mu * (parameter[i] - anchor[i]);
      if (momentum) g = momentum[i] = keep * momentum[i] + g;
      parameter[i] -= lr * g;
    }
  }
};

}  // namespace
