// Forward over a whole sequence for one client and a tile of its batch: no barrier inside, no memory but the workspace.
//
// Per chunk of time steps: the input projections of the chunk; then, step by step, the router, and for every block of `width`
// hidden units the recurrent products of both experts, the gates, the mixture. A client with one or two rows in all, or with one step
// of few sequences (streaming), reads its weights where they lie instead of packing them.
#pragma once

#include "problem.h"

namespace {

constexpr int64_t kFew = 32;  // sequences of one step for which packing would not pay
constexpr int kTogether = 4;  // of them that share a reading of the weights

template <class F>
inline bool is_direct(const Client<F> &c) {
  return !c.ragged && (c.T_ * c.B <= 2 || (c.T_ == 1 && c.B <= kFew));
}

template <class F>
struct ForwardPack {
  int64_t blocks, ih_block, hh_block, hh_start, bias, router, total;  // sizes and offsets in words

  ForwardPack(const Client<F> &c, bool direct) {
    constexpr int W = Simd<Real<F>>::width;
    blocks = c.padded / W;
    ih_block = direct ? 0 : words<F>(c.I) * 3 * W;
    hh_block = direct ? 0 : words<F>(c.H) * 3 * W;
    hh_start = c.experts * blocks * ih_block;
    bias = round_up(hh_start + c.experts * blocks * hh_block);
    router = bias + c.experts * 4 * c.padded;
    total = router + router_size(c);
  }
  int64_t ih(int64_t e, int64_t block) const { return (e * blocks + block) * ih_block; }
  int64_t hh(int64_t e, int64_t block) const { return hh_start + (e * blocks + block) * hh_block; }
};

// Part `part` of `parts` of packing one client's weights.
template <class F>
inline void pack_forward(Real<F> *packed, const Client<F> &c, bool direct, int64_t part, int64_t parts) {
  constexpr int W = Simd<Real<F>>::width;
  const ForwardPack<F> layout(c, direct);
  const int64_t units = direct ? 0 : c.experts * layout.blocks;
  for (int64_t u = units * part / parts; u < units * (part + 1) / parts; ++u) {
    const int64_t e = u / layout.blocks, block = u % layout.blocks;
    pack_gate_block<F>(packed + layout.ih(e, block), c.w_ih[e], c.H, c.I, block * W);
    pack_gate_block<F>(packed + layout.hh(e, block), c.w_hh[e], c.H, c.H, block * W);
  }
  if (part) return;
  for (int64_t e = 0; e < c.experts; ++e) {
    Real<F> *slots = packed + layout.bias + e * 4 * c.padded;  // what the projection adds to n, r, z; and b_hn
    memset(slots, 0, (size_t)(4 * c.padded) * sizeof(Real<F>));
    for (int64_t j = 0; j < c.H && c.b_ih[e]; ++j) {
      slots[kR * c.padded + j] = value(c.b_ih[e][j]) + value(c.b_hh[e][j]);
      slots[kZ * c.padded + j] = value(c.b_ih[e][c.H + j]) + value(c.b_hh[e][c.H + j]);
      slots[kN * c.padded + j] = value(c.b_ih[e][2 * c.H + j]);
      slots[kU * c.padded + j] = value(c.b_hh[e][2 * c.H + j]);
    }
  }
  if (c.routed()) pack_router(packed + layout.router, c);
}

// A row of n elements as words: where it lies, or copied and padded with zeros up to whole vectors.
template <class F>
inline const Real<F> *row_words(const Stored<F> *row, int64_t n, Real<F> *copy) {
  if (is_words<F>(n)) return reinterpret_cast<const Real<F> *>(row);
  for (int64_t k = 0; k < words<F>(n); k += Simd<Real<F>>::width)
    store(copy + k, load_words<F>(row + k * F::group, n - k * F::group));
  return copy;
}
template <class F>
inline int64_t copied_words(int64_t n) {
  return is_words<F>(n) ? 0 : round_up(words<F>(n));
}

// W_ih x + biases of n rows, into slots n, r, z of the rows g.
template <class F>
inline void project_rows(const Client<F> &c, const ForwardPack<F> &layout, const Real<F> *packed, const Real<F> *const *x,
                         Real<F> *const *g, int64_t n) {
  constexpr int64_t W = Simd<Real<F>>::width;
  const int64_t P = c.padded;
  for (int64_t e = 0; e < c.experts; ++e)
    for (int64_t block = 0; block < layout.blocks; ++block) {
      const Real<F> *bias = packed + layout.bias + e * 4 * P + block * W;
      const int64_t at = e * 4 * P + block * W;
      rows_by_panel<F, 3>(
          n, 1, words<F>(c.I), [&](int, int64_t i) { return x[i]; }, [&](int) { return packed + layout.ih(e, block); },
          [](auto &s, int64_t) { memset(&s, 0, sizeof s); },
          [&](auto &s, int64_t i) {
            for (auto &row : s) {
              Real<F> *out = g[i++] + at;
              store(out + kR * P, row[0] + load(bias + kR * P));
              store(out + kZ * P, row[1] + load(bias + kZ * P));
              store(out + kN * P, row[2] + load(bias + kN * P));
            }
          });
    }
}

// Workspace of one running tile, in words; tables of row pointers lie in front.
template <class F>
struct ForwardScratch {
  int64_t steps, input_row, state_row, inputs, state, expert_out, routing, gate_rows, total;
  bool own_gates;  // pre-activations lie here, not in the tensor that saves the gates

  ForwardScratch(const Client<F> &c, int64_t tile, bool save) {
    // Steps projected at once: enough rows to read each panel of W_ih rarely, few enough to stay in cache.
    const int64_t wanted = (64 + tile - 1) / tile;
    steps = wanted < c.T_ ? wanted : c.T_;
    const int64_t tables = 2 * steps > 6 ? 2 * steps : 6;
    inputs = round_up(tables * tile * (int64_t)(sizeof(void *) / sizeof(Real<F>)));
    input_row = copied_words<F>(c.I);
    state_row = c.padded + (F::group > 1 ? c.padded / F::group : 0);  // the state, and behind it the same as factors
    const int64_t copied = steps * tile * input_row;
    const int64_t direct = is_direct(c) ? tile * round_up(c.I) : 0;
    state = inputs + (copied > direct ? copied : direct);
    expert_out = state + 2 * tile * state_row;
    routing = expert_out + c.experts * tile * Simd<Real<F>>::width;
    gate_rows = round_up(routing + 2 * tile);
    own_gates = !save || sizeof(Stored<F>) != sizeof(Real<F>);
    total = gate_rows + (own_gates ? steps * tile * c.gate_row() : 0);
  }
};

template <class F>
struct ForwardTile {
  using T = Real<F>;
  using S = Stored<F>;
  static constexpr int W = Simd<T>::width;
  const Client<F> &c;
  const ForwardPack<F> layout;
  const T *packed;
  T *scratch;
  const Tile mine;
  const int64_t tile;
  const ForwardScratch<F> cut;
  // One entry for each of the sequences that a step runs
  const T **state, **factors;
  T **pre, **next_state;
  S **y_rows, **saved;
  T *q, *expert_out;

  // scratch holds ForwardScratch(c, mine.size, c.gates != nullptr).total words.
  ForwardTile(const Client<F> &c, const T *packed, T *scratch, Tile mine)
      : c(c),
        layout(c, is_direct(c)),
        packed(packed),
        scratch(scratch),
        mine(mine),
        tile(mine.size),
        cut(c, tile, c.gates != nullptr) {
    state = table<const T *>(scratch, 0), factors = table<const T *>(scratch, tile);
    pre = table<T *>(scratch, 2 * tile), next_state = table<T *>(scratch, 3 * tile), y_rows = table<S *>(scratch, 4 * tile);
    saved = table<S *>(scratch, 5 * tile);
    q = scratch + cut.routing, expert_out = scratch + cut.expert_out;
  }

  void run() const {
    T *now = scratch + cut.state, *next = now + tile * cut.state_row;
    memset(now, 0, (size_t)(2 * tile * cut.state_row) * sizeof(T));
    for (int64_t i = 0; i < tile; ++i)
      for (int64_t j = 0; j < c.H; j += W) set_state(now + i * cut.state_row, j, load_some(c.h0 + mine[i] * c.H + j, c.H - j));
    for (int64_t chunk = 0; chunk < c.T_; chunk += cut.steps) {
      const int64_t end = chunk + cut.steps < c.T_ ? chunk + cut.steps : c.T_;
      if (!is_direct(c)) project(chunk, end);
      for (int64_t t = chunk; t < end; ++t) {
        step(t, chunk, now, next);
        T *swap = now;
        now = next;
        next = swap;
      }
    }
    for (int64_t i = 0; i < tile; ++i)
      for (int64_t j = 0; j < c.H; j += W) store_some(c.h_n + mine[i] * c.H + j, load(now + i * cut.state_row + j), c.H - j);
  }

  // Hidden units unit .. unit + width of a state, and the same as factors.
  void set_state(T *row, int64_t unit, Vec<T> h) const {
    store(row + unit, h);
    if constexpr (F::group > 1) store(reinterpret_cast<Factor<F> *>(row + c.padded) + unit, h);
  }
  const T *factors_of(const T *row) const { return F::group > 1 ? row + c.padded : row; }

  // Where the pre-activations of a step lie, and then, as saved, its gates.
  T *pre_row(int64_t t, int64_t chunk, int64_t i) const {
    if constexpr (sizeof(S) == sizeof(T))
      if (!cut.own_gates) return c.gates + c.row(t, mine[i]) * c.gate_row();
    return scratch + cut.gate_rows + ((t - chunk) * tile + i) * c.gate_row();
  }

  // W_ih x + biases of all valid rows of steps chunk .. end, into slots n, r, z of their rows.
  void project(int64_t chunk, int64_t end) const {
    const T **x = table<const T *>(scratch, 0);
    T **g = table<T *>(scratch, cut.steps * tile);
    int64_t n = 0;
    for (int64_t t = chunk; t < end; ++t)
      for (int64_t i = 0; i < tile; ++i)
        if (t < c.length(mine[i])) {
          x[n] = row_words<F>(c.x + c.row(t, mine[i]) * c.I, c.I, scratch + cut.inputs + n * cut.input_row);
          g[n++] = pre_row(t, chunk, i);
        }
    project_rows(c, layout, packed, x, g, n);
  }

  void step(int64_t t, int64_t chunk, T *now, T *next) const {
    int64_t n = 0;
    for (int64_t i = 0; i < tile; ++i) {
      const int64_t b = mine[i];
      T *before = now + i * cut.state_row, *after = next + i * cut.state_row;
      if (t >= c.length(b)) {
        memcpy(after, before, (size_t)cut.state_row * sizeof(T));
        if (c.has_padding()) clear(c.padding_row(t, b));
        continue;
      }
      const int64_t row = c.row(t, b);
      route(q + 2 * n, c.x + row * c.I, before);
      put(c.q + 2 * row, q[2 * n]);
      put(c.q + 2 * row + 1, q[2 * n + 1]);
      state[n] = before;
      factors[n] = factors_of(before);
      pre[n] = pre_row(t, chunk, i);
      next_state[n] = after;
      y_rows[n] = c.y + row * c.H;
      saved[n] = c.gates ? c.gates + row * c.gate_row() : nullptr;
      if (is_direct(c)) copy_input(direct_input(n), row);
      ++n;
    }
    for (int64_t block = 0; block < layout.blocks; ++block) {
      const int64_t unit = block * W;
      if (is_direct(c)) {
        for (int64_t e = 0; e < c.experts; ++e)
          for (int64_t i = 0; i < n; i += kTogether) {
            // The compiler may round otherwise for another number of rows, and how many there are depends on the threads.
            if (c.B > 2) {
              compute_directly<kTogether>(e, unit, i, n);
            } else {
              n == 1 ? compute_directly<1>(e, unit, i, n) : compute_directly<2>(e, unit, i, n);
            }
          }
      } else if (c.routed() && 2 * n <= kRows) {
        with_rows(n, [&](auto rows) {
          if constexpr (2 * decltype(rows)::value <= kRows) recur<2, decltype(rows)::value>(0, block, 0);
        });
      } else {
        for (int64_t e = 0; e < c.experts; ++e)
          for_row_groups(n, [&](int64_t i, auto rows) { recur<1, decltype(rows)::value>(e, block, i); });
      }
      for (int64_t i = 0; i < n; ++i) {
        Vec<T> h = load(expert_out + i * W);
        if (c.routed()) h = q[2 * i] * h + q[2 * i + 1] * load(expert_out + (tile + i) * W);
        set_state(next_state[i], unit, h);
        store_some(y_rows[i] + unit, h, c.H - unit);
      }
    }
  }

  // Experts first .. first + P for one block of hidden units and the R sequences from i on.
  template <int P, int R>
  void recur(int64_t first, int64_t block, int64_t i) const {
    const T *panels[P];
    for (int p = 0; p < P; ++p) panels[p] = packed + layout.hh(first + p, block);
    Vec<T> s[P][R][3] = {};
    product<F, P, R, 3>(s, factors + i, panels, words<F>(c.H));
    for (int p = 0; p < P; ++p) {
      const int64_t at = (first + p) * 4 * c.padded + block * W;
      const Vec<T> bias_u = load(packed + layout.bias + at + kU * c.padded);
      for (int r = 0; r < R; ++r) {
        const T *g = pre[i + r] + at;
        activate(first + p, block * W, i + r, s[p][r][0] + load(g + kR * c.padded), s[p][r][1] + load(g + kZ * c.padded),
                 load(g + kN * c.padded), s[p][r][2] + bias_u);
      }
    }
  }

  // Gates and output of one expert for hidden units unit .. unit + width of sequence i, from what the gates r and z are
  // functions of and the two parts of the candidate.
  void activate(int64_t e, int64_t unit, int64_t i, Vec<T> sum_r, Vec<T> sum_z, Vec<T> sum_n, Vec<T> u) const {
    const int64_t P = c.padded, at = e * 4 * P + unit;
    const Vec<T> r = sigmoid<T>(sum_r), z = sigmoid<T>(sum_z), n = hyperbolic_tangent<T>(sum_n + r * u);
    if (saved[i]) {
      store(saved[i] + at + kN * P, n);
      store(saved[i] + at + kR * P, r);
      store(saved[i] + at + kZ * P, z);
      store(saved[i] + at + kU * P, u);
    }
    store(expert_out + (e * tile + i) * W, n + z * (load(state[i] + unit) - n));
  }

  // How many of unit .. unit + width there are
  int64_t lanes(int64_t unit) const { return c.H - unit < 0 ? 0 : c.H - unit < W ? c.H - unit : W; }

  T *direct_input(int64_t i) const { return scratch + cut.inputs + i * round_up(c.I); }
  void copy_input(T *x, int64_t row) const {
    for (int64_t k = 0; k < c.I; k += W) store(x + k, load_some(c.x + row * c.I + k, c.I - k));
  }

  // The same as project() and recur(), for the R sequences from i on, of `count` in all, from the weights as they lie. The last
  // one takes the place of those that there are not.
  template <int R>
  void compute_directly(int64_t e, int64_t unit, int64_t i, int64_t count) const {
    const int64_t at = e * 4 * c.padded + unit, n = lanes(unit);
    Side<F, R> x{nullptr, {}, c.I}, h{nullptr, {}, c.H};
    for (int r = 0; r < R; ++r) {
      const int64_t row = i + r < count ? i + r : count - 1;
      x.a[r] = direct_input(row), h.a[r] = state[row];
    }
    const auto of_x = [&](int64_t slot) {
      Side<F, R> side = x;
      side.w = c.w_ih[e] + (kGateOfSlot[slot] * c.H + unit) * c.I;
      return side;
    };
    const auto of_h = [&](int64_t slot) {
      Side<F, R> side = h;
      side.w = c.w_hh[e] + (kGateOfSlot[slot] * c.H + unit) * c.H;
      return side;
    };
    Vec<T> sums[4][R];
    for (int slot = 0; slot < 4; ++slot)
      for (Vec<T> &s : sums[slot]) s = load(packed + layout.bias + at + slot * c.padded);
    dots<F, R, 2>(sums[kR], n, {of_x(kR), of_h(kR)});
    dots<F, R, 2>(sums[kZ], n, {of_x(kZ), of_h(kZ)});
    dots<F, R, 1>(sums[kN], n, {of_x(kN)});
    dots<F, R, 1>(sums[kU], n, {of_h(kU)});
    for (int r = 0; r < R && i + r < count; ++r)
      activate(e, unit, i + r, sums[kR][r], sums[kZ][r], sums[kN][r], sums[kU][r]);
  }

  void clear(int64_t row) const {
    memset(c.y + row * c.H, 0, (size_t)c.H * sizeof(S));
    memset(c.q + row * 2, 0, 2 * sizeof(S));
    if (c.gates) memset(c.gates + row * c.gate_row(), 0, (size_t)c.gate_row() * sizeof(S));
  }

  void route(T *q, const S *x, const T *h) const {
    if (!c.routed()) {
      q[c.first_expert] = 1;
      q[1 - c.first_expert] = 0;
      return;
    }
    T soft[2];
    soft_routing<F>(soft, c, packed + layout.router, x, h);
    const bool nan = soft[0] != soft[0], to_global = soft[0] >= soft[1];
    for (int e = 0; e < 2; ++e) q[e] = c.routing == FLOW_SOFT || nan ? soft[e] : T(e == (to_global ? 0 : 1));
  }
};

}  // namespace
