// Weight gradients of one client: sums over its valid rows of (gate gradient) x (x or the state before the step).
//
// Rows are taken in time order in chunks, and every element of a result is summed by one thread in that order, so the numbers
// do not depend on how the work is divided.
#pragma once

#include "backward.h"

namespace {

template <class T>
struct WeightScratch {
  Panels hidden, inputs;
  long chunk, hidden_pack, inputs_pack, gate_pack, router, total;

  explicit WeightScratch(const Client<T> &c) : hidden(c.H, Simd<T>::width), inputs(c.I, Simd<T>::width) {
    constexpr int W = Simd<T>::width;
    const long columns = (hidden.vectors + inputs.vectors) * W;
    chunk = rows_at_once(c.rows, columns * (long)sizeof(T));
    hidden_pack = round_up(3 * chunk * (long)(sizeof(void *) / sizeof(T)));  // behind the tables of row pointers
    inputs_pack = hidden_pack + hidden.vectors * W * chunk;
    gate_pack = inputs_pack + inputs.vectors * W * chunk;
    router = gate_pack + kRows * chunk;
    total = router + round_up(c.I + c.H);
  }

  // Every chunk reads and writes all gradients once, so few are better; but a chunk's packed rows, which every block of gate
  // rows reads again, should stay in a cache of 1 MiB. Chunks are of equal size.
  static long rows_at_once(long rows, long row_bytes) {
    long most = 640 * 1024 / row_bytes;
    most = most < 64 ? 64 : most > 1024 ? 1024 : most;
    const long chunks = (rows + most - 1) / most;
    return (rows + chunks - 1) / chunks;
  }
};

template <class T>
struct WeightGradients {
  static constexpr int W = Simd<T>::width;
  const Client<T> &c;
  const WeightScratch<T> cut;
  const T *gate_grads, *logit_grads;
  T *scratch;
  const T **grads, **x, **before;  // one pointer a row of the chunk

  WeightGradients(const Client<T> &c, const T *all, T *scratch)
      : c(c), cut(c), gate_grads(all), logit_grads(all + GateGradients<T>(c).logit), scratch(scratch) {
    grads = table<const T *>(scratch, 0);
    x = grads + cut.chunk;
    before = x + cut.chunk;
  }

  // Part `part` of `parts` of the blocks of kRows gate rows; part 0 also does the router.
  void run(long part, long parts) const {
    bool any_ih = false, any_hh = false;
    for (long e = 0; e < c.experts; ++e) any_ih = any_ih || c.dw_ih[e], any_hh = any_hh || c.dw_hh[e];
    const long blocks = (c.H + kRows - 1) / kRows, units = c.experts * 4 * blocks;
    long t = 0, b = 0;
    for (bool start = true;; start = false) {
      const long n = gather(t, b);
      if (!n) return;  // every length is at least 1, so there was a first chunk
      for (long k = 0; k < n; ++k) {
        if (any_hh) pack_row(scratch + cut.hidden_pack, cut.hidden, before[k], c.H, k, n);
        if (any_ih) pack_row(scratch + cut.inputs_pack, cut.inputs, x[k], c.I, k, n);
      }
      for (long u = units * part / parts; u < units * (part + 1) / parts; ++u) {
        const long unit = u % blocks * kRows;
        block(u / blocks / 4, (int)(u / blocks % 4), unit, c.H - unit < kRows ? c.H - unit : kRows, n, start);
      }
      if (!part && (c.drouter_w || c.drouter_b)) router(n, start);
    }
  }

  // The next rows (time-major, valid ones only) from step t, sequence b on; moves t and b behind them.
  long gather(long &t, long &b) const {
    long n = 0;
    for (; t < c.T_; ++t, b = 0)
      for (; b < c.B; ++b) {
        if (t >= c.length(b)) continue;
        if (n == cut.chunk) return n;
        const long row = c.row(t, b);
        grads[n] = gate_grads + row * c.gate_row();
        x[n] = c.x + row * c.I;
        before[n++] = c.previous(t, b);
      }
    return n;
  }

  // Gate rows unit .. unit + m of one slot of one expert.
  void block(long e, int slot, long unit, long m, long n, bool start) const {
    T *dw_ih = slot == kU ? nullptr : c.dw_ih[e], *dw_hh = slot == kN ? nullptr : c.dw_hh[e];
    T *db_ih = slot == kU ? nullptr : c.db_ih[e], *db_hh = slot == kN ? nullptr : c.db_hh[e];
    if (!(dw_ih || dw_hh || db_ih || db_hh)) return;
    const long gate_row = kGateOfSlot[slot] * c.H + unit, at = (e * 4 + slot) * c.padded + unit;
    T *a = scratch + cut.gate_pack;
    T sums[kRows] = {};
    for (long k = 0; k < n; ++k)
      for (int i = 0; i < kRows; ++i) {
        const T g = grads[k][at + i];
        a[k * kRows + i] = g;
        sums[i] += g;
      }
    for (long i = 0; i < m; ++i) {
      if (db_ih) db_ih[gate_row + i] = (start ? 0 : db_ih[gate_row + i]) + sums[i];
      if (db_hh) db_hh[gate_row + i] = (start ? 0 : db_hh[gate_row + i]) + sums[i];
    }
    if (dw_hh) accumulate(dw_hh + gate_row * c.H, c.H, a, m, scratch + cut.hidden_pack, cut.hidden, n, start);
    if (dw_ih) accumulate(dw_ih + gate_row * c.I, c.I, a, m, scratch + cut.inputs_pack, cut.inputs, n, start);
  }

  // out [m, columns] (+)= a^T [m, n] times packed [n, columns]
  void accumulate(T *out, long columns, const T *a, long m, const T *packed, const Panels &panels, long n, bool start) const {
    with_rows(m, [&](auto rows) {
      constexpr int R = decltype(rows)::value;
      for (long p = 0; p < panels.count; ++p)
        with_vectors(panels.size(p), [&](auto vectors) {
          constexpr int NV = decltype(vectors)::value;
          Vec<T> s[R][NV] = {};
          outer_product<T, R, NV>(s, a, packed + panels.first(p) * W * n, n);
          for (int i = 0; i < R; ++i)
            for (int j = 0; j < NV; ++j) {
              const long column = (panels.first(p) + j) * W;
              T *at = out + i * columns + column;
              if (!start) s[i][j] += load_some(at, columns - column);
              store_some(at, s[i][j], columns - column);
            }
        });
    });
  }

  // Row 0 gets the sum of the logit gradient times [x ; h], row 1 its negative.
  void router(long n, bool start) const {
    T *sum = scratch + cut.router;
    T bias = 0;
    if (start) memset(sum, 0, (size_t)(c.I + c.H) * sizeof(T));
    for (long k = 0; k < n; ++k) {
      const T d = logit_grads[(grads[k] - gate_grads) / c.gate_row()];
      bias += d;
      for (long i = 0; i < c.I; ++i) sum[i] += d * x[k][i];
      for (long i = 0; i < c.H; ++i) sum[c.I + i] += d * before[k][i];
    }
    if (c.drouter_w)
      for (long i = 0; i < c.I + c.H; ++i) {
        c.drouter_w[i] = sum[i];
        c.drouter_w[c.I + c.H + i] = -sum[i];
      }
    if (c.drouter_b) {
      c.drouter_b[0] = (start ? 0 : c.drouter_b[0]) + bias;
      c.drouter_b[1] = -c.drouter_b[0];
    }
  }
};

}  // namespace
