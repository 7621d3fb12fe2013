// Weight gradients of one client: sums over the valid rows of a chunk of (gate gradient) x (x or the state before the step).
//
// Rows are taken in time order, and every element of a result is summed by one thread in that order, so the numbers do not
// depend on how the work is divided.
#pragma once

#include "backward.h"

namespace {

constexpr int64_t kSome = 32;       // rows that are summed by themselves before they join the sum of a bias, which loses less
constexpr int64_t kFewWords = 4;    // of a sum: writing the result takes longer than computing it
constexpr int64_t kSomeWords = 32;  // of a sum: writing takes as long; then fewer rows than kRows are written at a time
constexpr int64_t kStreams = kRows / 2;
constexpr int64_t kNear = 256 << 10;  // bytes of packed x or h that stay near: then a result is written from front to back

// Gate rows of a block: of one micro-tile, or of two tiles; and blocks that share a panel of x or h while it is in cache.
template <class F>
constexpr int64_t kBlockRows = F::tiles ? 2 * kTile : kRows;
template <class F>
constexpr int64_t kGroup = F::tiles ? 4 : 8;

template <class F>
struct WeightScratch {
  Panels hidden, inputs;
  int64_t rows, hidden_pack, inputs_pack, gate_pack, gate_block, total;  // rows: of the largest chunk

  explicit WeightScratch(const Client<F> &c) : hidden(c.H, Simd<Real<F>>::width), inputs(c.I, Simd<Real<F>>::width) {
    constexpr int W = Simd<Real<F>>::width;
    rows = BackwardState<F>(c).rows;
    const int64_t packed_rows = words<F>(rows);
    gate_block = kBlockRows<F> * (F::tiles ? round_up(packed_rows) : packed_rows);
    hidden_pack = round_up(3 * rows * (int64_t)(sizeof(void *) / sizeof(Real<F>)));  // behind the tables of row pointers
    inputs_pack = hidden_pack + hidden.vectors * W * packed_rows;
    gate_pack = inputs_pack + inputs.vectors * W * packed_rows;
    total = round_up(gate_pack + kGroup<F> * gate_block);
  }
};

// kRows neighbours in a row of gate gradients
typedef uint16_t GateHalves __attribute__((vector_size(kRows * 2)));
typedef uint32_t GateBits __attribute__((vector_size(kRows * 4)));
typedef float GateFloats __attribute__((vector_size(kRows * 4)));

template <class F>
struct WeightGradients {
  using T = Real<F>;
  using S = Stored<F>;
  static constexpr int W = Simd<T>::width;
  const Client<F> &c;
  const BackwardState<F> cut;
  const WeightScratch<F> work;
  const Factor<F> *gate_grads;
  T *state, *scratch;
  const int64_t chunk;
  const Span span;
  const Factor<F> **grads;  // these three: one pointer a row of the chunk
  const S **x, **before;

  WeightGradients(const Client<F> &c, T *state, T *scratch, int64_t chunk)
      : c(c),
        cut(c),
        work(c),
        gate_grads(reinterpret_cast<const Factor<F> *>(state)),
        state(state),
        scratch(scratch),
        chunk(chunk),
        span(cut.chunks, c.steps, chunk) {
    grads = table<const Factor<F> *>(scratch, 0);
    x = table<const S *>(scratch, work.rows);
    before = table<const S *>(scratch, 2 * work.rows);
  }

  // How many rows a chunk has, and where it stands among those that have any.
  struct Chunk {
    int64_t rows;
    bool first, last;
  };

  // Part `part` of `parts` of the blocks of gate rows; part 0 also does the router.
  void run(int64_t part, int64_t parts) const {
    if (chunk >= cut.chunks.count) return;
    int64_t longest = 0;
    for (int64_t b = 0; b < c.batch; ++b) longest = c.length(b) > longest ? c.length(b) : longest;
    if (!longest && !part) return clear();
    if (span.first >= longest) return;
    const Chunk these = {gather(), span.end >= longest, span.first == 0};
    const int64_t n = these.rows, all = words<F>(n);
    bool any_ih = false, any_hh = false;
    for (int64_t e = 0; e < c.experts; ++e) any_ih = any_ih || c.dw_ih[e], any_hh = any_hh || c.dw_hh[e];
    for (int64_t k = 0; k < all; ++k) {
      const int64_t one = k * F::group, other = one + 1;
      if (any_hh)
        pack_rows<F>(scratch + work.hidden_pack, work.hidden, before[one], other < n ? before[other] : nullptr, c.H, k, all);
      if (any_ih) pack_rows<F>(scratch + work.inputs_pack, work.inputs, x[one], other < n ? x[other] : nullptr, c.I, k, all);
    }
    const int64_t blocks = (c.H + kBlockRows<F> - 1) / kBlockRows<F>, units = c.experts * 4 * blocks;
    const int64_t end = units * (part + 1) / parts;
    for (int64_t u = units * part / parts; u < end; u += kGroup<F>) {
      Block group[kGroup<F>];
      const int64_t count = end - u < kGroup<F> ? end - u : kGroup<F>;
      for (int64_t i = 0; i < count; ++i) {
        group[i] = block_of((u + i) / blocks / 4, (int)((u + i) / blocks % 4), (u + i) % blocks * kBlockRows<F>);
        T *packed = scratch + work.gate_pack + i * work.gate_block;
        if constexpr (F::tiles) {
          pack_gate_rows(group[i], packed, these);
        } else {
          pack_gates(group[i], packed, these);
        }
      }
      const auto add = [&](Target Block::*which, int64_t columns, int64_t packed, const Panels &panels) {
        if constexpr (F::tiles) {
          products_by_tiles(group, count, which, columns, scratch + packed, panels, these);
        } else {
          products(group, count, which, columns, scratch + packed, panels, these);
        }
      };
      add(&Block::hh, c.H, work.hidden_pack, work.hidden);
      add(&Block::ih, c.I, work.inputs_pack, work.inputs);
    }
    if (!part && (c.drouter_w || c.drouter_b)) router(these);
  }

  // The gradients of a client that has no sequences
  void clear() const {
    const auto zero = [](S *p, int64_t n) {
      if (p) memset(p, 0, (size_t)n * sizeof(S));
    };
    for (int64_t e = 0; e < c.experts; ++e) {
      zero(c.dw_ih[e], 3 * c.H * c.I), zero(c.dw_hh[e], 3 * c.H * c.H);
      zero(c.db_ih[e], 3 * c.H), zero(c.db_hh[e], 3 * c.H);
    }
    zero(c.drouter_w, 2 * (c.I + c.H)), zero(c.drouter_b, 2);
  }

  // The valid rows of the chunk in time order
  int64_t gather() const {
    int64_t n = 0;
    for (int64_t t = span.first; t < span.end; ++t)
      for (int64_t b = 0; b < c.batch; ++b) {
        if (t >= c.length(b)) continue;
        grads[n] = gate_grads + ((t - span.first) * c.batch + b) * c.gate_row();
        x[n] = c.x + c.row(t, b) * c.I;
        before[n++] = c.previous(t, b);
      }
    return n;
  }

  // A gradient going out (null: not wanted) and where its sums are kept from chunk to chunk: there too, or in `state`.
  struct Target {
    S *out;
    T *sum;
  };
  Target target(S *out, int64_t offset, int64_t own) const {
    if (!out) return {nullptr, nullptr};
    if constexpr (sizeof(S) == sizeof(T)) {
      return {out + offset, out + offset};
    } else {
      return {out + offset, state + own + offset};
    }
  }

  // Gate rows unit .. unit + m of one slot of one expert. Slot u has no part in W_ih, slot n none in W_hh.
  struct Block {
    int64_t m, at;
    Target ih, hh, bias[2];  // the biases of input and state
  };
  Block block_of(int64_t e, int slot, int64_t unit) const {
    const int64_t row = kGateOfSlot[slot] * c.H + unit, G = 3 * c.H, sums = cut.sums + e * G * (c.I + c.H);
    const int64_t bias_sums = cut.bias_sums + e * 2 * G;
    const bool ih = slot != kU, hh = slot != kN;
    return {c.H - unit < kBlockRows<F> ? c.H - unit : kBlockRows<F>,
            (e * 4 + slot) * c.padded + unit,
            target(ih ? c.dw_ih[e] : nullptr, row * c.I, sums + G * c.H),
            target(hh ? c.dw_hh[e] : nullptr, row * c.H, sums),
            {target(ih ? c.db_ih[e] : nullptr, row, bias_sums), target(hh ? c.db_hh[e] : nullptr, row, bias_sums + G)}};
  }

  // The block's gate gradients as [word][gate row], and their sums, the gradients of the biases.
  void pack_gates(const Block &block, T *a, Chunk chunk) const {
    const int64_t n = chunk.rows, at = block.at;
    T bias[kRows] = {};
    if constexpr (F::group == 1) {
      for (int64_t first = 0; first < n; first += kSome) {
        T some[kRows] = {};
        for (int64_t k = first; k < first + kSome && k < n; ++k, a += kRows)
          for (int i = 0; i < kRows; ++i) {
            const T g = grads[k][at + i];
            a[i] = g;
            some[i] += g;
          }
        for (int i = 0; i < kRows; ++i) bias[i] += some[i];
      }
    } else {
      GateFloats sums = {};
      for (int64_t k = 0; k < n; k += 2, a += kRows) {
        GateHalves low, high = {};
        memcpy(&low, grads[k] + at, sizeof low);
        if (k + 1 < n) memcpy(&high, grads[k + 1] + at, sizeof high);
        const GateBits first = __builtin_convertvector(low, GateBits), second = __builtin_convertvector(high, GateBits) << 16;
        const GateBits both = first | second, widened = first << 16;
        memcpy(a, &both, sizeof both);
        GateFloats x, y;
        memcpy(&x, &widened, sizeof x);
        memcpy(&y, &second, sizeof y);
        sums += x;
        sums += y;
      }
      for (int i = 0; i < kRows; ++i) bias[i] = sums[i];
    }
    add_biases(block, bias, chunk);
  }

  // The same for tiles, as [gate row][word], a row filled with zeros up to whole vectors.
  void pack_gate_rows(const Block &block, T *a, Chunk chunk) const {
    const int64_t n = chunk.rows, length = round_up(words<F>(n));
    T bias[kBlockRows<F>];
    for (int64_t unit = 0; unit < block.m; unit += W) {
      Vec<T> sums = {};
      for (int64_t k = 0; k < length; k += W) {
        Vec<T> rows[W];
        for (int64_t i = 0; i < W; ++i) {
          const int64_t one = 2 * (k + i), at = block.at + unit;
          const Factor<F> *low = one < n ? grads[one] + at : nullptr, *high = one + 1 < n ? grads[one + 1] + at : nullptr;
          rows[i] = zip<Brain>(low, high, W);
          if (low) sums += load(low);
          if (high) sums += load(high);
        }
        transpose<T>(rows);
        for (int64_t i = 0; i < W; ++i) store(a + (unit + i) * length + k, rows[i]);
      }
      store(bias + unit, sums);
    }
    add_biases(block, bias, chunk);
  }

  // The sums of the block's gate gradients, to the gradients of the biases.
  void add_biases(const Block &block, const T *bias, Chunk chunk) const {
    for (int64_t i = 0; i < block.m; ++i)
      for (const Target &t : block.bias) {
        if (!t.out) continue;
        const T sum = chunk.first ? bias[i] : t.sum[i] + bias[i];
        if (chunk.last) {
          put(t.out + i, sum);
        } else {
          t.sum[i] = sum;
        }
      }
  }

  // Of every block of a group: its gradient [m, columns] (+)= its packed gate rows, transposed, times packed [n, columns].
  void products(const Block *group, int64_t count, Target Block::*which, int64_t columns, const T *packed, const Panels &panels,
                Chunk chunk) const {
    const int64_t n = words<F>(chunk.rows);
    const bool front = n * panels.vectors * W * (int64_t)sizeof(T) <= kNear;
    for (int64_t outer = 0; outer < (front ? count : panels.count); ++outer) {
      if (front && n <= kSomeWords) {
        in_rows(group[outer], which, outer, columns, packed, panels, chunk);
        continue;
      }
      for (int64_t inner = 0; inner < (front ? panels.count : count); ++inner) {
        const int64_t p = front ? inner : outer, g = front ? outer : inner;
        tile(group[g], which, g, 0, kRows, p, columns, packed, panels, chunk);
      }
    }
  }

  void products_by_tiles(const Block *group, int64_t count, Target Block::*which, int64_t columns, const T *packed,
                         const Panels &panels, Chunk chunk) const {
    const int64_t n = words<F>(chunk.rows), length = round_up(n);
    for (int64_t p = 0; p < panels.count; ++p)
      with_vectors(panels.size(p), [&](auto vectors) {
        constexpr int NV = decltype(vectors)::value;
        const T *panel = packed + panels.first(p) * W * n;
        for (int64_t g = 0; g < count; ++g) {
          const Target target = group[g].*which;
          if (!target.out) continue;
          const T *gates = scratch + work.gate_pack + g * work.gate_block;
          rows_by_panel<F, NV>(
              group[g].m, 1, n, [&](int, int64_t i) { return gates + i * length; }, [&](int) { return panel; },
              [](auto &s, int64_t) { memset(&s, 0, sizeof s); },
              [&](auto &s, int64_t i) {
                for (int j = 0; j < NV; ++j) {
                  const int64_t column = (panels.first(p) + j) * W;
                  join(target, s[0][j], i * columns + column, columns - column, chunk);
                }
              });
        }
      });
  }

  // A block's gradient, few gate rows at a time.
  void in_rows(const Block &block, Target Block::*which, int64_t g, int64_t columns, const T *packed, const Panels &panels,
               Chunk chunk) const {
    const int64_t n = words<F>(chunk.rows);
    if (n <= kFewWords) {
      for (int64_t i = 0; i < block.m; ++i)
        one_row(block.*which, scratch + work.gate_pack + g * work.gate_block + i, n, packed, panels, i * columns, columns, chunk);
      return;
    }
    for (int64_t i = 0; i < block.m; i += kStreams)
      for (int64_t p = 0; p < panels.count; ++p) tile(block, which, g, i, kStreams, p, columns, packed, panels, chunk);
  }

  // At most `most` gate rows of a block from row `first` on, and the columns of one panel.
  void tile(const Block &block, Target Block::*which, int64_t g, int64_t first, int64_t most, int64_t p, int64_t columns,
            const T *packed, const Panels &panels, Chunk chunk) const {
    const Target target = block.*which;
    if (!target.out) return;
    const int64_t n = words<F>(chunk.rows);
    const T *gates = scratch + work.gate_pack + g * work.gate_block + first, *panel = packed + panels.first(p) * W * n;
    with_rows(block.m - first < most ? block.m - first : most, [&](auto rows) {
      with_vectors(panels.size(p), [&](auto vectors) {
        constexpr int R = decltype(rows)::value, NV = decltype(vectors)::value;
        const int64_t at = first * columns + panels.first(p) * W;
        for (int i = 0; i < R; ++i)  // comes from memory while the sum is computed
          for (int j = 0; j < NV; ++j) __builtin_prefetch(target.out + at + i * columns + j * W, 1);
        Vec<T> s[R][NV] = {};
        outer_product_in_runs<F, R, NV>(s, gates, panel, n);
        for (int i = 0; i < R; ++i)
          for (int j = 0; j < NV; ++j)
            join(target, s[i][j], at + i * columns + j * W, columns - (panels.first(p) + j) * W, chunk);
      });
    });
  }

  // The same for one gate row and all columns.
  void one_row(Target target, const T *gates, int64_t n, const T *panel, const Panels &panels, int64_t row, int64_t columns,
               Chunk chunk) const {
    if (!target.out) return;
    Vec<T> factors[kFewWords];
    for (int64_t k = 0; k < n; ++k) factors[k] = broadcast_word<F>(gates + k * kRows);
    int64_t column = 0;
    for (int64_t p = 0; p < panels.count; ++p) {
      const int64_t vectors = panels.size(p);
      for (int64_t j = 0; j < vectors; ++j, column += W) {
        Vec<T> s = {};
        for (int64_t k = 0; k < n; ++k) multiply_add<F>(s, factors[k], load(panel + (k * vectors + j) * W));
        join(target, s, row + column, columns - column, chunk);
      }
      panel += n * vectors * W;
    }
  }

  // A part of a gradient that the chunks before have begun
  void join(Target target, Vec<T> s, int64_t at, int64_t left, Chunk chunk) const {
    if (!chunk.first) s += load_some(target.sum + at, left);
    if (chunk.last) {
      store_some(target.out + at, s, left);
    } else {
      store_some(target.sum + at, s, left);
    }
  }

  // Row 0 gets the sum of the logit gradient times [x ; h], row 1 its negative.
  void router(Chunk chunk) const {
    T *sum = state + cut.router, *bias = sum + c.I + c.H;
    if (chunk.first) memset(sum, 0, (size_t)(c.I + c.H + 1) * sizeof(T));
    T some = 0;  // of a few rows: a sum of sums loses less
    for (int64_t k = 0; k < chunk.rows; ++k) {
      const T d = state[cut.logit + (grads[k] - gate_grads) / c.gate_row()];
      some += d;
      if (k % kSome == kSome - 1 || k == chunk.rows - 1) *bias += some, some = 0;
      for (int64_t i = 0; i < c.I; i += W)
        store_some(sum + i, load_some(sum + i, c.I - i) + d * load_some(x[k] + i, c.I - i), c.I - i);
      for (int64_t i = 0; i < c.H; i += W)
        store_some(sum + c.I + i, load_some(sum + c.I + i, c.H - i) + d * load_some(before[k] + i, c.H - i), c.H - i);
    }
    if (!chunk.last) return;
    for (int64_t i = 0; i < c.I + c.H && c.drouter_w; ++i) {
      put(c.drouter_w + i, sum[i]);
      put(c.drouter_w + c.I + c.H + i, -sum[i]);
    }
    if (c.drouter_b) {
      put(c.drouter_b, *bias);
      put(c.drouter_b + 1, -*bias);
    }
  }
};

}  // namespace
