// Forward over a whole sequence for one client and a tile of its batch: no barrier inside, no memory but the workspace.
//
// Per chunk of time steps: the input projections of the chunk into the gate rows; then, step by step, the router, and for
// every block of `width` hidden units the recurrent products of both experts, the gates, the mixture.
#pragma once

#include "problem.h"

namespace {

template <class T>
struct ForwardPack {
  long blocks, ih_block, hh_block, hh_start, bias, router, total;  // sizes and offsets in elements

  explicit ForwardPack(const Client<T> &c) {
    constexpr int W = Simd<T>::width;
    blocks = c.padded / W;
    ih_block = c.I * 3 * W;
    hh_block = c.H * 3 * W;
    hh_start = c.experts * blocks * ih_block;
    bias = round_up(hh_start + c.experts * blocks * hh_block);
    router = bias + c.experts * 4 * c.padded;
    total = router + router_size(c);
  }
  long ih(long e, long block) const { return (e * blocks + block) * ih_block; }
  long hh(long e, long block) const { return hh_start + (e * blocks + block) * hh_block; }
};

// Part `part` of `parts` of packing one client's weights.
template <class T>
inline void pack_forward(T *packed, const Client<T> &c, long part, long parts) {
  constexpr int W = Simd<T>::width;
  const ForwardPack<T> layout(c);
  const long units = c.experts * layout.blocks;
  for (long u = units * part / parts; u < units * (part + 1) / parts; ++u) {
    const long e = u / layout.blocks, block = u % layout.blocks;
    pack_gate_block(packed + layout.ih(e, block), c.w_ih[e], c.H, c.I, block * W);
    pack_gate_block(packed + layout.hh(e, block), c.w_hh[e], c.H, c.H, block * W);
  }
  if (part) return;
  for (long e = 0; e < c.experts; ++e) {
    T *slots = packed + layout.bias + e * 4 * c.padded;  // what the projection adds to n, r, z; and b_hn
    for (long j = 0; j < c.padded; ++j) {
      const bool there = j < c.H && c.b_ih[e];
      slots[kR * c.padded + j] = there ? c.b_ih[e][j] + c.b_hh[e][j] : 0;
      slots[kZ * c.padded + j] = there ? c.b_ih[e][c.H + j] + c.b_hh[e][c.H + j] : 0;
      slots[kN * c.padded + j] = there ? c.b_ih[e][2 * c.H + j] : 0;
      slots[kU * c.padded + j] = there ? c.b_hh[e][2 * c.H + j] : 0;
    }
  }
  if (c.routed()) pack_router(packed + layout.router, c);
}

// Workspace of one running tile, in elements; tables of row pointers lie in front.
template <class T>
struct ForwardScratch {
  long steps, state, expert_out, routing, gate_rows, pointers, total;

  ForwardScratch(const Client<T> &c, long tile, bool save) {
    // Steps projected at once: enough rows to read each panel of W_ih rarely, few enough to stay in cache.
    const long wanted = (64 + tile - 1) / tile;
    steps = wanted < c.T_ ? wanted : c.T_;
    const long tables = 2 * steps > 4 ? 2 * steps : 4;
    pointers = round_up(tables * tile * (long)(sizeof(void *) / sizeof(T)));
    state = pointers;
    expert_out = state + 2 * tile * c.padded;
    routing = expert_out + c.experts * tile * Simd<T>::width;
    gate_rows = round_up(routing + 2 * tile);
    total = gate_rows + (save ? 0 : steps * tile * c.gate_row());
  }
};

// Gates and output of R rows of one expert for the hidden units unit .. unit + width. `gates` are rows of the gate buffer
// whose slots of this expert start at `slots`; out [R, width].
template <class T, int R>
inline void gate_block(T *out, const T *const *state, T *const *gates, long slots, const T *panel, const T *bias_u, long unit,
                       const Client<T> &c) {
  constexpr int W = Simd<T>::width;
  const long P = c.padded;
  Vec<T> s[R][3] = {};
  product<T, R, 3>(s, state, panel, c.H);
  const Vec<T> bu = load(bias_u);
  for (int i = 0; i < R; ++i) {
    T *g = gates[i] + slots + unit;
    const Vec<T> r = sigmoid<T>(s[i][0] + load(g + kR * P));
    const Vec<T> z = sigmoid<T>(s[i][1] + load(g + kZ * P));
    const Vec<T> u = s[i][2] + bu;
    const Vec<T> n = hyperbolic_tangent<T>(load(g + kN * P) + r * u);
    if (c.gates) {
      store(g + kN * P, n);
      store(g + kR * P, r);
      store(g + kZ * P, z);
      store(g + kU * P, u);
    }
    const Vec<T> h = load(state[i] + unit);
    store(out + i * W, n + z * (h - n));
  }
}

template <class T>
struct ForwardTile {
  static constexpr int W = Simd<T>::width;
  const Client<T> &c;
  const ForwardPack<T> layout;
  const T *packed;
  T *scratch;
  const Tile mine;
  const long tile;
  const ForwardScratch<T> cut;

  // scratch holds ForwardScratch(c, mine.size, c.gates != nullptr).total elements.
  ForwardTile(const Client<T> &c, const T *packed, T *scratch, Tile mine)
      : c(c), layout(c), packed(packed), scratch(scratch), mine(mine), tile(mine.size), cut(c, tile, c.gates != nullptr) {}

  T *gate_row(long t, long chunk, long i) const {
    return c.gates ? c.gates + c.row(t, mine[i]) * c.gate_row() : scratch + cut.gate_rows + ((t - chunk) * tile + i) * c.gate_row();
  }

  void run() const {
    T *now = scratch + cut.state, *next = now + tile * c.padded;
    for (long i = 0; i < tile; ++i)
      for (long j = 0; j < c.padded; ++j) now[i * c.padded + j] = j < c.H ? c.h0[mine[i] * c.H + j] : 0;
    memset(next, 0, (size_t)(tile * c.padded) * sizeof(T));
    for (long chunk = 0; chunk < c.T_; chunk += cut.steps) {
      const long end = chunk + cut.steps < c.T_ ? chunk + cut.steps : c.T_;
      project(chunk, end);
      for (long t = chunk; t < end; ++t) {
        step(t, chunk, now, next);
        T *swap = now;
        now = next;
        next = swap;
      }
    }
    for (long i = 0; i < tile; ++i) memcpy(c.h_n + mine[i] * c.H, now + i * c.padded, (size_t)c.H * sizeof(T));
  }

  // W_ih x + biases of all valid rows of steps chunk .. end, into slots n, r, z of their gate rows.
  void project(long chunk, long end) const {
    const T **x = table<const T *>(scratch, 0);
    T **g = table<T *>(scratch, cut.steps * tile);
    long n = 0;
    for (long t = chunk; t < end; ++t)
      for (long i = 0; i < tile; ++i)
        if (t < c.length(mine[i])) {
          x[n] = c.x + c.row(t, mine[i]) * c.I;
          g[n++] = gate_row(t, chunk, i);
        }
    const long P = c.padded;
    for (long e = 0; e < c.experts; ++e)
      for (long block = 0; block < layout.blocks; ++block) {
        const T *panel = packed + layout.ih(e, block);
        const T *bias = packed + layout.bias + e * 4 * P + block * W;
        const long at = e * 4 * P + block * W;
        for_row_groups(n, [&](long i0, auto rows) {
          constexpr int R = decltype(rows)::value;
          Vec<T> s[R][3] = {};
          product<T, R, 3>(s, x + i0, panel, c.I);
          for (int i = 0; i < R; ++i) {
            T *out = g[i0 + i] + at;
            store(out + kR * P, s[i][0] + load(bias + kR * P));
            store(out + kZ * P, s[i][1] + load(bias + kZ * P));
            store(out + kN * P, s[i][2] + load(bias + kN * P));
          }
        });
      }
  }

  void step(long t, long chunk, T *now, T *next) const {
    const T **state = table<const T *>(scratch, 0);
    T **gates = table<T *>(scratch, tile), **y_rows = gates + tile, **next_state = y_rows + tile;
    T *q = scratch + cut.routing;
    long n = 0;
    for (long i = 0; i < tile; ++i) {
      const long b = mine[i];
      if (t >= c.length(b)) {
        memcpy(next + i * c.padded, now + i * c.padded, (size_t)c.padded * sizeof(T));
        if (c.has_padding()) clear(c.padding_row(t, b));
        continue;
      }
      const long row = c.row(t, b);
      T *yq = c.q + row * 2, *y = c.y + row * c.H;
      T *mine = q + 2 * n;
      route(mine, c.x + row * c.I, now + i * c.padded);
      yq[0] = mine[0];
      yq[1] = mine[1];
      state[n] = now + i * c.padded;
      gates[n] = gate_row(t, chunk, i);
      next_state[n] = next + i * c.padded;
      y_rows[n++] = y;
    }
    T *expert_out = scratch + cut.expert_out;
    for (long block = 0; block < layout.blocks; ++block) {
      const long unit = block * W;
      for (long e = 0; e < c.experts; ++e) {
        const long slots = e * 4 * c.padded;
        const T *panel = packed + layout.hh(e, block), *bias_u = packed + layout.bias + slots + kU * c.padded + unit;
        for_row_groups(n, [&](long i, auto rows) {
          gate_block<T, decltype(rows)::value>(expert_out + (e * tile + i) * W, state + i, gates + i, slots, panel, bias_u, unit, c);
        });
      }
      for (long i = 0; i < n; ++i) {
        Vec<T> h = load(expert_out + i * W);
        if (c.routed()) h = q[2 * i] * h + q[2 * i + 1] * load(expert_out + (tile + i) * W);
        store(next_state[i] + unit, h);
        store_some(y_rows[i] + unit, h, c.H - unit);
      }
    }
  }

  void clear(long row) const {
    memset(c.y + row * c.H, 0, (size_t)c.H * sizeof(T));
    if (c.gates) memset(c.gates + row * c.gate_row(), 0, (size_t)c.gate_row() * sizeof(T));
    c.q[2 * row] = c.q[2 * row + 1] = 0;
  }

  void route(T *q, const T *x, const T *h) const {
    if (!c.routed()) {
      q[c.first_expert] = 1;
      q[1 - c.first_expert] = 0;
      return;
    }
    T soft[2];
    soft_routing<T>(soft, c, packed + layout.router, x, h);
    const bool nan = soft[0] != soft[0], to_global = soft[0] >= soft[1];
    for (int e = 0; e < 2; ++e) q[e] = c.routing == FLOW_SOFT || nan ? soft[e] : T(e == (to_global ? 0 : 1));
  }
};

}  // namespace
