// Matrix products around product.h: panels packed from rows or from their transpose, and the loops over a whole result.
#pragma once

#include "product.h"

namespace {

// Elements that a packed operand with K words a column takes.
inline long packed_size(const Panels &panels, long width, long K) { return panels.vectors * width * K; }

// Rows row(0) .. row(n - 1) of K numbers each become columns: panel [word][lane = row]; lanes at or past n are zero. Every row is
// multiplied by scale(row).
template <class F, class Row, class Scale>
inline void pack_transposed(Real<F> *packed, const Panels &panels, long n, long K, Row row, Scale scale) {
  using T = Real<F>;
  constexpr long W = Simd<T>::width;
  const long all = words<F>(K);
  for (long p = 0; p < panels.count; ++p) {
    const long first = panels.first(p), size = panels.size(p);
    T *panel = packed + first * all * W;
    for (long j = 0; j < size; ++j)
      for (long k = 0; k < all; k += W) {
        Vec<T> block[W];
        for (long i = 0; i < W; ++i) {
          const long r = (first + j) * W + i, at = k * F::group;
          block[i] = r < n ? scaled_words<F>(row(r) + at, K - at, scale(r)) : Vec<T>{};
        }
        transpose<T>(block);
        for (long i = 0; i < W && k + i < all; ++i) store(panel + ((k + i) * size + j) * W, block[i]);
      }
  }
}

// Rows row(0) .. row(K - 1) of `columns` numbers as they are: panel [word][lane = column]; lanes at or past `columns` are zero.
template <class F, class Row, class Scale>
inline void pack_straight(Real<F> *packed, const Panels &panels, long columns, long K, Row row, Scale scale) {
  using T = Real<F>;
  constexpr long W = Simd<T>::width;
  const long all = words<F>(K);
  for (long p = 0; p < panels.count; ++p) {
    const long first = panels.first(p), size = panels.size(p);
    T *panel = packed + first * all * W;
    for (long k = 0; k < all; ++k) {
      const long one = k * F::group, other = one + 1;
      const bool two = F::group == 2 && other < K;
      const T *low = row(one), *high = two ? row(other) : nullptr;
      const T of_low = scale(one), of_high = two ? scale(other) : T(0);
      for (long j = 0; j < size; ++j) {
        const long column = (first + j) * W;
        store(panel + (k * size + j) * W,
              scaled_zip<F>(low + column, two ? high + column : nullptr, columns - column, of_low, of_high));
      }
    }
  }
}

// Rows of K numbers as words, each at `step` words behind the one before. Where a word has one element: as they lie.
template <class F, class Row>
inline auto rows_of_words(Real<F> *copies, long step, long n, long K, Row row) {
  constexpr long W = Simd<Real<F>>::width;
  if constexpr (F::group == 1) {
    return row;
  } else {
    for (long i = 0; i < n; ++i)
      for (long k = 0; k < words<F>(K); k += W)
        store(copies + i * step + k, scaled_words<F>(row(i) + k * F::group, K - k * F::group, 1));
    return [copies, step](long i) -> const Real<F> * { return copies + i * step; };
  }
}

// For every tile of a result of M rows and the panels' columns: begin(s, m, vector) fills its sums, end(s, m, vector) takes
// them; in between s[i][j] += sum_k row(m + i)[k] * panel[k][j], over K words. With a Run, rows have gaps: after so many words as
// many of something else.
template <class F, long Run = 0, class Row, class Begin, class End>
inline void multiply(long M, long K, Row row, const Real<F> *packed, const Panels &panels, Begin begin, End end) {
  using T = Real<F>;
  for (long p = 0; p < panels.count; ++p) {
    const T *panel[1] = {packed + panels.first(p) * K * Simd<T>::width};
    with_vectors(panels.size(p), [&](auto vectors) {
      constexpr int NV = decltype(vectors)::value;
      for_row_groups(M, [&](long m, auto size) {
        constexpr int R = decltype(size)::value;
        const T *rows[R];
        for (int i = 0; i < R; ++i) rows[i] = row(m + i);
        Vec<T> s[1][R][NV];
        begin(s[0], m, panels.first(p));
        if constexpr (Run == 0) {
          product<F, 1, R, NV>(s, rows, panel, K);
        } else {
          for (long k = 0; k < K; k += Run) {
            const T *some[1] = {panel[0] + k * NV * Simd<T>::width};
            product<F, 1, R, NV>(s, rows, some, K - k < Run ? K - k : Run);
            for (int i = 0; i < R; ++i) rows[i] += 2 * Run;
          }
        }
        end(s[0], m, panels.first(p));
      });
    });
  }
}

// As multiply, where row m + i has its numbers a[k * step + m + i] below one another.
template <class F, class Begin, class End>
inline void multiply_columns(long M, long K, const Real<F> *a, long step, const Real<F> *packed, const Panels &panels,
                             Begin begin, End end) {
  using T = Real<F>;
  constexpr long W = Simd<T>::width;
  for (long p = 0; p < panels.count; ++p)
    with_vectors(panels.size(p), [&](auto vectors) {
      constexpr int NV = decltype(vectors)::value;
      for_row_groups(M, [&](long m, auto size) {
        constexpr int R = decltype(size)::value;
        Vec<T> s[R][NV];
        begin(s, m, panels.first(p));
        const T *column = a + m, *panel = packed + panels.first(p) * K * W;
        for (long k = 0; k < K; ++k, column += step, panel += NV * W) {
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

// Sums that start at zero
struct Zero {
  template <class S>
  void operator()(S &s, long, long) const {
    memset(&s, 0, sizeof s);
  }
};

}  // namespace
