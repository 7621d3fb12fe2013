// The formats a problem's tensors come in: how an element is stored, in what type it is computed with, and what the products
// multiply. bfloat16 is a format of storage and of factors: sums, gates and the carried state are float.
#pragma once

#include "simd.h"

#if defined(__AVX512BF16__)
#include <immintrin.h>
#endif

namespace {

struct bf16 {
  uint16_t bits;
};

// As many as a Vec<float> has lanes
typedef uint16_t Halves __attribute__((vector_size(kVectorBytes / 2)));
typedef uint32_t UVec __attribute__((vector_size(kVectorBytes)));

inline Vec<float> widen(Halves halves) {
  const UVec bits = __builtin_convertvector(halves, UVec) << 16;
  Vec<float> v;
  memcpy(&v, &bits, sizeof v);
  return v;
}

// To the nearest, ties to even; a NaN stays one. The instruction takes subnormal numbers for zero, as its products do.
inline Halves narrow(Vec<float> v) {
#if defined(__AVX512BF16__)
  return (Halves)_mm512_cvtneps_pbh((__m512)v);
#else
  UVec bits;
  memcpy(&bits, &v, sizeof bits);
  const UVec rounded = bits + 0x7fff + ((bits >> 16) & 1), quiet = bits | 0x400000;
  return __builtin_convertvector((v != v ? quiet : rounded) >> 16, Halves);
#endif
}

inline Halves load_halves(const bf16 *p, int64_t n) {
  Halves h = {};
  if (n >= Simd<float>::width) {
    memcpy(&h, p, sizeof h);
  } else if (n > 0) {
    memcpy(&h, p, (size_t)n * sizeof(bf16));
  }
  return h;
}

inline Vec<float> load(const bf16 *p) { return widen(load_halves(p, Simd<float>::width)); }
inline Vec<float> load_some(const bf16 *p, int64_t n) { return widen(load_halves(p, n)); }

inline void store_some(bf16 *p, Vec<float> v, int64_t n) {
  const Halves h = narrow(v);
  if (n >= Simd<float>::width) {
    memcpy(p, &h, sizeof h);
  } else if (n > 0) {
    memcpy(p, &h, (size_t)n * sizeof(bf16));
  }
}
inline void store(bf16 *p, Vec<float> v) { store_some(p, v, Simd<float>::width); }

inline float value(float x) { return x; }
inline double value(double x) { return x; }
inline float value(bf16 x) {
  const uint32_t bits = (uint32_t)x.bits << 16;
  float v;
  memcpy(&v, &bits, sizeof v);
  return v;
}

inline void put(float *p, float x) { *p = x; }
inline void put(double *p, double x) { *p = x; }
inline void put(bf16 *p, float x) { store_some(p, broadcast(x), 1); }

// Whether products of bfloat16 of many rows run on tiles (tiles.h).
#if defined(__AMX_TILE__) && defined(__AMX_BF16__)
constexpr bool kHasTiles = true;
#else
constexpr bool kHasTiles = false;
#endif

// Real: what is computed in. Stored: an element of a tensor. Factor: an element of what a product multiplies; `group` of them,
// neighbours along the sum, make a word of the size of a Real, and packed operands are arrays of words.
struct Single {
  using Real = float;
  using Stored = float;
  using Factor = float;
  static constexpr int64_t group = 1;
  static constexpr bool tiles = false;
};
struct Double {
  using Real = double;
  using Stored = double;
  using Factor = double;
  static constexpr int64_t group = 1;
  static constexpr bool tiles = false;
};
struct Brain {
  using Real = float;
  using Stored = bf16;
#if defined(__AVX512BF16__)
  using Factor = bf16;
  static constexpr int64_t group = 2;
#else
  using Factor = float;
  static constexpr int64_t group = 1;
#endif
  static constexpr bool tiles = kHasTiles;
};
#if defined(__AVX512BF16__)
// float tensors whose products round what they multiply; elsewhere these are Single's.
struct Mixed {
  using Real = float;
  using Stored = float;
  using Factor = bf16;
  static constexpr int64_t group = 2;
  static constexpr bool tiles = kHasTiles;
};
#endif

template <class F>
using Real = typename F::Real;
template <class F>
using Stored = typename F::Stored;
template <class F>
using Factor = typename F::Factor;

// Words of a sum over n
template <class F>
inline int64_t words(int64_t n) {
  return (n + F::group - 1) / F::group;
}

// Whether a row of a tensor can be multiplied where it lies: it is made of whole words already.
template <class F>
inline bool is_words(int64_t n) {
  return sizeof(Stored<F>) == sizeof(Factor<F>) && n % F::group == 0;
}

#if defined(__AVX512BF16__)
// Two vectors as words: the lanes of the first one behind the other, then those of the second.
inline Vec<float> pairs(Vec<float> first, Vec<float> second) {
  return (Vec<float>)_mm512_cvtne2ps_pbh((__m512)second, (__m512)first);
}

// Two vectors as words: lane by lane, the first in the lower half.
inline Vec<float> interleaved(Vec<float> first, Vec<float> second) {
  alignas(64) static constexpr uint16_t order[32] = {0, 16, 1, 17, 2,  18, 3,  19, 4,  20, 5,  21, 6,  22, 7,  23,
                                                     8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30, 15, 31};
  return (Vec<float>)_mm512_permutexvar_epi16(_mm512_load_si512(order), (__m512i)pairs(first, second));
}
#endif

// The first n factors behind p as words, times `scale`; zeros behind them. Of a tensor of Reals.
template <class F>
inline Vec<Real<F>> scaled_words(const Real<F> *p, int64_t n, Real<F> scale) {
#if defined(__AVX512BF16__)
  if constexpr (F::group == 2) {
    constexpr int64_t W = Simd<Real<F>>::width;
    return pairs(load_some(p, n) * scale, load_some(p + W, n - W) * scale);
  }
#endif
  return load_some(p, n) * scale;
}

// The first n factors behind p as words; zeros behind them.
template <class F>
inline Vec<Real<F>> load_words(const Stored<F> *p, int64_t n) {
  if constexpr (F::group == 1) {
    return load_some(p, n);
  } else if constexpr (sizeof(Stored<F>) == sizeof(Real<F>)) {
    return scaled_words<F>(p, n, 1);
  } else {
    Vec<Real<F>> v = {};
    if (n >= Simd<Real<F>>::width * F::group) {
      memcpy(&v, p, sizeof v);
    } else if (n > 0) {
      memcpy(&v, p, (size_t)n * sizeof(*p));
    }
    return v;
  }
}

// Words of two rows that are neighbours along the sum; of the first alone where a word has one element. A null row is zeros.
template <class F>
inline Vec<Real<F>> zip(const Stored<F> *first, const Stored<F> *second, int64_t n) {
  if constexpr (F::group == 1) {
    return first ? load_some(first, n) : Vec<Real<F>>{};
  } else if constexpr (sizeof(Stored<F>) == sizeof(Real<F>)) {
    return interleaved(first ? load_some(first, n) : Vec<float>{}, second ? load_some(second, n) : Vec<float>{});
  } else {
    const Halves low = first ? load_halves(first, n) : Halves{}, high = second ? load_halves(second, n) : Halves{};
    const UVec both = __builtin_convertvector(low, UVec) | __builtin_convertvector(high, UVec) << 16;
    Vec<Real<F>> v;
    memcpy(&v, &both, sizeof v);
    return v;
  }
}

// The same of rows of Reals, each times a scale of its own.
template <class F>
inline Vec<Real<F>> scaled_zip(const Real<F> *first, [[maybe_unused]] const Real<F> *second, int64_t n, Real<F> scale,
                               [[maybe_unused]] Real<F> other) {
#if defined(__AVX512BF16__)
  if constexpr (F::group == 2)
    return interleaved(load_some(first, n) * scale, second ? load_some(second, n) * other : Vec<Real<F>>{});
#endif
  return load_some(first, n) * scale;
}

// A word in every lane. As bits: arithmetic on a pair could flush it to zero or change a NaN.
template <class F>
inline Vec<Real<F>> broadcast_word(const Real<F> *p) {
  if constexpr (F::group == 1) {
    return broadcast(*p);
  } else {
    uint32_t bits;
    memcpy(&bits, p, sizeof bits);
    const UVec all = UVec{} + bits;
    Vec<Real<F>> v;
    memcpy(&v, &all, sizeof v);
    return v;
  }
}

// s += a * b, summed over the elements of each word
template <class F>
inline void multiply_add(Vec<Real<F>> &s, Vec<Real<F>> a, Vec<Real<F>> b) {
#if defined(__AVX512BF16__)
  if constexpr (F::group == 2) {
    s = (Vec<Real<F>>)_mm512_dpbf16_ps((__m512)s, (__m512bh)a, (__m512bh)b);
    return;
  }
#endif
  s += a * b;
}

}  // namespace
