// Products of many rows by AMX, whose registers are tiles: 16 rows of 16 words. Two by two tiles of sums run side by side.
//
// One tile product adds up 16 words by itself before it joins the sum, so long sums need no runs (product.h). As there, a row's
// result does not depend on the rows beside it. Where a tile would reach past a row, a sum or a panel, it gets zeros.
//
// Unverified on hardware: the tests run this text on a model of the instructions (tests/support/amx_model).
#pragma once

#include "formats.h"

namespace {

constexpr int64_t kTile = 16;  // rows of a tile, words of such a row, and lanes of a vector

// As rows_by_panel in product.h. There is one where the instructions are.
template <int NV, int64_t Run, class Row, class Panel, class Begin, class End>
inline void tiles_by_panel(int64_t M, int terms, int64_t K, Row row, Panel panel, Begin begin, End end);

#if defined(__AMX_TILE__) && defined(__AMX_BF16__)

// What LDTILECFG reads: all eight tiles are whole ones.
struct alignas(64) TileShapes {
  uint8_t palette, start_row, reserved[14];
  uint16_t bytes[16];
  uint8_t rows[16];
};
constexpr TileShapes kTileShapes = {1, 0, {}, {64, 64, 64, 64, 64, 64, 64, 64}, {16, 16, 16, 16, 16, 16, 16, 16}};

// The calling thread can use tiles while one of these lives.
struct TilesInUse {
  TilesInUse() { _tile_loadconfig(&kTileShapes); }
  ~TilesInUse() { _tile_release(); }
  TilesInUse(const TilesInUse &) = delete;
};

// GCC does not know that a tile is loaded from memory: what was stored there before has to be there.
inline void memory_is_read() { __asm__ volatile("" ::: "memory"); }

// The first n words behind p; zeros behind them.
inline Vec<float> first_words(const float *p, int64_t n) {
  const uint32_t lanes = n >= kTile ? 0xffff : n > 0 ? (1u << n) - 1 : 0;
  return (Vec<float>)_mm512_maskz_loadu_ps((__mmask16)lanes, p);
}

// What a tile is loaded from: 16 rows, so many bytes apart.
struct Operand {
  const float *words;
  int64_t step;
};

// Up to 16 rows of a left operand, as they lie where that is possible.
template <int64_t Run>
class LeftRows {
  const float *row_[kTile];
  int64_t count_;
  bool as_they_lie_;

 public:
  template <class Row>
  LeftRows(int64_t count, Row row)
      : count_(count < 0 ? 0 : count < kTile ? count : kTile), as_they_lie_(!Run && count >= kTile) {
    for (int64_t i = 0; i < count_; ++i) {
      row_[i] = row(i);
      if (i > 1 && row_[i] - row_[i - 1] != row_[1] - row_[0]) as_they_lie_ = false;
    }
  }

  // Words k .. k + 16 of those that are left
  Operand from(int64_t k, int64_t left, float *copy) const {
    if (as_they_lie_ && left >= kTile) return {row_[0] + k, (row_[1] - row_[0]) * (int64_t)sizeof(float)};
    for (int64_t i = 0; i < kTile; ++i) {
      if (i < count_) {
        copy_words(copy + i * kTile, row_[i], k, left);
      } else {
        store(copy + i * kTile, Vec<float>{});
      }
    }
    return {copy, kTile * (int64_t)sizeof(float)};
  }

 private:
  static void copy_words(float *to, const float *row, int64_t k, int64_t left) {
    if constexpr (Run == 0) {
      store(to, first_words(row + k, left));
    } else {
      static_assert(2 * Run == kTile, "a tile takes two runs");
      store(to, first_words(row + 2 * k, left < Run ? left : Run));
      const Vec<float> second = first_words(row + 2 * k + kTile, left - Run < Run ? left - Run : Run);
      memcpy(to + Run, &second, Run * sizeof(float));
    }
  }
};

// 16 words of the sums in tiles 0, 1 (and 2, 3 for the rows below): columns of the panel from b on.
template <bool Below, bool Beside>
inline void multiply_tiles(Operand above, Operand below, Operand b) {
  memory_is_read();
  _tile_loadd(4, above.words, above.step);
  _tile_loadd(6, b.words, b.step);
  _tile_dpbf16ps(0, 4, 6);
  if constexpr (Beside) {
    _tile_loadd(7, b.words + kTile, b.step);
    _tile_dpbf16ps(1, 4, 7);
  }
  if constexpr (Below) {
    _tile_loadd(5, below.words, below.step);
    _tile_dpbf16ps(2, 5, 6);
    if constexpr (Beside) _tile_dpbf16ps(3, 5, 7);
  }
}

template <bool B>
struct Flag {
  static constexpr bool value = B;
};

// A panel's words behind the last whole tile, with zeros up to one.
template <int NV>
struct PanelEnd {
  alignas(64) float words[kTile * NV * kTile];

  void set(const float *panel, int64_t K) {
    const int64_t whole = K / kTile * kTile * NV * kTile, left = K % kTile * NV * kTile;
    for (int64_t i = 0; i < kTile * NV * kTile; i += kTile) store(words + i, i < left ? load(panel + whole + i) : Vec<float>{});
  }
};

// The sums of up to 32 rows with one or two vectors of the panels, from vector j on.
template <bool Below, bool Beside, int NV, int Terms, int64_t Run, class Panel>
inline void sum_tiles(float *sums, int terms, int64_t K, const LeftRows<Run> (&above)[Terms],
                      const LeftRows<Run> (&below)[Terms], Panel panel, const PanelEnd<NV> *ends, int j) {
  constexpr int64_t kStep = NV * kTile * (int64_t)sizeof(float);
  alignas(64) float copies[2][kTile * kTile];
  _tile_zero(0);
  if constexpr (Beside) _tile_zero(1);
  if constexpr (Below) _tile_zero(2);
  if constexpr (Below && Beside) _tile_zero(3);
  for (int e = 0; e < terms; ++e)
    for (int64_t k = 0; k < K; k += kTile) {
      const float *b = K - k < kTile ? ends[e].words : panel(e) + k * NV * kTile;
      const Operand a = above[e].from(k, K - k, copies[0]);
      multiply_tiles<Below, Beside>(a, Below ? below[e].from(k, K - k, copies[1]) : a, {b + j * kTile, kStep});
    }
  float *to = sums + j * kTile;
  _tile_stored(0, to, kStep);
  if constexpr (Beside) _tile_stored(1, to + kTile, kStep);
  if constexpr (Below) _tile_stored(2, to + kTile * NV * kTile, kStep);
  if constexpr (Below && Beside) _tile_stored(3, to + kTile * NV * kTile + kTile, kStep);
}

template <int NV, int64_t Run, class Row, class Panel, class Begin, class End>
inline void tiles_by_panel(int64_t M, int terms, int64_t K, Row row, Panel panel, Begin begin, End end) {
  constexpr int kMostTerms = 2;
  PanelEnd<NV> ends[kMostTerms];
  if (K % kTile)
    for (int e = 0; e < terms; ++e) ends[e].set(panel(e), K);
  for (int64_t m = 0; m < M; m += 2 * kTile) {
    const auto rows_of = [&](int e, int64_t from) {
      return LeftRows<Run>(e < terms ? M - from : 0, [&](int64_t i) { return row(e, from + i); });
    };
    const LeftRows<Run> above[kMostTerms] = {rows_of(0, m), rows_of(1, m)};
    const LeftRows<Run> below[kMostTerms] = {rows_of(0, m + kTile), rows_of(1, m + kTile)};
    alignas(64) float sums[2 * kTile * NV * kTile];
    const auto across = [&](auto is_below) {
      constexpr bool kBelow = decltype(is_below)::value;
      if constexpr (NV > 1) sum_tiles<kBelow, true, NV>(sums, terms, K, above, below, panel, ends, 0);
      if constexpr (NV % 2) sum_tiles<kBelow, false, NV>(sums, terms, K, above, below, panel, ends, NV - 1);
    };
    M - m > kTile ? across(Flag<true>()) : across(Flag<false>());
    for (int64_t i = 0; i < 2 * kTile && m + i < M; ++i) {
      Vec<float> s[1][NV];
      begin(s, m + i);
      for (int j = 0; j < NV; ++j) s[0][j] += load(sums + (i * NV + j) * kTile);
      end(s, m + i);
    }
  }
}

#endif

// The state of tiles, in a kernel whose format multiplies by them.
struct NoTiles {};
template <bool Used>
struct TileState {
  using type = NoTiles;
};
#if defined(__AMX_TILE__) && defined(__AMX_BF16__)
template <>
struct TileState<true> {
  using type = TilesInUse;
};
#endif
template <class F>
using Tiles = typename TileState<F::tiles>::type;

}  // namespace
