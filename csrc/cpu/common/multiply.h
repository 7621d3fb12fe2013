// Matrix products around product.h: panels packed from rows or from their transpose, and the loops over a whole result.
#pragma once

#include "product.h"

namespace {

// Elements that a packed operand with K words a column takes.
inline int64_t packed_size(const Panels &panels, int64_t width, int64_t K) { return panels.vectors * width * K; }

// Rows row(0) .. row(n - 1) of K numbers each become columns: panel [word][lane = row]; lanes at or past n are zero. Every row is
// multiplied by scale(row).
template <class F, class Row, class Scale>
inline void pack_transposed(Real<F> *packed, const Panels &panels, int64_t n, int64_t K, Row row, Scale scale) {
  using T = Real<F>;
  constexpr int64_t W = Simd<T>::width;
  const int64_t all = words<F>(K);
  for (int64_t p = 0; p < panels.count; ++p) {
    const int64_t first = panels.first(p), size = panels.size(p);
    T *panel = packed + first * all * W;
    for (int64_t j = 0; j < size; ++j)
      for (int64_t k = 0; k < all; k += W) {
        Vec<T> block[W];
        for (int64_t i = 0; i < W; ++i) {
          const int64_t r = (first + j) * W + i, at = k * F::group;
          block[i] = r < n ? scaled_words<F>(row(r) + at, K - at, scale(r)) : Vec<T>{};
        }
        transpose<T>(block);
        for (int64_t i = 0; i < W && k + i < all; ++i) store(panel + ((k + i) * size + j) * W, block[i]);
      }
  }
}

// Rows row(0) .. row(K - 1) of `columns` numbers as they are: panel [word][lane = column]; lanes at or past `columns` are zero.
template <class F, class Row, class Scale>
inline void pack_straight(Real<F> *packed, const Panels &panels, int64_t columns, int64_t K, Row row, Scale scale) {
  using T = Real<F>;
  constexpr int64_t W = Simd<T>::width;
  const int64_t all = words<F>(K);
  for (int64_t p = 0; p < panels.count; ++p) {
    const int64_t first = panels.first(p), size = panels.size(p);
    T *panel = packed + first * all * W;
    for (int64_t k = 0; k < all; ++k) {
      const int64_t one = k * F::group, other = one + 1;
      const bool two = F::group == 2 && other < K;
      const T *low = row(one), *high = two ? row(other) : nullptr;
      const T of_low = scale(one), of_high = two ? scale(other) : T(0);
      for (int64_t j = 0; j < size; ++j) {
        const int64_t column = (first + j) * W;
        store(panel + (k * size + j) * W,
              scaled_zip<F>(low + column, two ? high + column : nullptr, columns - column, of_low, of_high));
      }
    }
  }
}

// Rows of K numbers as words, each at `step` words behind the one before. Where a word has one element: as they lie.
template <class F, class Row>
inline auto rows_of_words(Real<F> *copies, int64_t step, int64_t n, int64_t K, Row row) {
  constexpr int64_t W = Simd<Real<F>>::width;
  if constexpr (F::group == 1) {
    return row;
  } else {
    for (int64_t i = 0; i < n; ++i)
      for (int64_t k = 0; k < words<F>(K); k += W)
        store(copies + i * step + k, scaled_words<F>(row(i) + k * F::group, K - k * F::group, 1));
    return [copies, step](int64_t i) -> const Real<F> * { return copies + i * step; };
  }
}

// As rows_by_panel for every panel, its first vector the last argument of begin and end: s[i][j] += sum_k row(m + i)[k] *
// panel[k][j] over K words.
template <class F, int64_t Run = 0, class Row, class Begin, class End>
inline void multiply(int64_t M, int64_t K, Row row, const Real<F> *packed, const Panels &panels, Begin begin, End end) {
  using T = Real<F>;
  for (int64_t p = 0; p < panels.count; ++p) {
    const int64_t vector = panels.first(p);
    const T *panel = packed + vector * K * Simd<T>::width;
    with_vectors(panels.size(p), [&](auto vectors) {
      rows_by_panel<F, decltype(vectors)::value, Run>(
          M, 1, K, [&](int, int64_t m) { return row(m); }, [&](int) { return panel; },
          [&](auto &s, int64_t m) { begin(s, m, vector); }, [&](auto &s, int64_t m) { end(s, m, vector); });
    });
  }
}

// Words that multiply_columns takes in `turned`.
template <class F>
inline int64_t turned_words(int64_t M, int64_t K) {
  constexpr int64_t W = Simd<Real<F>>::width;
  return F::tiles ? M * ((K + W - 1) / W * W) : 0;
}

// As multiply, where row m + i has its numbers a[k * step + m + i] below one another, in whole vectors.
// For tiles they are put into rows first, in `turned`.
template <class F, class Begin, class End>
inline void multiply_columns(int64_t M, int64_t K, const Real<F> *a, int64_t step, const Real<F> *packed, const Panels &panels,
                             [[maybe_unused]] Real<F> *turned, Begin begin, End end) {
  using T = Real<F>;
  constexpr int64_t W = Simd<T>::width;
  if constexpr (F::tiles) {
    const int64_t length = turned_words<F>(1, K);
    for (int64_t m = 0; m < M; m += W)
      for (int64_t k = 0; k < K; k += W) {
        Vec<T> block[W];
        for (int64_t i = 0; i < W; ++i) block[i] = k + i < K ? load(a + (k + i) * step + m) : Vec<T>{};
        transpose<T>(block);
        for (int64_t i = 0; i < W && m + i < M; ++i) store(turned + (m + i) * length + k, block[i]);
      }
    multiply<F>(M, K, [&](int64_t m) -> const T * { return turned + m * length; }, packed, panels, begin, end);
  } else {
    for (int64_t p = 0; p < panels.count; ++p)
      with_vectors(panels.size(p), [&](auto vectors) {
        constexpr int NV = decltype(vectors)::value;
        for_row_groups(M, [&](int64_t m, auto size) {
          constexpr int R = decltype(size)::value;
          Vec<T> s[R][NV];
          begin(s, m, panels.first(p));
          const T *column = a + m, *panel = packed + panels.first(p) * K * W;
          for (int64_t k = 0; k < K; ++k, column += step, panel += NV * W) {
            Vec<T> b[NV];
            for (int j = 0; j < NV; ++j) b[j] = load(panel + j * W);
            for (int i = 0; i < R; ++i) {
              const Vec<T> x = broadcast_word<F>(column + i);
              for (int j = 0; j < NV; ++j) multiply_add<F>(s[i][j], x, b[j]);
            }
          }
          end(s, m, panels.first(p));
        });
      });
  }
}

// Sums that start at zero
struct Zero {
  template <class S>
  void operator()(S &s, int64_t, int64_t) const {
    memset(&s, 0, sizeof s);
  }
};

}  // namespace
