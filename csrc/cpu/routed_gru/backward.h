// Backward, chunk of time steps after chunk from the last to the first: a reverse scan per batch tile computes the
// gate gradients of the chunk's rows. Then weights.h adds their part to all weight gradients, as products over those
// rows. So gate gradients stay in cache and take no memory of the size of the batch. What nobody wants (frozen
// parameters, dx, dh0) is not computed.
//
// Where forward saved no gates, every chunk first computes those of its rows again: the states before them are known (y), so
// that is one product of many rows, not a scan.
#pragma once

#include "forward.h"

namespace {

template <class F>
inline bool wants_weights(const Client<F> &c) {
  bool any = c.drouter_w || c.drouter_b;
  for (int64_t e = 0; e < c.experts; ++e) any = any || c.dw_ih[e] || c.dw_hh[e] || c.db_ih[e] || c.db_hh[e];
  return any;
}

// Packed for backward: W_hh as [gate rows of both experts] x H (unless nothing is carried to a step before), W_ih as the same x I
// (only when dx is wanted), the router; and
// what forward packs where its gates are computed again.
template <class F>
struct BackwardPack {
  Panels hidden, inputs;
  int64_t run, hidden_words, input_words, ih, router, forward, total;  // in words; run: the three gates of one expert

  explicit BackwardPack(const Client<F> &c)
      : hidden(c.H, Simd<Real<F>>::width),
        inputs(c.I, Simd<Real<F>>::width),
        run(3 * c.padded / F::group),
        hidden_words(c.T_ > 1 || c.dh0 ? c.experts * run : 0),
        input_words(c.dx ? c.experts * run : 0) {
    ih = hidden.vectors * Simd<Real<F>>::width * hidden_words;
    router = round_up(ih + inputs.vectors * Simd<Real<F>>::width * input_words);
    forward = round_up(router + router_size(c));
    total = forward + (c.gates ? 0 : ForwardPack<F>(c, false).total);
  }
};

template <class F>
inline void pack_backward(Real<F> *packed, const Client<F> &c, int64_t part, int64_t parts) {
  const BackwardPack<F> layout(c);
  const int64_t all = layout.hidden_words || c.dx ? c.experts * layout.run : 0;
  for (int64_t k = all * part / parts; k < all * (part + 1) / parts; ++k) {
    const int64_t e = k / layout.run, gate = k * F::group / c.padded % 3, unit = k * F::group % c.padded;
    // gates r, z, u of a gate-gradient row multiply W_hh; n, r, z multiply W_ih
    const Stored<F> *hh = c.w_hh[e] + (kGateOfSlot[kR + gate] * c.H + unit) * c.H;
    const Stored<F> *ih = c.w_ih[e] + (kGateOfSlot[kN + gate] * c.H + unit) * c.I;
    const bool first = unit < c.H, second = unit + 1 < c.H;
    if (layout.hidden_words) pack_rows<F>(packed, layout.hidden, first ? hh : nullptr, second ? hh + c.H : nullptr, c.H, k, all);
    if (c.dx) pack_rows<F>(packed + layout.ih, layout.inputs, first ? ih : nullptr, second ? ih + c.I : nullptr, c.I, k, all);
  }
  if (!part && c.routed()) pack_router(packed + layout.router, c);
  if (!c.gates) pack_forward(packed + layout.forward, c, false, part, parts);
}

// How time is cut: chunk 0 is the last and runs first. Every chunk reads and writes all weight gradients once, so few are
// better; but a chunk's gate gradients should stay in a cache of the third level.
struct Chunks {
  int64_t steps, count;

  Chunks(int64_t steps_in_all, int64_t batch, int64_t row_bytes) {
    if (!steps_in_all) {  // a client that has no sequences
      steps = count = 1;
      return;
    }
    const int64_t fit = fitting(row_bytes), most = fit > batch ? fit / batch : 1;
    count = (steps_in_all + most - 1) / most;
    steps = (steps_in_all + count - 1) / count;
    count = (steps_in_all + steps - 1) / steps;
  }

  static int64_t fitting(int64_t row_bytes) {
    constexpr int64_t kBytes = 8 << 20, kMostRows = 1024;
    return kBytes / row_bytes < kMostRows ? kBytes / row_bytes : kMostRows;
  }
};

// Steps first .. end of one chunk.
struct Span {
  int64_t first, end;

  Span(const Chunks &chunks, int64_t steps_in_all, int64_t chunk) {
    first = (chunks.count - 1 - chunk) * chunks.steps;
    end = first + chunks.steps < steps_in_all ? first + chunks.steps : steps_in_all;
  }
};

// What a client keeps while its backward runs, in words. Of the running chunk it keeps the gate gradients, as
// factors, and the gradients of the router's logit difference, both by (step in chunk, sequence). The gradient of the
// state is carried from chunk to chunk. Gradients whose own type is too narrow to hold sums have sums here. The
// chunk's gates are kept where they were not saved.
template <class F>
struct BackwardState {
  Chunks chunks;
  int64_t rows;  // of the largest chunk; of ragged clients that of any of them, since the layout is one for all
  int64_t logit, carry, router, sums, bias_sums, gates, total;

  static int64_t row_bytes(const Client<F> &c) { return c.gate_row() * (int64_t)sizeof(Factor<F>); }

  explicit BackwardState(const Client<F> &c) : chunks(c.steps, c.batch, row_bytes(c)), rows(chunks.steps * c.B) {
    if (c.ragged) {
      const int64_t fit = Chunks::fitting(row_bytes(c)), most = fit > c.B ? fit : c.B;
      rows = most < c.T_ * c.B ? most : c.T_ * c.B;
    }
    logit = rows * c.gate_row() / F::group;
    carry = logit + round_up(rows);
    router = carry + c.B * c.padded;
    sums = router + round_up(c.I + c.H + 1);
    const bool own_sums = sizeof(Stored<F>) != sizeof(Real<F>) && (c.ragged || chunks.count > 1);
    bias_sums = sums + (own_sums ? c.experts * 3 * c.H * (c.I + c.H) : 0);
    gates = round_up(bias_sums + (own_sums ? c.experts * 6 * c.H : 0));
    total = gates + (c.gates ? 0 : rows * c.gate_row());
  }
};

template <class F>
struct BackwardTile {
  using T = Real<F>;
  using S = Stored<F>;
  static constexpr int W = Simd<T>::width;
  const Client<F> &c;
  const BackwardPack<F> layout;
  const BackwardState<F> cut;
  const T *packed;
  Factor<F> *gate_grads;
  T *logit_grads, *carry, *own_gates, *scratch;
  const Tile mine;
  const int64_t tile, chunk;
  const Span span;

  // Steps of a chunk, as many as the tables of row pointers have room for.
  static int64_t table_steps(const Client<F> &c) { return c.ragged ? c.T_ : BackwardState<F>(c).chunks.steps; }
  // One step's pointers, or, for dx, pointers to all rows of the chunk; and the logit gradients of a step.
  static int64_t tables(int64_t rows) { return round_up(2 * rows * (int64_t)(sizeof(void *) / sizeof(T))); }
  static int64_t scratch_size(const Client<F> &c, int64_t tile) {
    const int64_t scan = tables(tile * table_steps(c)) + round_up(tile);
    const int64_t again = c.gates ? 0 : 2 * tables(kAgain) + kAgain * (copied_words<F>(c.I) + copied_words<F>(c.H));
    return scan > again ? scan : again;
  }

  BackwardTile(const Client<F> &c, const T *packed, T *state, T *scratch, Tile mine, int64_t chunk)
      : c(c),
        layout(c),
        cut(c),
        packed(packed),
        gate_grads(reinterpret_cast<Factor<F> *>(state)),
        logit_grads(state + cut.logit),
        carry(state + cut.carry),
        own_gates(state + cut.gates),
        scratch(scratch),
        mine(mine),
        tile(mine.size),
        chunk(chunk),
        span(cut.chunks, c.steps, chunk) {}

  int64_t local(int64_t t, int64_t b) const { return (t - span.first) * c.batch + b; }

  void run() const {
    if (chunk >= cut.chunks.count) return;  // another client has more
    T *logit_grad = scratch + tables(tile * table_steps(c));
    const Factor<F> **grads = table<const Factor<F> *>(scratch, 0);
    T **carries = table<T *>(scratch, tile);
    if (!chunk) start();
    if (!c.gates) compute_gates();
    for (int64_t t = span.end - 1; t >= span.first; --t) {
      int64_t n = 0;
      for (int64_t i = 0; i < tile; ++i) {
        const int64_t b = mine[i];
        if (t >= c.length(b)) continue;
        T *mine = carry + b * c.padded;
        const int64_t at = local(t, b);
        Factor<F> *out = gate_grads + at * c.gate_row();
        logit_grad[n] = logit_grads[at] = c.gates ? cell(t, b, c.gates + c.row(t, b) * c.gate_row(), out, mine)
                                                  : cell(t, b, own_gates + at * c.gate_row(), out, mine);
        grads[n] = out;
        carries[n++] = mine;
      }
      if (t || c.dh0) recur(n, grads, carries, logit_grad);
    }
    if (c.dx) inputs();
    if (c.dx && !chunk) clear_inputs(c.steps, c.T_);
    if (span.first || !c.dh0) return;
    for (int64_t i = 0; i < tile; ++i)
      for (int64_t j = 0; j < c.H; j += W) store_some(c.dh0 + mine[i] * c.H + j, load(carry + mine[i] * c.padded + j), c.H - j);
  }

  void start() const {
    for (int64_t i = 0; i < tile; ++i) {
      T *mine = carry + this->mine[i] * c.padded;
      memset(mine, 0, (size_t)c.padded * sizeof(T));
      for (int64_t j = 0; j < c.H && c.dh_n; j += W) store(mine + j, load_some(c.dh_n + this->mine[i] * c.H + j, c.H - j));
    }
  }

  // The gates of the tile's rows in this chunk, as forward computed them, kAgain rows at a time.
  static constexpr int64_t kAgain = 64;
  void compute_gates() const {
    const ForwardPack<F> forward(c, false);
    const T *weights = packed + layout.forward;
    const T **x = table<const T *>(scratch, 0), **h = table<const T *>(scratch, kAgain);
    T **g = table<T *>(scratch, 2 * kAgain), *copies = scratch + 2 * tables(kAgain);
    const int64_t input_row = copied_words<F>(c.I), state_row = copied_words<F>(c.H);
    int64_t n = 0;
    const auto flush = [&] {
      project_rows(c, forward, weights, x, g, n);
      activate(forward, weights, h, g, n);
      n = 0;
    };
    for (int64_t t = span.first; t < span.end; ++t)
      for (int64_t i = 0; i < tile; ++i) {
        const int64_t b = mine[i];
        if (t >= c.length(b)) continue;
        T *copy = copies + n * (input_row + state_row);
        x[n] = row_words<F>(c.x + c.row(t, b) * c.I, c.I, copy);
        h[n] = row_words<F>(c.previous(t, b), c.H, copy + input_row);
        g[n] = own_gates + local(t, b) * c.gate_row();
        if (++n == kAgain) flush();
      }
    if (n) flush();
  }

  // From the projections in the rows g and the states h before them: the gates, in place.
  void activate(const ForwardPack<F> &forward, const T *weights, const T *const *h, T *const *g, int64_t n) const {
    const int64_t P = c.padded;
    for (int64_t e = 0; e < c.experts; ++e)
      for (int64_t block = 0; block < forward.blocks; ++block) {
        const T *const panel[1] = {weights + forward.hh(e, block)};
        const int64_t at = e * 4 * P + block * W;
        const Vec<T> bias_u = load(weights + forward.bias + at + kU * P);
        for_row_groups(n, [&](int64_t i0, auto rows) {
          constexpr int R = decltype(rows)::value;
          Vec<T> s[1][R][3] = {};
          product<F, 1, R, 3>(s, h + i0, panel, words<F>(c.H));
          for (int i = 0; i < R; ++i) {
            T *out = g[i0 + i] + at;
            const Vec<T> r = sigmoid<T>(s[0][i][0] + load(out + kR * P)), z = sigmoid<T>(s[0][i][1] + load(out + kZ * P));
            const Vec<T> u = s[0][i][2] + bias_u;
            store(out + kN * P, hyperbolic_tangent<T>(load(out + kN * P) + r * u));
            store(out + kR * P, r);
            store(out + kZ * P, z);
            store(out + kU * P, u);
          }
        });
      }
  }

  // Pointwise part of one row: writes its gate gradients and sum_e z_e dE_e over the carry; returns the gradient of the
  // logit difference.
  template <class Gate>
  T cell(int64_t t, int64_t b, const Gate *gates, Factor<F> *grads, T *carry) const {
    const int64_t row = c.row(t, b);
    const S *before = c.previous(t, b);
    const S *dy = c.dy ? c.dy + row * c.H : nullptr;
    const T q[2] = {value(c.q[row * 2]), value(c.q[row * 2 + 1])};
    const int64_t P = c.padded;
    Vec<T> inner[2] = {};  // <delta, E_e>
    for (int64_t j = 0; j < P; j += W) {
      Vec<T> delta = load(carry + j);
      if (dy) delta += load_some(dy + j, c.H - j);
      const Vec<T> h = load_some(before + j, c.H - j);
      Vec<T> out = {};
      for (int64_t e = 0; e < c.experts; ++e) {
        const Gate *g = gates + e * 4 * P + j;
        Factor<F> *d = grads + e * 4 * P + j;
        const Vec<T> n = load(g + kN * P), r = load(g + kR * P), z = load(g + kZ * P), u = load(g + kU * P);
        inner[e] += delta * (n + z * (h - n));
        const Vec<T> dE = c.routed() ? q[e] * delta : delta;
        const Vec<T> dn = dE * (T(1) - z) * (T(1) - n * n);
        store(d + kN * P, dn);
        store(d + kR * P, dn * u * r * (T(1) - r));
        store(d + kZ * P, dE * (h - n) * z * (T(1) - z));
        store(d + kU * P, dn * r);
        out += z * dE;
      }
      store(carry + j, out);
    }
    if (!c.routed() || c.routing == FLOW_HARD) return 0;
    T soft[2] = {q[0], q[1]};
    if (c.routing == FLOW_STRAIGHT_THROUGH) soft_routing<F>(soft, c, packed + layout.router, c.x + row * c.I, before);
    T towards_global = sum_lanes<T>(inner[0]) - sum_lanes<T>(inner[1]);
    if (c.dq) towards_global += value(c.dq[row * 2]) - value(c.dq[row * 2 + 1]);
    return soft[0] * soft[1] * towards_global / c.temperature;
  }

  // carry += gate gradients (r, z, u) of both experts times W_hh, + logit gradient times the router's part for h
  void recur(int64_t n, const Factor<F> *const *grads, T *const *carries, const T *logit_grad) const {
    times(n, grads, kR * c.padded, layout.hidden, packed, [&](int64_t i, int64_t column, Vec<T> s) {
      T *out = carries[i] + column;
      s += load(out);
      if (c.routed()) s += logit_grad[i] * load(packed + layout.router + round_up(c.I) + column);
      store(out, s);
    });
  }

  // dx of every row of the tile in this chunk; zero past the length
  void inputs() const {
    const Factor<F> **grads = table<const Factor<F> *>(scratch, 0);
    S **out = table<S *>(scratch, tile * table_steps(c));
    int64_t n = 0;
    for (int64_t t = span.first; t < span.end; ++t)
      for (int64_t i = 0; i < tile; ++i) {
        const int64_t b = mine[i];
        if (t >= c.length(b)) continue;
        grads[n] = gate_grads + local(t, b) * c.gate_row();
        out[n++] = c.dx + c.row(t, b) * c.I;
      }
    clear_inputs(span.first, span.end);
    const auto done = [&](int64_t i, int64_t column, Vec<T> s) {
      if (c.routed()) s += logit_grads[(grads[i] - gate_grads) / c.gate_row()] * load(packed + layout.router + column);
      store_some(out[i] + column, s, c.I - column);
    };
    if constexpr (F::tiles) {
      times_by_tiles(n, grads, kN * c.padded, layout.inputs, packed + layout.ih, done);
    } else {
      times(n, grads, kN * c.padded, layout.inputs, packed + layout.ih, done);
    }
  }

  // Zeros where dx is that of padding.
  void clear_inputs(int64_t first, int64_t end) const {
    for (int64_t t = first; c.has_padding() && t < end; ++t)
      for (int64_t i = 0; i < tile; ++i)
        if (t >= c.length(mine[i])) memset(c.dx + c.padding_row(t, mine[i]) * c.I, 0, (size_t)c.I * sizeof(S));
  }

  // For n rows: the 3 * padded gate gradients of each expert that start at slot offset `from`, times packed columns.
  template <class Done>
  void times(int64_t n, const Factor<F> *const *grads, int64_t from, const Panels &panels, const T *columns, Done done) const {
    const int64_t K = c.experts * layout.run;
    for (int64_t p = 0; p < panels.count;) {
      // few rows: two panels side by side, if there is another of the same width
      const bool two = 2 * n <= kRows && p + 1 < panels.count && panels.size(p) == panels.size(p + 1);
      with_vectors(panels.size(p), [&](auto vectors) {
        constexpr int NV = decltype(vectors)::value;
        const T *const panel = columns + panels.first(p) * W * K;
        for_row_groups(n, [&](int64_t i0, auto rows) {
          constexpr int R = decltype(rows)::value;
          if constexpr (2 * R <= kRows) {
            if (two) return panel_times<2, R, NV>(i0, grads, from, panel, panels.first(p) * W, done);
          }
          panel_times<1, R, NV>(i0, grads, from, panel, panels.first(p) * W, done);
        });
      });
      p += two ? 2 : 1;
    }
  }

  // The same for many rows.
  template <class Done>
  void times_by_tiles(int64_t n, const Factor<F> *const *grads, int64_t from, const Panels &panels, const T *columns,
                      Done done) const {
    for (int64_t p = 0; p < panels.count; ++p)
      with_vectors(panels.size(p), [&](auto vectors) {
        constexpr int NV = decltype(vectors)::value;
        const int64_t width = NV * W;
        const T *panel = columns + panels.first(p) * W * c.experts * layout.run;
        rows_by_panel<F, NV>(
            n, (int)c.experts, layout.run,
            [&](int e, int64_t i) { return reinterpret_cast<const T *>(grads[i] + e * 4 * c.padded + from); },
            [&](int e) { return panel + e * layout.run * width; }, [](auto &s, int64_t) { memset(&s, 0, sizeof s); },
            [&](auto &s, int64_t i) {
              for (int j = 0; j < NV; ++j) done(i, (panels.first(p) + j) * W, s[0][j]);
            });
      });
  }

  // P panels of NV vectors that lie one behind the other, the first for `column` on, times the R rows from i0 on.
  template <int P, int R, int NV, class Done>
  void panel_times(int64_t i0, const Factor<F> *const *grads, int64_t from, const T *columns, int64_t column,
                   Done &done) const {
    const int64_t width = NV * W;
    Vec<T> s[P][R][NV] = {};
    for (int64_t e = 0; e < c.experts; ++e) {
      const T *a[R], *panel[P];
      for (int i = 0; i < R; ++i) a[i] = reinterpret_cast<const T *>(grads[i0 + i] + e * 4 * c.padded + from);
      for (int p = 0; p < P; ++p) panel[p] = columns + (p * c.experts + e) * layout.run * width;
      product_in_runs<F, P, R, NV>(s, a, panel, layout.run);
    }
    for (int p = 0; p < P; ++p)
      for (int i = 0; i < R; ++i)
        for (int j = 0; j < NV; ++j) done(i0 + i, column + (p * NV + j) * W, s[p][i][j]);
  }
};

}  // namespace
