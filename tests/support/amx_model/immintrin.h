// In place of the compiler's <immintrin.h>: a model, in plain C++, of the instructions that the kernels of bfloat16 use by
// name. The kernels' own text compiles against it (tests/support/amx_model.py), so it runs on any processor.
//
// Tiles follow the description of AMX in Intel's Software Developer's Manual: what LDTILECFG refuses, what a product of tiles
// demands of the shapes, what is zeroed, in which order a product is summed. A broken rule is noted, and the tests ask for it.
#pragma once

#include <math.h>
#include <stdint.h>
#include <string.h>

#include <atomic>

typedef float __m512 __attribute__((vector_size(64)));
typedef long long __m512i __attribute__((vector_size(64)));
typedef short __m512bh __attribute__((vector_size(64)));
typedef short __m256bh __attribute__((vector_size(32)));
typedef double __m512d __attribute__((vector_size(64)));
typedef uint16_t __mmask16;
typedef uint8_t __mmask8;

namespace flow_model {

inline std::atomic<const char *> broken{nullptr};  // the first rule that was broken
inline std::atomic<int64_t> products{0};           // of tiles
inline std::atomic<int64_t> configured{0};         // threads whose tiles are in use

inline void demand(bool kept, const char *rule) {
  const char *none = nullptr;
  if (!kept) broken.compare_exchange_strong(none, rule);
}

// Denormals count as zeros, on the way in and out.
inline float flushed(float x) { return fabsf(x) < 1.17549435e-38f ? copysignf(0, x) : x; }

inline float widened(uint16_t half) {
  const uint32_t bits = (uint32_t)half << 16;
  float x;
  memcpy(&x, &bits, sizeof x);
  return flushed(x);
}

inline uint16_t narrowed(float x) {
  uint32_t bits;
  x = flushed(x);
  memcpy(&bits, &x, sizeof bits);
  return (uint16_t)((x != x ? bits | 0x400000 : bits + 0x7fff + ((bits >> 16) & 1)) >> 16);
}

inline float multiplied(float sum, uint16_t a, uint16_t b) {
  return flushed(__builtin_fmaf(widened(a), widened(b), flushed(sum)));
}

constexpr int kTiles = 8, kMostRows = 16, kMostBytes = 64;

struct Tile {
  int rows = 0, bytes = 0;
  unsigned char memory[kMostRows][kMostBytes];

  uint16_t half(int row, int at) const {
    uint16_t bits;
    memcpy(&bits, memory[row] + 2 * at, sizeof bits);
    return bits;
  }
  float number(int row, int at) const {
    float x;
    memcpy(&x, memory[row] + 4 * at, sizeof x);
    return x;
  }
  void set(int row, int at, float x) { memcpy(memory[row] + 4 * at, &x, sizeof x); }
  void clear() { memset(memory, 0, sizeof memory); }
};

struct State {
  bool on = false;
  Tile tiles[kTiles];
};
inline thread_local State state;

inline Tile &tile(int n) {
  demand(n >= 0 && n < kTiles, "there are eight tiles");
  demand(state.on, "a tile is used without a configuration");
  Tile &t = state.tiles[n & 7];
  demand(!state.on || (t.rows && t.bytes), "a tile is used that the configuration leaves out");
  return t;
}

}  // namespace flow_model

inline void _tile_loadconfig(const void *config) {
  using namespace flow_model;
  unsigned char c[64];
  memcpy(c, config, sizeof c);
  demand(!state.on, "tiles are configured again before they were released");
  demand(c[0] == 1, "the palette of eight tiles is number 1");
  demand(c[1] == 0, "no product was interrupted");
  for (int i = 2; i < 16; ++i) demand(!c[i], "reserved bytes of the configuration are zero");
  for (int n = 0; n < 16; ++n) {
    uint16_t bytes;
    memcpy(&bytes, c + 16 + 2 * n, sizeof bytes);
    const int rows = c[48 + n];
    demand(n < kTiles || (!bytes && !rows), "there are eight tiles to configure");
    demand(rows <= kMostRows && bytes <= kMostBytes, "a tile has at most 16 rows of 64 bytes");
    demand(!rows == !bytes, "a tile has rows and bytes, or neither");
    if (n < kTiles) state.tiles[n].rows = rows, state.tiles[n].bytes = bytes, state.tiles[n].clear();
  }
  if (!state.on) ++configured;
  state.on = true;
}

inline void _tile_release() {
  using namespace flow_model;
  demand(state.on, "tiles are released that were not configured");
  if (state.on) --configured;
  state = State();
}

inline void _tile_zero(int n) { flow_model::tile(n).clear(); }

inline void _tile_loadd(int n, const void *base, long stride) {
  flow_model::Tile &t = flow_model::tile(n);
  t.clear();
  for (int row = 0; row < t.rows; ++row)
    memcpy(t.memory[row], static_cast<const char *>(base) + row * stride, (size_t)t.bytes);
}

inline void _tile_stored(int n, void *base, long stride) {
  const flow_model::Tile &t = flow_model::tile(n);
  for (int row = 0; row < t.rows; ++row) memcpy(static_cast<char *>(base) + row * stride, t.memory[row], (size_t)t.bytes);
}

inline void _tile_dpbf16ps(int sum, int left, int right) {
  using namespace flow_model;
  Tile &c = tile(sum);
  const Tile &a = tile(left), &b = tile(right);
  demand(sum != left && sum != right && left != right, "the three tiles of a product are different ones");
  demand(a.bytes % 4 == 0 && b.bytes % 4 == 0 && c.bytes % 4 == 0, "a row of a product's tile is made of words");
  demand(c.rows == a.rows && c.bytes == b.bytes && a.bytes / 4 == b.rows, "the shapes of a product's tiles fit");
  ++products;
  for (int m = 0; m < a.rows; ++m) {
    float sums[2][kMostBytes / 4] = {};
    for (int k = 0; k < a.bytes / 4; ++k)
      for (int n = 0; n < c.bytes / 4; ++n)
        for (int i = 0; i < 2; ++i) sums[i][n] = multiplied(sums[i][n], a.half(m, 2 * k + i), b.half(k, 2 * n + i));
    for (int n = 0; n < c.bytes / 4; ++n)
      c.set(m, n, flushed(flushed(c.number(m, n)) + flushed(sums[0][n] + sums[1][n])));
  }
}

// Of AVX512_BF16 and AVX-512, what the kernels take beside tiles.

inline __m256bh _mm512_cvtneps_pbh(__m512 x) {
  __m256bh out;
  for (int i = 0; i < 16; ++i) out[i] = (short)flow_model::narrowed(x[i]);
  return out;
}

inline __m512bh _mm512_cvtne2ps_pbh(__m512 high, __m512 low) {
  __m512bh out;
  for (int i = 0; i < 16; ++i) out[i] = (short)flow_model::narrowed(low[i]), out[16 + i] = (short)flow_model::narrowed(high[i]);
  return out;
}

inline __m512 _mm512_dpbf16_ps(__m512 sum, __m512bh a, __m512bh b) {
  for (int i = 0; i < 16; ++i)
    for (int half = 1; half >= 0; --half)
      sum[i] = flow_model::multiplied(sum[i], (uint16_t)a[2 * i + half], (uint16_t)b[2 * i + half]);
  return sum;
}

inline __m512i _mm512_load_si512(const void *p) {
  __m512i out;
  memcpy(&out, p, sizeof out);
  return out;
}

inline __m512i _mm512_permutexvar_epi16(__m512i order, __m512i from) {
  uint16_t places[32], halves[32], out[32];
  memcpy(places, &order, sizeof places);
  memcpy(halves, &from, sizeof halves);
  for (int i = 0; i < 32; ++i) out[i] = halves[places[i] & 31];
  return _mm512_load_si512(out);
}

inline __m512 _mm512_maskz_loadu_ps(__mmask16 lanes, const void *p) {
  __m512 out = {};
  for (int i = 0; i < 16; ++i)
    if (lanes >> i & 1) {
      float x;
      memcpy(&x, static_cast<const char *>(p) + 4 * i, sizeof x);
      out[i] = x;
    }
  return out;
}

// Square roots of all lanes that a mask names; the others are 0. The steps of Adam are compiled beside the products.
inline __m512 _mm512_maskz_sqrt_ps(__mmask16 mask, __m512 v) {
  for (int i = 0; i < 16; ++i) v[i] = mask >> i & 1 ? sqrtf(v[i]) : 0;
  return v;
}

inline __m512d _mm512_maskz_sqrt_pd(__mmask8 mask, __m512d v) {
  for (int i = 0; i < 8; ++i) v[i] = mask >> i & 1 ? sqrt(v[i]) : 0;
  return v;
}
