// Vectors of float and double in the width of the instruction set this file is compiled for, and the gate functions.
//
// Everything here has internal linkage (anonymous namespace, no library templates): the same names are compiled once per
// instruction set, and a shared inline function would be emitted once, with whichever instructions the linker met first.
#pragma once

#include <stdint.h>
#include <string.h>

namespace {

#if defined(__AVX512F__)
constexpr int kVectorBytes = 64;
constexpr int kRows = 8;  // rows of a micro-tile: 8 x 3 accumulators, 3 of weights, 1 broadcast out of 32 registers
#elif defined(__AVX2__)
constexpr int kVectorBytes = 32;
constexpr int kRows = 4;  // 4 x 3 accumulators + 3 + 1 out of 16 registers
#else
constexpr int kVectorBytes = 16;
constexpr int kRows = 4;
#endif
constexpr int kPanel = 3;  // vectors a micro-tile is wide: one each for r, z, n in the forward step

template <class T>
struct Simd;

template <>
struct Simd<float> {
  static constexpr int width = kVectorBytes / 4;
  typedef float vec __attribute__((vector_size(kVectorBytes)));
  typedef int32_t ivec __attribute__((vector_size(kVectorBytes)));
  static constexpr float magic = 12582912.0f;  // 1.5 * 2^23: adding it rounds to an integer held in the low bits
  static constexpr float log2e = 1.44269504088896341f;
  static constexpr float ln2_hi = 0.693359375f, ln2_lo = -2.12194440e-4f;  // ln2_hi * n is exact for the n that occur
  static constexpr float lowest = -87.0f;                                  // exp() stays a normal number
  static constexpr int mantissa = 23, bias = 127, degree = 7;
};

template <>
struct Simd<double> {
  static constexpr int width = kVectorBytes / 8;
  typedef double vec __attribute__((vector_size(kVectorBytes)));
  typedef int64_t ivec __attribute__((vector_size(kVectorBytes)));
  static constexpr double magic = 6755399441055744.0;  // 1.5 * 2^52
  static constexpr double log2e = 1.4426950408889634074;
  static constexpr double ln2_hi = 6.93147180369123816490e-01, ln2_lo = 1.90821492927058770002e-10;
  static constexpr double lowest = -708.0;
  static constexpr int mantissa = 52, bias = 1023, degree = 13;
};

template <class T>
using Vec = typename Simd<T>::vec;
template <class T>
using IVec = typename Simd<T>::ivec;

template <class T>
inline Vec<T> load(const T *p) {
  Vec<T> v;
  memcpy(&v, p, sizeof v);
  return v;
}

template <class T>
inline void store(T *p, Vec<T> v) {
  memcpy(p, &v, sizeof v);
}

// The first n lanes, zeros behind them; n may be anything, also 0 or more than the width.
template <class T>
inline Vec<T> load_some(const T *p, int64_t n) {
  if (n >= Simd<T>::width) return load(p);
  Vec<T> v = {};
  if (n > 0) memcpy(&v, p, (size_t)n * sizeof(T));
  return v;
}

template <class T>
inline void store_some(T *p, Vec<T> v, int64_t n) {
  if (n >= Simd<T>::width) {
    store(p, v);
  } else if (n > 0) {
    memcpy(p, &v, (size_t)n * sizeof(T));
  }
}

// x - 0 is x for every x, so this is one broadcast instruction (0 + x would be an addition: it changes -0).
template <class T>
inline Vec<T> broadcast(T x) {
  return x - Vec<T>{};
}

template <class T>
inline T sum_lanes(Vec<T> v) {
  T s = 0;
  for (int i = 0; i < Simd<T>::width; ++i) s += v[i];
  return s;
}

// 2^n and exp(r) - 1 with x = n ln 2 + r, |r| <= ln 2 / 2, for x <= 0. A NaN stays a NaN in r.
template <class T>
struct Reduced {
  Vec<T> scale, minus_one;
};

template <class T>
inline Reduced<T> reduce_exp(Vec<T> x) {
  typedef Simd<T> S;
  x = x < S::lowest ? broadcast(S::lowest) : x;
  const Vec<T> shifted = x * S::log2e + S::magic;
  const Vec<T> n = shifted - S::magic;
  Vec<T> r = x - n * S::ln2_hi;
  r = r - n * S::ln2_lo;
  // Taylor series of exp(r) - 1: the first term left out is below 6e-9 (float) and 4e-18 (double) of the result.
  constexpr T inverse_factorial[] = {
      T(1),         T(1) / 2,      T(1) / 6,       T(1) / 24,       T(1) / 120,       T(1) / 720,        T(1) / 5040,
      T(1) / 40320, T(1) / 362880, T(1) / 3628800, T(1) / 39916800, T(1) / 479001600, T(1) / 6227020800,
  };
  // Two terms at a time: a sum of fewer steps that wait for one another.
  const Vec<T> square = r * r;
  Vec<T> p = inverse_factorial[S::degree - 1] * r + inverse_factorial[S::degree - 2];
  for (int i = S::degree - 4; i >= 1; i -= 2) p = p * square + (inverse_factorial[i + 1] * r + inverse_factorial[i]);
  p = p * square + r;
  IVec<T> bits;
  memcpy(&bits, &shifted, sizeof bits);
  const Vec<T> magic = broadcast(S::magic);
  IVec<T> magic_bits;
  memcpy(&magic_bits, &magic, sizeof magic_bits);
  bits = (bits - magic_bits + S::bias) << S::mantissa;
  Vec<T> scale;
  memcpy(&scale, &bits, sizeof scale);
  return {scale, p};
}

// 1 / (1 + exp(-x)), by exp of a non-positive argument on both sides: no overflow, and small values keep their digits.
template <class T>
inline Vec<T> sigmoid(Vec<T> x) {
  const Vec<T> minus_abs = x > 0 ? -x : x;
  const Reduced<T> e = reduce_exp<T>(minus_abs);
  const Vec<T> small = e.scale + e.scale * e.minus_one;
  const Vec<T> inverse = T(1) / (small + T(1));
  return x > 0 ? inverse : small * inverse;
}

// -expm1(-2|x|) / (2 + expm1(-2|x|)), with the sign of x: accurate near zero too.
template <class T>
inline Vec<T> hyperbolic_tangent(Vec<T> x) {
  const Vec<T> minus_abs = x > 0 ? -x : x;
  const Reduced<T> e = reduce_exp<T>(minus_abs + minus_abs);
  const Vec<T> m = e.scale * e.minus_one + (e.scale - T(1));
  const Vec<T> t = m / (m + T(2));
  return x > 0 ? -t : t;
}

#if defined(__clang__)
// GCC's __builtin_shuffle, which clang lacks: it sees through this, once the loops around it are unrolled.
template <class V, class Lanes>
inline V __builtin_shuffle(V a, V b, Lanes lanes) {
  constexpr int W = sizeof(V) / sizeof(a[0]);
  V v;
  for (int i = 0; i < W; ++i) v[i] = lanes[i] < W ? a[lanes[i]] : b[lanes[i] - W];
  return v;
}
#endif

// Transpose width x width values held as rows: each round deals rows i and i + width/2 together, and log2(width) rounds
// rotate the bits of (row, column) by half their number.
template <class T>
inline void transpose(Vec<T> (&rows)[Simd<T>::width]) {
  constexpr int W = Simd<T>::width;
  IVec<T> low, high;
  for (int i = 0; i < W; ++i) {
    low[i] = i / 2 + (i % 2) * W;
    high[i] = W / 2 + i / 2 + (i % 2) * W;
  }
  Vec<T> next[W];
  for (int round = 1; round < W; round *= 2) {
    for (int i = 0; i < W / 2; ++i) {
      next[2 * i] = __builtin_shuffle(rows[i], rows[i + W / 2], low);
      next[2 * i + 1] = __builtin_shuffle(rows[i], rows[i + W / 2], high);
    }
    for (int i = 0; i < W; ++i) rows[i] = next[i];
  }
}

}  // namespace
