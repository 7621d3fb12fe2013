// A problem as the kernels see it: typed pointers of one client, derived sizes, and how the workspace is cut up.
#pragma once

#include "../../routed_gru.h"
#include "../common/product.h"

namespace {

// Slots of a row of the gate buffer, each `padded` wide: n, r, z are what multiplies W_ih, r, z, u what multiplies W_hh,
// and either is one contiguous run. u is the recurrent part of the candidate, W_hn h + b_hn.
enum Slot { kN = 0, kR = 1, kZ = 2, kU = 3 };
constexpr int kGateOfSlot[4] = {2, 0, 1, 2};  // position among torch's r, z, n

constexpr int64_t kPad = 16;  // every padded size is a multiple of this, on every instruction set

// Entry `first` of a table of pointers P that lies in front of a workspace.
template <class P, class T>
inline P *table(T *workspace, int64_t first) {
  return reinterpret_cast<P *>(workspace) + first;
}

inline int64_t round_up(int64_t n) { return (n + kPad - 1) / kPad * kPad; }

// A part of a client's batch: sequences part, part + parts, ... Dealt like that, not in ranges, since sequences that are sorted
// by length would leave all the long ones to one part.
struct Tile {
  int64_t part, parts, size;

  Tile(int64_t batch, int64_t part, int64_t parts) : part(part), parts(parts), size((batch - part + parts - 1) / parts) {}
  int64_t operator[](int64_t i) const { return part + i * parts; }
};

template <class F>
struct Client {
  using T = Real<F>;
  using S = Stored<F>;

  int64_t T_, B, I, H, padded, rows, experts;
  int first_expert;
  int64_t step_rows, batch_rows;  // how far apart, in rows, neighbours in time and in the batch are
  const S *x, *h0, *w_ih[2], *w_hh[2], *b_ih[2], *b_hh[2], *router_w, *router_b, *dy, *dh_n, *dq;
  S *y, *h_n, *q, *gates, *dx, *dh0, *dw_ih[2], *dw_hh[2], *db_ih[2], *db_hh[2], *drouter_w, *drouter_b;
  const int64_t *lengths, *offsets;
  bool reversed;
  bool ragged;         // see FlowRoutedGru; then the next two are the client's own, else T_ and B
  int64_t steps, batch;  // its longest sequence, and how many it has
  T temperature;
  int routing;

  Client(const FlowRoutedGru &p, int64_t k)
      : T_(p.T),
        B(p.B),
        I(p.I),
        H(p.H),
        padded(round_up(p.H)),
        rows(p.offsets ? p.offsets[p.T] : p.T * p.B),
        experts(p.route == FLOW_MIXTURE ? 2 : 1),
        first_expert(p.route == FLOW_LOCAL),
        step_rows(p.batch_first ? 1 : p.B),
        batch_rows(p.batch_first ? p.T : 1),
        temperature((T)p.temperature),
        routing(p.routing) {
    x = in(p.x, k, rows * I), h0 = in(p.h0, k, B * H);
    dy = in(p.dy, k, rows * H), dh_n = in(p.dh_n, k, B * H), dq = in(p.dq, k, rows * 2);
    y = out(p.y, k, rows * H), h_n = out(p.h_n, k, B * H), q = out(p.q, k, rows * 2);
    gates = out(p.gates, k, rows * gate_row());
    dx = out(p.dx, k, rows * I), dh0 = out(p.dh0, k, B * H);
    router_w = in(p.router_w, k, 2 * (I + H)), router_b = in(p.router_b, k, 2);
    drouter_w = out(p.drouter_w, k, 2 * (I + H)), drouter_b = out(p.drouter_b, k, 2);
    for (int n = 0; n < experts; ++n) {
      const FlowExpert &e = p.expert[first_expert + n];
      w_ih[n] = in(e.w_ih, k, 3 * H * I), w_hh[n] = in(e.w_hh, k, 3 * H * H);
      b_ih[n] = in(e.b_ih, k, 3 * H), b_hh[n] = in(e.b_hh, k, 3 * H);
      const FlowExpertGrad &g = p.grad[first_expert + n];
      dw_ih[n] = out(g.w_ih, k, 3 * H * I), dw_hh[n] = out(g.w_hh, k, 3 * H * H);
      db_ih[n] = out(g.b_ih, k, 3 * H), db_hh[n] = out(g.b_hh, k, 3 * H);
    }
    lengths = p.lengths ? p.lengths + k * B : nullptr;
    offsets = p.offsets;
    reversed = p.reverse;
    ragged = p.ragged;
    steps = T_, batch = B;
    if (!ragged || !lengths) return;
    steps = batch = 0;
    for (int64_t b = 0; b < B; ++b) {
      if (lengths[b] > steps) steps = lengths[b];
      if (lengths[b]) batch = b + 1;
    }
  }

  static const S *in(const void *p, int64_t k, int64_t size) { return p ? static_cast<const S *>(p) + k * size : nullptr; }
  static S *out(void *p, int64_t k, int64_t size) { return p ? static_cast<S *>(p) + k * size : nullptr; }

  bool routed() const { return experts == 2; }
  int64_t gate_row() const { return experts * 4 * padded; }
  // Where the step that is run as number t < length(b) of sequence b lies.
  int64_t row(int64_t t, int64_t b) const {
    if (reversed) t = length(b) - 1 - t;
    return offsets ? offsets[t] + b : t * step_rows + b * batch_rows;
  }
  // Where padding lies: t >= length(b). Packed rows have none.
  bool has_padding() const { return !offsets; }
  int64_t padding_row(int64_t t, int64_t b) const { return t * step_rows + b * batch_rows; }
  int64_t length(int64_t b) const { return lengths ? lengths[b] : T_; }
  // h before step t as it is run, unpadded
  const S *previous(int64_t t, int64_t b) const { return t ? y + row(t - 1, b) * H : h0 + b * H; }
};

// The router needs only the difference of its two rows: q_global = sigmoid(difference / temperature).
// d [x ; h], both parts padded with zeros.
template <class F>
inline void pack_router(Real<F> *packed, const Client<F> &c) {
  const int64_t px = round_up(c.I);
  const Stored<F> *to_global = c.router_w, *to_local = c.router_w + c.I + c.H;
  for (int64_t i = 0; i < px; ++i) packed[i] = i < c.I ? value(to_global[i]) - value(to_local[i]) : 0;
  for (int64_t i = 0; i < c.padded; ++i) packed[px + i] = i < c.H ? value(to_global[c.I + i]) - value(to_local[c.I + i]) : 0;
  packed[px + c.padded] = c.router_b ? value(c.router_b[0]) - value(c.router_b[1]) : 0;
}

template <class F>
inline int64_t router_size(const Client<F> &c) {
  return c.routed() ? round_up(c.I) + c.padded + kPad : 0;
}

// Soft q of one row from its x [I] and h [H].
template <class F, class State>
inline void soft_routing(Real<F> (&q)[2], const Client<F> &c, const Real<F> *router, const Stored<F> *x, const State *h) {
  const int64_t px = round_up(c.I);
  const Real<F> logit = dot(x, router, c.I) + dot(h, router + px, c.H) + router[px + c.padded];
  const Real<F> d = logit / c.temperature;
  Vec<Real<F>> both = {};
  both[0] = d;
  both[1] = -d;
  both = sigmoid<Real<F>>(both);
  q[0] = both[0];
  q[1] = both[1];
}

}  // namespace
