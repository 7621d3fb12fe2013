// A router on the state of every token, and its gradients. Rows are taken one by one and in order, so that a client's numbers
// do not depend on how many rows are padding.
#pragma once

#include <string.h>

#include "../../training.h"
#include "../common/product.h"

namespace {

template <class T>
struct RouterClient {
  static constexpr int64_t W = Simd<T>::width;
  static constexpr int64_t kSome = 32;  // rows whose bias gradients are summed by themselves first: a sum of sums loses less
  const FlowRouter &p;
  const int64_t k, N, H;
  const T *x, *w, *b;
  const int64_t *targets;
  const T temperature;

  RouterClient(const FlowRouter &p, int64_t k)
      : p(p), k(k), N(p.N), H(p.H), x(of<const T>(p.x, N * H)), w(of<const T>(p.w, 2 * H)), b(of<const T>(p.b, 2)),
        targets(p.targets + k * N), temperature((T)p.temperature) {}

  template <class S, class P>
  S *of(P *all, int64_t size) const {
    return all ? static_cast<S *>(all) + k * size : nullptr;
  }

  void forward() const {
    T *q = of<T>(p.q, 2 * N);
    memset(q, 0, (size_t)(2 * N) * sizeof(T));
    for (int64_t n = 0; n < N; ++n) {
      if (targets[n] < 0) continue;
      const T d = (dot<T, T>(x + n * H, w, H) + b[0] - (dot<T, T>(x + n * H, w + H, H) + b[1])) / temperature;
      Vec<T> both = {};
      both[0] = d, both[1] = -d;
      both = sigmoid<T>(both);
      const bool nan = d != d, to_global = both[0] >= both[1];
      for (int e = 0; e < 2; ++e) q[2 * n + e] = p.routing == FLOW_SOFT || nan ? T(both[e]) : T(e == (to_global ? 0 : 1));
    }
  }

  void backward() const {
    const T *q = of<const T>(p.q, 2 * N), *dq = of<const T>(p.dq, 2 * N);
    T *dx = of<T>(p.dx, N * H), *dw = of<T>(p.dw, 2 * H), *db = of<T>(p.db, 2);
    if (dw) memset(dw, 0, (size_t)(2 * H) * sizeof(T));
    T bias[2] = {}, some[2] = {};
    int64_t rows = 0;
    for (int64_t n = 0; n < N; ++n) {
      if (targets[n] < 0) continue;
      const T mean = q[2 * n] * dq[2 * n] + q[2 * n + 1] * dq[2 * n + 1];
      const T ds[2] = {q[2 * n] * (dq[2 * n] - mean) / temperature, q[2 * n + 1] * (dq[2 * n + 1] - mean) / temperature};
      for (int e = 0; e < 2; ++e) {
        some[e] += ds[e];
        if (dx) add(dx + n * H, w + e * H, ds[e]);
        if (dw) add(dw + e * H, x + n * H, ds[e]);
      }
      if (++rows % kSome == 0)
        for (int e = 0; e < 2; ++e) bias[e] += some[e], some[e] = 0;
    }
    for (int e = 0; db && e < 2; ++e) db[e] = bias[e] + some[e];
  }

  // to += by * from, over H numbers
  void add(T *to, const T *from, T by) const {
    for (int64_t i = 0; i < H; i += W) store_some(to + i, load_some(to + i, H - i) + by * load_some(from + i, H - i), H - i);
  }
};

}  // namespace
