// Backward: a reverse scan per client and batch tile that leaves the gate gradients of every row behind, then all weight
// gradients of a client as products over its valid rows. What nobody wants (frozen parameters, dx, dh0) is not computed.
#pragma once

#include "problem.h"

namespace {

template <class T>
inline bool wants_weights(const Client<T> &c) {
  bool any = c.drouter_w || c.drouter_b;
  for (long e = 0; e < c.experts; ++e) any = any || c.dw_ih[e] || c.dw_hh[e] || c.db_ih[e] || c.db_hh[e];
  return any;
}

// Packed for backward: W_hh as [gate rows of both experts] x H, W_ih as the same x I (only when dx is wanted), the router.
template <class T>
struct BackwardPack {
  Panels hidden, inputs;
  long hidden_rows, input_rows, ih, router, total;

  explicit BackwardPack(const Client<T> &c)
      : hidden(c.H, Simd<T>::width), inputs(c.I, Simd<T>::width), hidden_rows(c.experts * 3 * c.padded),
        input_rows(c.dx ? hidden_rows : 0) {
    ih = hidden.vectors * Simd<T>::width * hidden_rows;
    router = round_up(ih + inputs.vectors * Simd<T>::width * input_rows);
    total = router + router_size(c);
  }
};

template <class T>
inline void pack_backward(T *packed, const Client<T> &c, long part, long parts) {
  const BackwardPack<T> layout(c);
  const long rows = layout.hidden_rows;
  for (long k = rows * part / parts; k < rows * (part + 1) / parts; ++k) {
    const long e = k / (3 * c.padded), run = k / c.padded % 3, unit = k % c.padded;
    const bool there = unit < c.H;
    // runs r, z, u of a gate-gradient row multiply W_hh; runs n, r, z multiply W_ih
    const T *hh = there ? c.w_hh[e] + (kGateOfSlot[kR + run] * c.H + unit) * c.H : nullptr;
    pack_row(packed, layout.hidden, hh, c.H, k, rows);
    if (!c.dx) continue;
    const T *ih = there ? c.w_ih[e] + (kGateOfSlot[kN + run] * c.H + unit) * c.I : nullptr;
    pack_row(packed + layout.ih, layout.inputs, ih, c.I, k, rows);
  }
  if (!part && c.routed()) pack_router(packed + layout.router, c);
}

// What the scan leaves for the weight gradients of a client: gate gradients and the gradient of the router's logit
// difference, in elements.
template <class T>
struct GateGradients {
  long logit, total;
  explicit GateGradients(const Client<T> &c) : logit(c.rows * c.gate_row()), total(logit + round_up(c.rows)) {}
};

template <class T>
struct BackwardTile {
  static constexpr int W = Simd<T>::width;
  const Client<T> &c;
  const BackwardPack<T> layout;
  const T *packed;
  T *gate_grads, *logit_grads, *scratch;
  const Tile mine;
  const long tile;

  static long tables(long tile) { return round_up(2 * tile * (long)(sizeof(void *) / sizeof(T))); }
  // One step's pointers and the carries, or, for dx, pointers to all rows of the tile.
  static long scratch_size(const Client<T> &c, long tile) { return tables(tile * c.T_) + tile * c.padded + round_up(tile); }

  BackwardTile(const Client<T> &c, const T *packed, T *grads, T *scratch, Tile mine)
      : c(c), layout(c), packed(packed), gate_grads(grads), logit_grads(grads + GateGradients<T>(c).logit), scratch(scratch),
        mine(mine), tile(mine.size) {}

  void run() const {
    T *carry = scratch + tables(tile * c.T_), *logit_grad = carry + tile * c.padded;
    const T **grads = table<const T *>(scratch, 0);
    T **carries = table<T *>(scratch, tile);
    for (long i = 0; i < tile; ++i)
      for (long j = 0; j < c.padded; ++j) carry[i * c.padded + j] = c.dh_n && j < c.H ? c.dh_n[mine[i] * c.H + j] : 0;
    for (long t = c.T_ - 1; t >= 0; --t) {
      long n = 0;
      for (long i = 0; i < tile; ++i) {
        const long b = mine[i];
        if (t >= c.length(b)) continue;
        const long row = c.row(t, b);
        T *mine = carry + i * c.padded;
        logit_grad[n] = cell(t, b, row, mine);
        logit_grads[row] = logit_grad[n];
        grads[n] = gate_grads + row * c.gate_row();
        carries[n++] = mine;
      }
      if (t || c.dh0) recur(n, grads, carries, logit_grad);
    }
    if (c.dh0)
      for (long i = 0; i < tile; ++i) memcpy(c.dh0 + mine[i] * c.H, carry + i * c.padded, (size_t)c.H * sizeof(T));
    if (c.dx) inputs();
  }

  // Pointwise part of one row: writes its gate gradients and sum_e z_e dE_e over the carry; returns the gradient of the
  // logit difference.
  T cell(long t, long b, long row, T *carry) const {
    const T *gates = c.gates + row * c.gate_row(), *before = c.previous(t, b), *q = c.q + row * 2;
    const T *dy = c.dy ? c.dy + row * c.H : nullptr;
    T *grads = gate_grads + row * c.gate_row();
    const long P = c.padded;
    Vec<T> inner[2] = {};  // <delta, E_e>
    for (long j = 0; j < P; j += W) {
      Vec<T> delta = load(carry + j);
      if (dy) delta += load_some(dy + j, c.H - j);
      const Vec<T> h = load_some(before + j, c.H - j);
      Vec<T> out = {};
      for (long e = 0; e < c.experts; ++e) {
        const T *g = gates + e * 4 * P + j;
        T *d = grads + e * 4 * P + j;
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
    if (c.routing == FLOW_STRAIGHT_THROUGH) soft_routing<T>(soft, c, packed + layout.router, c.x + row * c.I, before);
    T towards_global = sum_lanes<T>(inner[0]) - sum_lanes<T>(inner[1]);
    if (c.dq) towards_global += c.dq[row * 2] - c.dq[row * 2 + 1];
    return soft[0] * soft[1] * towards_global / c.temperature;
  }

  // carry += gate gradients (r, z, u) of both experts times W_hh, + logit gradient times the router's part for h
  void recur(long n, const T *const *grads, T *const *carries, const T *logit_grad) const {
    times(n, grads, kR * c.padded, layout.hidden, packed, [&](long i, long column, Vec<T> s) {
      T *out = carries[i] + column;
      s += load(out);
      if (c.routed()) s += logit_grad[i] * load(packed + layout.router + round_up(c.I) + column);
      store(out, s);
    });
  }

  // dx of every row of the tile; zero past the length
  void inputs() const {
    const T **grads = table<const T *>(scratch, 0);
    T **out = table<T *>(scratch, tile * c.T_);
    long n = 0;
    for (long t = 0; t < c.T_; ++t)
      for (long i = 0; i < tile; ++i) {
        const long b = mine[i];
        if (t < c.length(b)) {
          const long row = c.row(t, b);
          grads[n] = gate_grads + row * c.gate_row();
          out[n++] = c.dx + row * c.I;
        } else if (c.has_padding()) {
          memset(c.dx + c.padding_row(t, b) * c.I, 0, (size_t)c.I * sizeof(T));
        }
      }
    times(n, grads, kN * c.padded, layout.inputs, packed + layout.ih, [&](long i, long column, Vec<T> s) {
      if (c.routed()) s += logit_grads[(grads[i] - gate_grads) / c.gate_row()] * load(packed + layout.router + column);
      store_some(out[i] + column, s, c.I - column);
    });
  }

  // For n rows: the 3 * padded gate gradients of each expert that start at slot offset `from`, times packed columns.
  template <class Done>
  void times(long n, const T *const *grads, long from, const Panels &panels, const T *columns, Done done) const {
    const long run = 3 * c.padded, K = c.experts * run;
    for (long p = 0; p < panels.count; ++p) {
      const T *panel = columns + panels.first(p) * W * K;
      with_vectors(panels.size(p), [&](auto vectors) {
        constexpr int NV = decltype(vectors)::value;
        for_row_groups(n, [&](long i0, auto rows) {
          constexpr int R = decltype(rows)::value;
          Vec<T> s[R][NV] = {};
          for (long e = 0; e < c.experts; ++e) {
            const T *a[R];
            for (int i = 0; i < R; ++i) a[i] = grads[i0 + i] + e * 4 * c.padded + from;
            product<T, R, NV>(s, a, panel + e * run * NV * W, run);
          }
          for (int i = 0; i < R; ++i)
            for (int j = 0; j < NV; ++j) done(i0 + i, (panels.first(p) + j) * W, s[i][j]);
        });
      });
    }
  }
};

}  // namespace
