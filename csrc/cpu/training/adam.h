// One step of Adam or AdamW for one client: the norm of its gradients in a first pass, moments and parameters in a second.
//
// A row of an embedding that never had a gradient has moments of zero and does not move, so it is left out. A row that once had
// one goes on moving by its moments, as with a dense gradient that is zero there; `touched` says which rows these are.
#pragma once

#if defined(__SSE2__)
#include <immintrin.h>
#endif

#include "gradients.h"

namespace {

inline Simd<float>::vec square_root(Simd<float>::vec v) {
  typedef Simd<float>::vec vec;
#if defined(__AVX512F__)
  // with a mask of all lanes: without one GCC 12 warns of its own header
  return (vec)_mm512_maskz_sqrt_ps((__mmask16)-1, (__m512)v);
#elif defined(__AVX2__)
  return (vec)_mm256_sqrt_ps((__m256)v);
#elif defined(__SSE2__)
  return (vec)_mm_sqrt_ps((__m128)v);
#else
  for (int i = 0; i < Simd<float>::width; ++i) v[i] = __builtin_sqrtf(v[i]);
  return v;
#endif
}

inline Simd<double>::vec square_root(Simd<double>::vec v) {
  typedef Simd<double>::vec vec;
#if defined(__AVX512F__)
  return (vec)_mm512_maskz_sqrt_pd((__mmask8)-1, (__m512d)v);
#elif defined(__AVX2__)
  return (vec)_mm256_sqrt_pd((__m256d)v);
#elif defined(__SSE2__)
  return (vec)_mm_sqrt_pd((__m128d)v);
#else
  for (int i = 0; i < Simd<double>::width; ++i) v[i] = __builtin_sqrt(v[i]);
  return v;
#endif
}

template <class T>
struct AdamRun {
  static constexpr int64_t W = Simd<T>::width;
  const FlowAdam &p;
  const int64_t k;
  Gradients<T> gradients;
  T scale, rate, root, keep, decay, first_share, second_keep, second_share;

  AdamRun(const FlowAdam &p, int64_t k, T *summed, int64_t *named, int32_t *slot)
      : p(p), k(k), gradients{p.parameters, p.count, k, summed, named, slot} {}

  void run() {
    if (p.present && !p.present[k]) return;
    scale = gradients.scale(p.clip);
    const double t = (double)++p.steps[k];
    rate = (T)(p.lr / (1 - pow(p.beta1, t)));       // of the first moment, without its bias
    root = (T)(1 / sqrt(1 - pow(p.beta2, t)));      // likewise of the second one's root
    keep = (T)(p.decoupled ? 1 - p.lr * p.decay : 1);
    decay = (T)(p.decoupled ? 0 : p.decay);
    first_share = (T)(1 - p.beta1), second_keep = (T)p.beta2, second_share = (T)(1 - p.beta2);
    const T *sum = gradients.summed;
    const int64_t *name = gradients.named;
    for (int64_t i = 0; i < p.count; ++i) {
      const FlowParameter &one = p.parameters[i];
      if (one.N) {
        step_rows(one, p.moments[i], sum, name);
        sum += one.N * one.width, name += one.N + 1;
      } else {
        step(one, p.moments[i], static_cast<const T *>(one.gradient) + k * one.n, 0, one.n);
        if (p.moments[i].touched) memset(p.moments[i].touched + k * p.moments[i].rows, 1, (size_t)p.moments[i].rows);
      }
    }
  }

  void step_rows(const FlowParameter &one, const FlowMoments &own, const T *sum, const int64_t *name) {
    int32_t *slot = gradients.slot;  // that of the last tensor, so far
    uint8_t *touched = own.touched + k * own.rows;
    memset(slot, 0xff, (size_t)own.rows * sizeof *slot);
    for (int64_t r = 0; r < name[0]; ++r) slot[name[1 + r]] = (int32_t)r, touched[name[1 + r]] = 1;
    for (int64_t row = 0; row < own.rows; ++row) {
      if (!touched[row]) continue;
      step(one, own, slot[row] < 0 ? nullptr : sum + slot[row] * one.width, row * one.width, one.width);
    }
  }

  // n numbers from `begin` on; gradient: of these alone, null for zeros.
  void step(const FlowParameter &one, const FlowMoments &own, const T *gradient, int64_t begin, int64_t n) const {
    const int64_t at = k * one.n + begin;
    T *parameter = static_cast<T *>(one.parameter) + at;
    T *first = static_cast<T *>(own.first) + at, *second = static_cast<T *>(own.second) + at;
    const T *anchor = p.mu != 0 && one.anchor ? static_cast<const T *>(one.anchor) + at : nullptr;
    for (int64_t i = 0; i < n; i += W) {
      const int64_t some = n - i;
      const Vec<T> x = load_some(parameter + i, some);
      Vec<T> g = {};
      if (gradient) g = load_some(gradient + i, some) * scale;
      g += decay * x;
      if (anchor) g += (T)p.mu * (x - load_some(anchor + i, some));
      Vec<T> m = load_some(first + i, some), v = load_some(second + i, some);
      m += first_share * (g - m);
      v = second_keep * v + second_share * (g * g);
      store_some(first + i, m, some), store_some(second + i, v, some);
      store_some(parameter + i, keep * x - rate * m / (square_root(v) * root + (T)p.epsilon), some);
    }
  }
};

}  // namespace
