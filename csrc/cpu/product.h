// Packed small matrix products: the only inner loops that matter. See docs/architecture.md.
//
// A panel is up to kPanel vectors wide and stored [k][vector][lane], so a product streams it linearly. The order of the
// additions into one result depends on k alone, never on how many rows share the tile: a row's result is the same, bit
// for bit, whatever its company.
#pragma once

#include "simd.h"

namespace {

template <int N>
struct Int {
  static constexpr int value = N;
};

// f(Int<n>()) for a run-time n in 1..kRows
template <class F>
inline void with_rows(long n, F f) {
  switch (n) {
    case 1: return f(Int<1>());
    case 2: return f(Int<2>());
    case 3: return f(Int<3>());
    case 4: return f(Int<4>());
#if defined(__AVX512F__)
    case 5: return f(Int<5>());
    case 6: return f(Int<6>());
    case 7: return f(Int<7>());
    case 8: return f(Int<8>());
#endif
  }
}

// f(Int<n>()) for a run-time n in 1..kPanel
template <class F>
inline void with_vectors(long n, F f) {
  switch (n) {
    case 1: return f(Int<1>());
    case 2: return f(Int<2>());
    case 3: return f(Int<3>());
  }
}

// Cut n rows into groups of at most kRows that differ by at most one: f(first, Int<size>()).
template <class F>
inline void for_row_groups(long n, F f) {
  const long groups = (n + kRows - 1) / kRows;
  for (long g = 0, first = 0; g < groups; ++g) {
    const long size = n / groups + (g < n % groups);
    with_rows(size, [&](auto rows) { f(first, rows); });
    first += size;
  }
}

// How `columns` are cut into panels: sizes differ by at most one vector.
struct Panels {
  long vectors, count;

  Panels(long columns, long width) : vectors((columns + width - 1) / width), count((vectors + kPanel - 1) / kPanel) {}
  long first(long p) const {
    const long extra = vectors % count;
    return p * (vectors / count) + (p < extra ? p : extra);
  }
  long size(long p) const { return vectors / count + (p < vectors % count); }
};

// s[i][j] += sum_k a[i][k] * panel[k][j]
template <class T, int R, int NV>
inline __attribute__((always_inline)) void product(Vec<T> (&s)[R][NV], const T *const *rows, const T *panel, long K) {
  constexpr int W = Simd<T>::width;
  const T *a[R];
  for (int i = 0; i < R; ++i) a[i] = rows[i];
  for (long k = 0; k < K; ++k, panel += NV * W) {
    Vec<T> b[NV];
    for (int j = 0; j < NV; ++j) b[j] = load(panel + j * W);
    for (int i = 0; i < R; ++i) {
      const Vec<T> v = broadcast(a[i][k]);
      for (int j = 0; j < NV; ++j) s[i][j] += v * b[j];
    }
  }
}

// s[i][j] += sum_k a[k][i] * panel[k][j], a packed with kRows values per k
template <class T, int R, int NV>
inline __attribute__((always_inline)) void outer_product(Vec<T> (&s)[R][NV], const T *a, const T *panel, long K) {
  constexpr int W = Simd<T>::width;
  for (long k = 0; k < K; ++k, a += kRows, panel += NV * W) {
    Vec<T> b[NV];
    for (int j = 0; j < NV; ++j) b[j] = load(panel + j * W);
    for (int i = 0; i < R; ++i) {
      const Vec<T> v = broadcast(a[i]);
      for (int j = 0; j < NV; ++j) s[i][j] += v * b[j];
    }
  }
}

// Pack the transpose of a block of w [3H, K]: rows gate * H + first .. + width of the three gates become the lanes of
// panel [k][gate][lane]; lanes at or past H are zero.
template <class T>
inline void pack_gate_block(T *panel, const T *w, long H, long K, long first) {
  constexpr int W = Simd<T>::width;
  const long lanes = H - first < W ? H - first : W;
  for (int gate = 0; gate < 3; ++gate) {
    const T *block = w + (gate * H + first) * K;
    for (long k = 0; k < K; k += W) {
      const long n = K - k < W ? K - k : W;
      Vec<T> rows[W];
      for (int i = 0; i < W; ++i) rows[i] = i < lanes ? load_some(block + i * K + k, n) : Vec<T>{};
      transpose<T>(rows);
      for (long i = 0; i < n; ++i) store(panel + ((k + i) * 3 + gate) * W, rows[i]);
    }
  }
}

// Copy one row of a [K, columns] matrix into every panel at position k; a null row packs zeros.
template <class T>
inline void pack_row(T *packed, const Panels &panels, const T *row, long columns, long k, long K) {
  constexpr int W = Simd<T>::width;
  for (long p = 0; p < panels.count; ++p) {
    const long first = panels.first(p), size = panels.size(p);
    T *out = packed + (first * K + k * size) * W;
    for (long j = 0; j < size; ++j) {
      const long column = (first + j) * W;
      store(out + j * W, row ? load_some(row + column, columns - column) : Vec<T>{});
    }
  }
}

// sum_i a[i] * b[i] in a fixed order
template <class T>
inline T dot(const T *a, const T *b, long n) {
  constexpr int W = Simd<T>::width;
  Vec<T> s = {};
  long i = 0;
  for (; i + W <= n; i += W) s += load(a + i) * load(b + i);
  s += load_some(a + i, n - i) * load_some(b + i, n - i);
  return sum_lanes<T>(s);
}

}  // namespace
