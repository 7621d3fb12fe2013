// Backward: the reverse scan. A block turns the gradient of its units' outputs into those of their gates. It
// multiplies these with its units' recurrent weights, which gives a part of the carry of *every* unit. It sends each
// peer the part of that peer's units (a reduce-scatter). A block adds what it receives in the order of the senders,
// so the sums are the same every time. The weight gradients are products over all steps at once and are left to
// cuBLAS.
//
// The router's gradient needs a sum over all units, which is known only after the exchange. It is sent along as one
// more float a sequence, and its part of the carry is added after the exchange.
//
// Two buffers of parcels suffice, for what comes and for what goes. Peer p writes its parcel of iteration n + 1 into slot p of
// the buffer that I send from at iteration n, and p does so only after having received all parcels of iteration n, mine from
// that very slot among them. Its parcel of iteration n + 2 goes where its parcel of n was, which I have added up before the
// barriers that precede my sending of n + 1, without which p does not come to n + 2.
#pragma once

#include "cell.h"
#include "place.h"

namespace flow::cuda {

template <typename T, int N, int M>
struct BackwardRegisters {
  static constexpr int kHeld = backward_held(M, N);
  Fragment held[kHeld][M];
  float acc[M][N][4];
  float carry[N][2], direct[N][2], v;  // v: the router's weight of the unit
  float slope[N][2], edge[N][2];
  float gap[2 * N];  // <delta, E_global - E_local>: first of one unit, later of all
  // of the step that comes next, on their way while the parcels are
  Eight<T> saved[N][2];
  T h[N][2], dy[N][2];
  Pair<T> q[N][2], dq[N][2];
  int length[N][2];
};

template <typename T, int N, int M>
FLOW_DEVICE void fetch(const Problem &p, const Place &place, const Lane &lane, BackwardRegisters<T, N, M> &r, int s) {
  const int unit = place.unit(lane.warp, lane), column = unit < p.shape.hidden ? unit : 0;
  if (lane.warp >= place.shape.unit_warps()) return;
  const T *y = static_cast<const T *>(p.y), *dy = static_cast<const T *>(p.dy ? p.dy : p.y);
  const Pair<T> *q = static_cast<const Pair<T> *>(p.q), *dq = static_cast<const Pair<T> *>(p.dq ? p.dq : p.q);
  FLOW_UNROLL
  for (int n = 0; n < N; ++n) {
    FLOW_UNROLL
    for (int i = 0; i < 2; ++i) {
      const int sequence = lane.sequence(n, i), length = r.length[n][i];
      const int64_t row = among_all(p, place, row_of(p, place, s, length, sequence));
      r.saved[n][i] = static_cast<const Eight<T> *>(p.saved)[row * p.H + column];
      r.dy[n][i] = dy[row * p.H + column];
      r.q[n][i] = q[row], r.dq[n][i] = dq[row];
      const int b = length < 0 ? 0 : place.first + sequence;
      const T *before = s ? y + among_all(p, place, row_of(p, place, s - 1, length, sequence)) * p.H
                          : static_cast<const T *>(p.h0) + (place.client * p.B + b) * p.H;
      r.h[n][i] = before[column];
    }
  }
}

// Where q is one-hot and a gradient reaches the router all the same: the slope of the soft q, in the step that is computed.
template <typename T, int N, int M>
FLOW_DEVICE void fetch_slope(const Problem &p, const Place &place, const Lane &lane, BackwardRegisters<T, N, M> &r, int s) {
  if (!p.slope) return;
  FLOW_UNROLL
  for (int n = 0; n < N; ++n) {
    FLOW_UNROLL
    for (int i = 0; i < 2; ++i) {
      const int row = row_of(p, place, s, r.length[n][i], lane.sequence(n, i));
      r.slope[n][i] = s < r.length[n][i] ? p.slope[among_all(p, place, row)] : 0;
    }
  }
}

template <typename T, int N, int M>
FLOW_DEVICE void begin(const Problem &p, const Place &place, const Lane &lane, BackwardRegisters<T, N, M> &r, char *shared) {
  constexpr int held = BackwardRegisters<T, N, M>::kHeld;
  const Shape &s = place.shape;
  const BackwardMemory memory(s, held);
  const int unit = place.unit(lane.warp, lane), steps = backward_steps(s);
  const bool mine = lane.warp < s.unit_warps() && unit < p.shape.hidden;
  r.v = mine ? router_weight<T>(p, place, unit) : 0;
  FLOW_UNROLL
  for (int n = 0; n < N; ++n) {
    FLOW_UNROLL
    for (int i = 0; i < 2; ++i) {
      const int sequence = lane.sequence(n, i);
      r.length[n][i] = length_of(p, place, sequence);
      const int64_t b = place.first + sequence;
      const T *dh_n = static_cast<const T *>(p.dh_n);
      r.carry[n][i] = dh_n && mine && b < p.B ? widen(dh_n[(place.client * p.B + b) * p.H + unit]) : 0;
    }
  }
  if (lane.thread < s.tile) in_shared<int>(shared, memory.lengths + lane.thread * 4) = length_of(p, place, lane.thread);
  // The warp's weights as the tensor cores hold them, straight from W_hh: rows of a lane are two neighbouring columns there.
  const bool pairs = paired(p);
  const auto weights = [&](int k, int m) {
    const int first = place.rank * s.units + k / 3 * kWarpUnits + lane.pair * 2, gate = k % 3;
    const int column = (lane.warp * M + m) * 16 + lane.row * 2;
    Fragment f;
    FLOW_UNROLL
    for (int e = 0; e < 2; ++e) {
      const uint32_t a = two_weights(p, weight_row<T>(p, place, e, gate, first), column, pairs);
      const uint32_t b = two_weights(p, weight_row<T>(p, place, e, gate, first + 1), column, pairs);
      f.v[2 * e] = (a & 0xffff) | b << 16, f.v[2 * e + 1] = a >> 16 | (b & 0xffff0000);
    }
    return f;
  };
  FLOW_UNROLL
  for (int k = 0; k < held; ++k) {
    FLOW_UNROLL
    for (int m = 0; m < M; ++m) r.held[k][m] = k < steps ? weights(k, m) : Fragment{};
  }
  // A lane reads back from shared memory only what it wrote there itself.
  FLOW_UNROLL_BY(4)
  for (int k = held; k < steps; ++k) {
    FLOW_UNROLL
    for (int m = 0; m < M; ++m) {
      const int at = ((k - held) * M + m) * kFragment + lane.lane * 16;
      in_shared<Fragment>(shared, memory.weights + lane.warp * memory.weights_of_warp + at) = weights(k, m);
    }
  }
  fetch(p, place, lane, r, (int)p.T - 1);
}

// From the gradient of the unit's output to those of its gates: the product's operand.
template <typename T, int N, int M>
FLOW_DEVICE void turn(const Problem &p, const Place &place, const Lane &lane, BackwardRegisters<T, N, M> &r, char *shared,
                      int step, int gradients) {
  const Shape &s = place.shape;
  FLOW_UNROLL
  for (int m = 0; m < M; ++m) FLOW_UNROLL
  for (int n = 0; n < N; ++n) FLOW_UNROLL
  for (int c = 0; c < 4; ++c) r.acc[m][n][c] = 0;
  if (lane.warp >= s.unit_warps()) return;
  const int unit = place.unit(lane.warp, lane);
  FLOW_UNROLL
  for (int n = 0; n < N; ++n) {
    FLOW_UNROLL
    for (int i = 0; i < 2; ++i) {
      const bool running = (step < r.length[n][i]) & (unit < p.shape.hidden);
      const float delta = r.carry[n][i] + select(p.dy != nullptr, widen(r.dy[n][i]), 0), h = widen(r.h[n][i]);
      const float q[2] = {widen(r.q[n][i].v[0]), widen(r.q[n][i].v[1])};
      float direct = 0, gap = 0;
      FLOW_UNROLL
      for (int e = 0; e < 2; ++e) {
        const bool used = running & uses(p, e);
        const T *kept = r.saved[n][i].v + 4 * e;
        const Gates g = {widen(kept[0]), widen(kept[1]), widen(kept[2]), widen(kept[3])};
        const float de = q[e] * delta;
        const Gates d = gate_gradients(g, h, de);
        const float of_gates[4] = {d.r, d.z, d.u, d.n};
        direct += select(used, g.z * de, 0);
        gap += select(used, (e ? -delta : delta) * output(g, h), 0);
        FLOW_UNROLL
        for (int j = 0; j < 4; ++j) {
          const int at = gradients + gradient_at(s, lane.warp, j, e, lane.sequence(n, i));
          in_shared<T>(shared, at + lane.row * 2) = narrow<T>(select(used, of_gates[j], 0));
        }
      }
      r.direct[n][i] = direct, r.gap[2 * n + i] = gap;
      const float edge = select(p.dq != nullptr, widen(r.dq[n][i].v[0]) - widen(r.dq[n][i].v[1]), 0);
      const float slope = select(p.routing == 0, q[0] * q[1] * p.scale, 0);  // of one-hot q: 0, or it comes later
      const bool routed = running & (p.dlogit != nullptr);
      r.slope[n][i] = select(routed, slope, 0), r.edge[n][i] = select(routed, edge, 0);
    }
  }
}

// The product's rows are units of all blocks: into the parcels of those blocks, and into this block's own.
template <typename T, int N, int M>
FLOW_DEVICE void pack(const Place &place, const Lane &lane, BackwardRegisters<T, N, M> &r, char *shared, int n_th) {
  const Shape &s = place.shape;
  const BackwardMemory memory(s, r.kHeld);
  const auto parcel = [&](int peer) {
    return memory.parcels + slot_at(s, peer == place.rank ? received_buffer(n_th) : sending_buffer(n_th), peer);
  };
  FLOW_UNROLL
  for (int m = 0; m < M; ++m) {
    const int first = (lane.warp * M + m) * 16 + lane.row * 2;
    if (first >= s.padded()) continue;
    const int peer = s.block_of(first), at = parcel(peer);
    FLOW_UNROLL
    for (int half = 0; half < 2; ++half) {
      FLOW_UNROLL
      for (int n = 0; n < N; ++n)
        in_shared<Two>(shared, at + parcel_at(s, first + half - peer * s.units, lane.sequence(n, 0))) = {
            {r.acc[m][n][half * 2], r.acc[m][n][half * 2 + 1]}};
    }
  }
  for (int peer = lane.warp; peer < s.blocks; peer += kWarps) {
    const int sequence = lane.lane;
    if (sequence >= s.tile) break;
    float sum = 0;
    for (int w = 0; w < s.unit_warps(); ++w) sum += in_shared<float>(shared, memory.gaps + (w * s.tile + sequence) * 4);
    in_shared<float>(shared, parcel(peer) + gap_at(s, place.rank, sequence)) = sum;
  }
}

// Gradients of the gates to the tensor: a warp takes one gate of one expert, a lane 16 bytes at a time where H allows it. This
// comes when the parcels are on their way; other warps may then write the next step's gradients already, into the other buffer.
template <typename T, int N, int M>
FLOW_DEVICE void store(const Problem &p, const Place &place, const Lane &lane, char *shared, int step, int gradients) {
  const Shape &s = place.shape;
  const BackwardMemory memory(s, BackwardRegisters<T, N, M>::kHeld);
  const int gate = lane.warp % 4, expert = lane.warp / 4, slot = gate == 3 ? 0 : gate == 2 ? 3 : gate + 1;  // n, r, z, u
  const int warp = lane.lane % 8, unit = place.rank * s.units + warp * kWarpUnits;
  if (!uses(p, expert) || warp >= s.unit_warps() || unit >= p.shape.hidden) return;
  FLOW_UNROLL_BY(1)
  for (int sequence = lane.lane / 8; sequence < s.tile; sequence += 4) {
    const int at = row_of(p, place, step, in_shared<int>(shared, memory.lengths + sequence * 4), sequence);
    if (at < 0) continue;
    const int64_t row = among_all(p, place, at) * (p.route == 0 ? 2 : 1) + slot_of(p, expert);
    T *to = static_cast<T *>(p.dgates) + (row * 4 + slot) * p.H + unit;
    const Eight<T> all = in_shared<Eight<T>>(shared, gradients + gradient_at(s, warp, gate, expert, sequence));
    if (p.shape.hidden % 8 == 0) {
      *reinterpret_cast<Eight<T> *>(to) = all;
    } else {
      FLOW_UNROLL
      for (int u = 0; u < 8; ++u)
        if (unit + u < p.shape.hidden) to[u] = all.v[u];
    }
  }
}

// The gradient of the logit of a step that has been collected: the lanes of the first unit have put it aside.
template <typename T, int N, int M>
FLOW_DEVICE void store_logit(const Problem &p, const Place &place, const Lane &lane, const BackwardRegisters<T, N, M> &r,
                             char *shared, int step) {
  const BackwardMemory memory(place.shape, r.kHeld);
  if (!p.dlogit || place.unit(lane.warp, lane) != 0) return;
  FLOW_UNROLL
  for (int n = 0; n < N; ++n) {
    FLOW_UNROLL
    for (int i = 0; i < 2; ++i) {
      const int row = row_of(p, place, step, r.length[n][i], lane.sequence(n, i));
      if (row >= 0) p.dlogit[among_all(p, place, row)] = in_shared<float>(shared, memory.logits + lane.sequence(n, i) * 4);
    }
  }
}

// What has come: sums over the senders, in their order. Those for the router are left to the lanes of all rows together.
template <typename T, int N, int M>
FLOW_DEVICE void collect(const Place &place, const Lane &lane, BackwardRegisters<T, N, M> &r, char *shared, int n_th) {
  const Shape &s = place.shape;
  const BackwardMemory memory(s, r.kHeld);
  if (lane.warp >= s.unit_warps()) return;
  const int local = lane.warp * kWarpUnits + lane.row, parcels = memory.parcels + slot_at(s, received_buffer(n_th), 0);
  Two sum[N] = {}, gap[N] = {};
  FLOW_UNROLL_BY(4)
  for (int peer = 0; peer < s.blocks; ++peer) {
    FLOW_UNROLL
    for (int n = 0; n < N; ++n) {
      const int at = parcels + peer * parcel_bytes(s) + parcel_at(s, local, lane.sequence(n, 0));
      const Two part = in_shared<Two>(shared, at);
      FLOW_UNROLL
      for (int i = 0; i < 2; ++i) sum[n].v[i] += part.v[i];
    }
  }
  for (int peer = lane.row; peer < s.blocks; peer += 8) {
    FLOW_UNROLL
    for (int n = 0; n < N; ++n) {
      const int at = parcels + peer * parcel_bytes(s) + gap_at(s, peer, lane.sequence(n, 0));
      const Two part = in_shared<Two>(shared, at);
      FLOW_UNROLL
      for (int i = 0; i < 2; ++i) gap[n].v[i] += part.v[i];
    }
  }
  FLOW_UNROLL
  for (int n = 0; n < N; ++n) {
    FLOW_UNROLL
    for (int i = 0; i < 2; ++i) r.direct[n][i] += sum[n].v[i], r.gap[2 * n + i] = gap[n].v[i];
  }
}

// The carry to the step before.
template <typename T, int N, int M>
FLOW_DEVICE void carry(const Place &place, const Lane &lane, BackwardRegisters<T, N, M> &r, char *shared, int step) {
  const BackwardMemory memory(place.shape, r.kHeld);
  FLOW_UNROLL
  for (int n = 0; n < N; ++n) {
    FLOW_UNROLL
    for (int i = 0; i < 2; ++i) {
      // without a gradient for the router, not even a NaN reaches it
      const float d = select(r.slope[n][i] != 0, r.slope[n][i] * (r.gap[2 * n + i] + r.edge[n][i]), 0);
      r.carry[n][i] = select(step < r.length[n][i], r.direct[n][i] + d * r.v, r.carry[n][i]);
      if (place.unit(lane.warp, lane) == 0) in_shared<float>(shared, memory.logits + lane.sequence(n, i) * 4) = d;
    }
  }
}

template <typename T, int N, int M, class Block>
FLOW_DEVICE void backward(Block &block, const Problem &p) {
  using Registers = BackwardRegisters<T, N, M>;
  const Place place = block.place(p);
  const Shape &s = place.shape;
  const BackwardMemory memory(s, Registers::kHeld);
  char *const shared = block.shared();
  const int steps = (int)p.T;
  block.each([=, &p](const Lane &lane, Registers &r) { begin(p, place, lane, r, shared); });
  block.open(s, backward_exchanges(steps), expected_bytes(s, parcel_bytes(s)));

  for (int n = 0; n < steps; ++n) {
    const int step = steps - 1 - n;
    const int gradients = memory.gradients + gradient_buffer(n) * gradient_bytes(s);
    block.each([=, &p](const Lane &lane, Registers &r) { turn(p, place, lane, r, shared, step, gradients); });
    block.template add_across_lanes<4, 16>([](Registers &r) -> auto & { return r.gap; });
    block.each([=](const Lane &lane, Registers &r) {
      if (lane.row || lane.warp >= s.unit_warps()) return;
      FLOW_UNROLL
      for (int g = 0; g < 2 * N; ++g)
        in_shared<float>(shared, memory.gaps + (lane.warp * s.tile + lane.sequence(g / 2, g % 2)) * 4) = r.gap[g];
    });
    block.sync();  // the operand is there, and everyone is done with the parcels of the iteration before
    block.template product<T, M, N, true>(memory.weights, memory.weights_of_warp, {gradients, s.tile * 16, 0},
                                          backward_steps(s));
    block.each([=](const Lane &lane, Registers &r) { pack(place, lane, r, shared, n); });
    block.publish();  // before the copies, which read what all threads have written
    block.send(
        n, [=](int peer) { return memory.parcels + slot_at(s, sending_buffer(n), peer); },
        memory.parcels + slot_at(s, received_buffer(n), place.rank), parcel_bytes(s));
    // after the fence, which would wait for them
    block.each([=, &p](const Lane &lane, Registers &r) {
      if (n > 0) store_logit(p, place, lane, r, shared, step + 1);
      store<T, N, M>(p, place, lane, shared, step, gradients);
      fetch_slope(p, place, lane, r, step);
      in_order();
      fetch(p, place, lane, r, step > 0 ? step - 1 : 0);
    });
    block.wait(n);
    block.each([=](const Lane &lane, Registers &r) { collect(place, lane, r, shared, n); });
    block.template add_across_lanes<4, 16>([](Registers &r) -> auto & { return r.gap; });
    block.each([=](const Lane &lane, Registers &r) { carry(place, lane, r, shared, step); });
  }

  block.each([=, &p](const Lane &lane, Registers &r) {
    store_logit(p, place, lane, r, shared, 0);
    const int unit = place.unit(lane.warp, lane);
    FLOW_UNROLL
    for (int n = 0; n < N; ++n) {
      FLOW_UNROLL
      for (int i = 0; i < 2; ++i) {
        const int64_t b = place.first + lane.sequence(n, i);
        if (lane.warp < s.unit_warps() && b < p.B && unit < p.shape.hidden)
          static_cast<T *>(p.dh0)[(place.client * p.B + b) * p.H + unit] = narrow<T>(r.carry[n][i]);
      }
    }
  });
  block.close();
}

}  // namespace flow::cuda
