// Packed small matrix products: the only inner loops that matter. See docs/cpu-kernels.md.
//
// A panel is up to kPanel vectors wide and stored [k][vector][lane], so a product streams it linearly; k counts words
// (formats.h). The order of the additions into one result depends on k alone, never on how many rows share the tile: a row's
// result is the same, bit for bit, whatever its company.
#pragma once

#include "tiles.h"

namespace {

template <int N>
struct Int {
  static constexpr int value = N;
};

// f(Int<n>()) for a run-time n in 1..kRows
template <class F>
inline void with_rows(int64_t n, F f) {
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
inline void with_vectors(int64_t n, F f) {
  switch (n) {
    case 1: return f(Int<1>());
    case 2: return f(Int<2>());
    case 3: return f(Int<3>());
  }
}

// Cut n rows into groups of at most kRows that differ by at most one: f(first, Int<size>()).
template <class F>
inline void for_row_groups(int64_t n, F f) {
  const int64_t groups = (n + kRows - 1) / kRows;
  for (int64_t g = 0, first = 0; g < groups; ++g) {
    const int64_t size = n / groups + (g < n % groups);
    with_rows(size, [&](auto rows) { f(first, rows); });
    first += size;
  }
}

// How `columns` are cut into panels: sizes differ by at most one vector.
struct Panels {
  int64_t vectors, count;

  Panels(int64_t columns, int64_t width) : vectors((columns + width - 1) / width), count((vectors + kPanel - 1) / kPanel) {}
  int64_t first(int64_t p) const {
    const int64_t extra = vectors % count;
    return p * (vectors / count) + (p < extra ? p : extra);
  }
  int64_t size(int64_t p) const { return vectors / count + (p < vectors % count); }
};

// s[p][i][j] += sum_k a[i][k] * panels[p][k][j] for P panels side by side: with few rows, one panel leaves the multipliers
// waiting for their own results.
template <class F, int P, int R, int NV>
inline __attribute__((always_inline)) void product(Vec<Real<F>> (&s)[P][R][NV], const Real<F> *const *rows,
                                                   const Real<F> *const (&panels)[P], int64_t K) {
  constexpr int W = Simd<Real<F>>::width;
  const Real<F> *a[R], *b[P];
  for (int i = 0; i < R; ++i) a[i] = rows[i];
  for (int p = 0; p < P; ++p) b[p] = panels[p];
  for (int64_t k = 0; k < K; ++k) {
    Vec<Real<F>> v[P][NV];
    for (int p = 0; p < P; ++p)
      for (int j = 0; j < NV; ++j) v[p][j] = load(b[p] + (k * NV + j) * W);
    for (int i = 0; i < R; ++i) {
      const Vec<Real<F>> x = broadcast_word<F>(a[i] + k);
      for (int p = 0; p < P; ++p)
        for (int j = 0; j < NV; ++j) multiply_add<F>(s[p][i][j], x, v[p][j]);
    }
  }
}

// For all M rows of a result as wide as a panel: begin(s, m) fills the sums of the rows from m on, end(s, m) takes them; in
// between s[i][j] += sum_k row(e, m + i)[k] * panel(e)[k][j] over K words, for e = 0 .. terms - 1 one after the other. With a
// Run, rows have gaps: after so many words as many of something else.
template <class F, int NV, int64_t Run = 0, class Row, class Panel, class Begin, class End>
inline __attribute__((always_inline)) void rows_by_panel(int64_t M, int terms, int64_t K, Row row, Panel panel, Begin begin,
                                                         End end) {
  if constexpr (F::tiles) {
    tiles_by_panel<NV, Run>(M, terms, K, row, panel, begin, end);
  } else {
    using T = Real<F>;
    for_row_groups(M, [&](int64_t m, auto size) {
      constexpr int R = decltype(size)::value;
      Vec<T> s[1][R][NV];
      begin(s[0], m);
      for (int e = 0; e < terms; ++e) {
        const T *rows[R], *const from[1] = {panel(e)};
        for (int i = 0; i < R; ++i) rows[i] = row(e, m + i);
        if constexpr (Run == 0) {
          product<F, 1, R, NV>(s, rows, from, K);
        } else {
          for (int64_t k = 0; k < K; k += Run) {
            const T *some[1] = {from[0] + k * NV * Simd<T>::width};
            product<F, 1, R, NV>(s, rows, some, K - k < Run ? K - k : Run);
            for (int i = 0; i < R; ++i) rows[i] += 2 * Run;
          }
        }
      }
      end(s[0], m);
    });
  }
}

// Words that are summed by themselves before they join a longer sum: of one long sum in float32 the later terms lose digits.
constexpr int64_t kRun = 64;

// As product, in runs of kRun words.
template <class F, int P, int R, int NV>
inline __attribute__((always_inline)) void product_in_runs(Vec<Real<F>> (&s)[P][R][NV], const Real<F> *const *rows,
                                                           const Real<F> *const (&panels)[P], int64_t K) {
  constexpr int W = Simd<Real<F>>::width;
  for (int64_t first = 0; first < K; first += kRun) {
    const Real<F> *a[R], *b[P];
    for (int i = 0; i < R; ++i) a[i] = rows[i] + first;
    for (int p = 0; p < P; ++p) b[p] = panels[p] + first * NV * W;
    Vec<Real<F>> run[P][R][NV] = {};
    product<F, P, R, NV>(run, a, b, K - first < kRun ? K - first : kRun);
    for (int p = 0; p < P; ++p)
      for (int i = 0; i < R; ++i)
        for (int j = 0; j < NV; ++j) s[p][i][j] += run[p][i][j];
  }
}

// s[i][j] += sum_k a[k][i] * panel[k][j], a packed with kRows words per k
template <class F, int R, int NV>
inline __attribute__((always_inline)) void outer_product(Vec<Real<F>> (&s)[R][NV], const Real<F> *a, const Real<F> *panel,
                                                         int64_t K) {
  constexpr int W = Simd<Real<F>>::width;
  for (int64_t k = 0; k < K; ++k, a += kRows, panel += NV * W) {
    Vec<Real<F>> b[NV];
    for (int j = 0; j < NV; ++j) b[j] = load(panel + j * W);
    for (int i = 0; i < R; ++i) {
      const Vec<Real<F>> x = broadcast_word<F>(a + i);
      for (int j = 0; j < NV; ++j) multiply_add<F>(s[i][j], x, b[j]);
    }
  }
}

// As outer_product, in runs of kRun words.
template <class F, int R, int NV>
inline __attribute__((always_inline)) void outer_product_in_runs(Vec<Real<F>> (&s)[R][NV], const Real<F> *a,
                                                                 const Real<F> *panel, int64_t K) {
  constexpr int W = Simd<Real<F>>::width;
  if (K <= kRun) return outer_product<F, R, NV>(s, a, panel, K);
  for (int64_t first = 0; first < K; first += kRun, a += kRun * kRows, panel += kRun * NV * W) {
    Vec<Real<F>> run[R][NV] = {};
    outer_product<F, R, NV>(run, a, panel, K - first < kRun ? K - first : kRun);
    for (int i = 0; i < R; ++i)
      for (int j = 0; j < NV; ++j) s[i][j] += run[i][j];
  }
}

// Pack the transpose of a block of w [3H, K]: rows gate * H + first .. + width of the three gates become the lanes of
// panel [word][gate][lane]; lanes at or past H are zero.
template <class F>
inline void pack_gate_block(Real<F> *panel, const Stored<F> *w, int64_t H, int64_t K, int64_t first) {
  constexpr int64_t W = Simd<Real<F>>::width;
  const int64_t lanes = H - first < W ? H - first : W, all = words<F>(K);
  for (int gate = 0; gate < 3; ++gate) {
    const Stored<F> *block = w + (gate * H + first) * K;
    for (int64_t k = 0; k < all; k += W) {
      const int64_t n = all - k < W ? all - k : W;
      Vec<Real<F>> rows[W];
      for (int i = 0; i < W; ++i)
        rows[i] = i < lanes ? load_words<F>(block + i * K + k * F::group, K - k * F::group) : Vec<Real<F>>{};
      transpose<Real<F>>(rows);
      for (int64_t i = 0; i < n; ++i) store(panel + ((k + i) * 3 + gate) * W, rows[i]);
    }
  }
}

// Copy rows of a [.., columns] matrix into every panel at word k of K: one row, or the two that make a word. A null row packs
// zeros.
template <class F>
inline void pack_rows(Real<F> *packed, const Panels &panels, const Stored<F> *first, const Stored<F> *second, int64_t columns,
                      int64_t k, int64_t K) {
  constexpr int64_t W = Simd<Real<F>>::width;
  for (int64_t p = 0; p < panels.count; ++p) {
    const int64_t from = panels.first(p), size = panels.size(p);
    Real<F> *out = packed + (from * K + k * size) * W;
    for (int64_t j = 0; j < size; ++j) {
      const int64_t column = (from + j) * W;
      store(out + j * W, zip<F>(first ? first + column : nullptr, second ? second + column : nullptr, columns - column));
    }
  }
}

// sum_i a[i] * b[i] in a fixed order
template <class A, class T>
inline T dot(const A *a, const T *b, int64_t n) {
  constexpr int W = Simd<T>::width;
  Vec<T> s = {};
  int64_t i = 0;
  for (; i + W <= n; i += W) s += load(a + i) * load(b + i);
  s += load_some(a + i, n - i) * load_some(b + i, n - i);
  return sum_lanes<T>(s);
}

// Rows of weights as they lie, w [.., K], and the R vectors that they multiply, each [K, zeros behind up to whole vectors].
template <class F, int R>
struct Side {
  const Stored<F> *w;
  const Real<F> *a[R];
  int64_t K;
};

// To each of the R sums: the products of `lanes` rows of every side with its vector, one row in each lane. Reads the weights
// once: for few rows of input that is all there is to gain, and packing would read them, write them and read them again.
template <class F, int R, int N>
inline void dots(Vec<Real<F>> (&s)[R], int64_t lanes, const Side<F, R> (&sides)[N]) {
  constexpr int64_t W = Simd<Real<F>>::width;
  constexpr int kAtOnce = 4;  // rows of weights, whose sums do not wait for one another
  Vec<Real<F>> sums[R][W] = {};
  for (int64_t j = 0; j < lanes; j += kAtOnce) {
    Vec<Real<F>> part[R][kAtOnce] = {};
    for (const Side<F, R> &side : sides) {
      const Stored<F> *row[kAtOnce];
      for (int64_t i = 0; i < kAtOnce; ++i) row[i] = side.w + (j + i < lanes ? j + i : j) * side.K;
      for (int64_t k = 0; k < side.K; k += W) {
        Vec<Real<F>> a[R];
        for (int r = 0; r < R; ++r) a[r] = load(side.a[r] + k);
        for (int i = 0; i < kAtOnce; ++i) {
          const Vec<Real<F>> w = side.K - k < W ? load_some(row[i] + k, side.K - k) : load(row[i] + k);
          for (int r = 0; r < R; ++r) part[r][i] += w * a[r];
        }
      }
    }
    for (int r = 0; r < R; ++r)
      for (int64_t i = 0; i < kAtOnce && j + i < W; ++i) sums[r][j + i] = part[r][i];
  }
  for (int r = 0; r < R; ++r) {
    transpose<Real<F>>(sums[r]);
    for (int i = 0; i < W; ++i) s[r] += sums[r][i];
  }
}

}  // namespace
