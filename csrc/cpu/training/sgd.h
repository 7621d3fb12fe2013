// One step of SGD for one client: the norm of its gradients in a first pass, the update in a second.
#pragma once

#include "gradients.h"

namespace {

template <class T>
struct SgdRun {
  static constexpr int64_t W = Simd<T>::width;
  const FlowSgd &p;
  const int64_t k;
  Gradients<T> gradients;
  bool pulled;

  SgdRun(const FlowSgd &p, int64_t k, T *summed, int64_t *named, int32_t *slot)
      : p(p), k(k), gradients{p.parameters, p.count, k, summed, named, slot}, pulled(p.mu != 0 || p.decay != 0 || p.momentum != 0) {}

  void run() {
    if (p.present && !p.present[k]) return;
    const T scale = gradients.scale(p.clip);
    const T *sum = gradients.summed;
    const int64_t *name = gradients.named;
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
