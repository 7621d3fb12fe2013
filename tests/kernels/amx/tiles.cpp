// The tile loop alone, on the model of the instructions, under AddressSanitizer: every row, panel and result lies in memory of
// its own size, so a word too far is noticed. Then the model's rules, each broken once.
#include <stdio.h>

#include <memory>
#include <random>
#include <vector>

#include "../../../csrc/cpu/common/multiply.h"

namespace {

int failures = 0;
std::mt19937 generator(1);

void expect(bool ok, const char *what, long m, long k) {
  if (!ok) printf("FAILED %s: %ld rows, %ld words\n", what, m, k), ++failures;
}

// Numbers that bfloat16 holds, and their words
struct Numbers {
  std::unique_ptr<bf16[]> halves;
  explicit Numbers(long words) : halves(new bf16[2 * words]) {
    std::uniform_real_distribution<float> draw(-1, 1);
    for (long i = 0; i < 2 * words; ++i) put(&halves[i], draw(generator));
  }
  float *words() { return reinterpret_cast<float *>(halves.get()); }
};
double product_of(const float *a, const float *b) {
  const bf16 *x = reinterpret_cast<const bf16 *>(a), *y = reinterpret_cast<const bf16 *>(b);
  return (double)value(x[0]) * value(y[0]) + (double)value(x[1]) * value(y[1]);
}

// Rows in one piece, at equal distances, or each by itself; with a Run, in runs with gaps between them
template <int NV, long Run>
void rows(long M, int terms, long K, bool in_one_piece) {
  const auto place = [](long k) { return Run ? k / (Run ? Run : 1) * 2 * Run + k % (Run ? Run : 1) : k; };
  const long length = place(K - 1) + 1, step = length + 3;
  std::vector<Numbers> pieces, panels;
  for (int e = 0; e < terms; ++e) {
    if (in_one_piece) {
      pieces.emplace_back((M - 1) * step + length);
    } else {
      for (long m = 0; m < M; ++m) pieces.emplace_back(length);
    }
    panels.emplace_back(K * NV * kTile);
  }
  const auto row = [&](int e, long m) -> const float * {
    return in_one_piece ? pieces[e].words() + m * step : pieces[e * M + m].words();
  };
  std::vector<float> out(M * NV * kTile, NAN);
  std::vector<int> begun(M);
  rows_by_panel<Mixed, NV, Run>(
      M, terms, K, row, [&](int e) -> const float * { return panels[e].words(); },
      [&](auto &s, long m) {
        for (auto &one : s) {
          for (auto &v : one) v = broadcast((float)m);
          ++begun[m++];
        }
      },
      [&](auto &s, long m) {
        for (auto &one : s) {
          for (int j = 0; j < NV; ++j) store(&out[(m * NV + j) * kTile], one[j]);
          ++m;
        }
      });
  bool near = true;
  for (long m = 0; m < M; ++m) {
    near = near && begun[m] == 1;
    for (long column = 0; column < NV * kTile; ++column) {
      double sum = m, size = m;
      for (int e = 0; e < terms; ++e)
        for (long k = 0; k < K; ++k) {
          const double term = product_of(row(e, m) + place(k), panels[e].words() + k * NV * kTile + column);
          sum += term, size += fabs(term);
        }
      near = near && fabs(out[m * NV * kTile + column] - sum) <= 1e-6 * size;
    }
  }
  expect(near, Run ? "rows in runs" : in_one_piece ? "rows in one piece" : "rows by themselves", M, K);
}

void columns(long M, long K, long width) {
  const Panels panels(width, kTile);
  const long step = (M + kTile - 1) / kTile * kTile;
  Numbers a(K * step), packed(K * panels.vectors * kTile);
  std::unique_ptr<float[]> turned(new float[turned_words<Mixed>(M, K)]);
  std::vector<float> out(M * panels.vectors * kTile, NAN);
  multiply_columns<Mixed>(M, K, a.words(), step, packed.words(), panels, turned.get(), Zero(), [&](auto &s, long m, long vector) {
    for (auto &one : s) {
      long j = vector;
      for (auto &v : one) store(&out[(m * panels.vectors + j++) * kTile], v);
      ++m;
    }
  });
  bool near = true;
  for (long p = 0; p < panels.count; ++p)
    for (long m = 0; m < M; ++m)
      for (long column = 0; column < panels.size(p) * kTile; ++column) {
        double sum = 0, size = 0;
        for (long k = 0; k < K; ++k) {
          const float *b = packed.words() + panels.first(p) * K * kTile + k * panels.size(p) * kTile + column;
          const double term = product_of(a.words() + k * step + m, b);
          sum += term, size += fabs(term);
        }
        near = near && fabs(out[m * panels.vectors * kTile + panels.first(p) * kTile + column] - sum) <= 1e-6 * size;
      }
  expect(near, "columns", M, K);
}

template <int NV>
void all_rows(long M, long K) {
  for (int terms = 1; terms <= 2; ++terms)
    for (bool in_one_piece : {false, true}) rows<NV, 0>(M, terms, K, in_one_piece);
  rows<NV, kTile / 2>(M, 1, K, false);
}

// The model notes what `body` does wrong, and nothing before.
template <class Body>
void refused(const char *rule, Body body) {
  expect(!flow_model::broken, "no rule was broken before", 0, 0);
  body();
  const char *noted = flow_model::broken.exchange(nullptr);
  if (!noted || strcmp(noted, rule)) printf("FAILED '%s' was not noted, but '%s'\n", rule, noted ? noted : "nothing"), ++failures;
  flow_model::state = flow_model::State(), flow_model::configured = 0;
}

void rules() {
  float memory[256] = {};
  const auto with = [](auto change) {
    return [change] {
      TileShapes shapes = kTileShapes;
      change(shapes);
      _tile_loadconfig(&shapes);
    };
  };
  refused("a tile is used without a configuration", [&] { _tile_loadd(0, memory, 64); });
  refused("tiles are released that were not configured", [] { _tile_release(); });
  refused("the palette of eight tiles is number 1", with([](TileShapes &s) { s.palette = 2; }));
  refused("no product was interrupted", with([](TileShapes &s) { s.start_row = 1; }));
  refused("reserved bytes of the configuration are zero", with([](TileShapes &s) { s.reserved[13] = 1; }));
  refused("there are eight tiles to configure", with([](TileShapes &s) { s.rows[8] = s.bytes[8] = 16; }));
  refused("a tile has at most 16 rows of 64 bytes", with([](TileShapes &s) { s.rows[3] = 17; }));
  refused("a tile has at most 16 rows of 64 bytes", with([](TileShapes &s) { s.bytes[7] = 68; }));
  refused("a tile has rows and bytes, or neither", with([](TileShapes &s) { s.rows[3] = 0; }));
  refused("tiles are configured again before they were released", [] {
    _tile_loadconfig(&kTileShapes);
    _tile_loadconfig(&kTileShapes);
  });
  refused("there are eight tiles", [] {
    _tile_loadconfig(&kTileShapes);
    _tile_zero(8);
  });
  refused("a tile is used that the configuration leaves out", [&] {
    with([](TileShapes &s) { s.rows[3] = s.bytes[3] = 0; })();
    _tile_stored(3, memory, 64);
  });
  refused("the three tiles of a product are different ones", [] {
    _tile_loadconfig(&kTileShapes);
    _tile_dpbf16ps(0, 4, 4);
  });
  refused("a row of a product's tile is made of words", [] {
    TileShapes odd = kTileShapes;
    odd.bytes[4] = 62;
    _tile_loadconfig(&odd);
    _tile_dpbf16ps(0, 4, 6);
  });
  refused("the shapes of a product's tiles fit", [] {
    TileShapes short_one = kTileShapes;
    short_one.rows[6] = 15;
    _tile_loadconfig(&short_one);
    _tile_dpbf16ps(0, 4, 6);
  });
}

}  // namespace

int main() {
  {
    const Tiles<Mixed> tiles;
    for (long M : {1, 2, 15, 16, 17, 31, 32, 33, 50, 64})
      for (long K : {1, 2, 15, 16, 17, 24, 31, 32, 33, 50}) {
        all_rows<1>(M, K), all_rows<2>(M, K), all_rows<3>(M, K);
        columns(M, K, 16 * ((M + K) % 5) + 1 + K % 16);
      }
  }
  expect(!flow_model::broken && !flow_model::configured, flow_model::broken ? flow_model::broken.load() : "tiles released", 0, 0);
  printf("%ld products of tiles, ", (long)flow_model::products);
  rules();
  printf("%d failures\n", failures);
  return failures != 0;
}
