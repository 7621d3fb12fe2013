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
  static constexpr int kHeld = backward_held(M);
  Fragment held[kHeld][M];
  float acc[M][N][4];
  float carry[N][2], direct[N][2], v;  // v: the router's weight for the unit
  float slope[N][2], edge[N][2];
  float gap[2 * N];  // <delta, E_global - E_local>, so far of one unit
  // of the step that comes next, on their way while the parcels are
  Eight<T> saved[N][2];
  T h[N][2], dy[N][2];
  Four routed[N][2];
  int length[N][2];
};

template <typename T, int N, int M>
FLOW_DEVICE void fetch(const Problem &p, const Place &place, const Lane &lane, BackwardRegisters<T, N, M> &r, int64_t s) {
  const int unit = place.unit(lane);
  if (lane.warp >= place.shape.unit_warps() || unit >= p.H) return;
  FLOW_UNROLL
  for (int n = 0; n < N; ++n) {
    FLOW_UNROLL
    for (int i = 0; i < 2; ++i) {
      const int sequence = lane.sequence(n, i), length = r.length[n][i];
      if (s >= length) continue;
      const int64_t row = row_of(p, place, s, length, sequence);
      r.saved[n][i] = static_cast<const Eight<T> *>(p.saved)[row * p.H + unit];
      r.dy[n][i] = p.dy ? static_cast<const T *>(p.dy)[row * p.H + unit] : narrow<T>(0);
      r.routed[n][i] = reinterpret_cast<const Four *>(p.routed)[row];
      r.h[n][i] = s ? static_cast<const T *>(p.y)[row_of(p, place, s - 1, length, sequence) * p.H + unit]
                    : static_cast<const T *>(p.h0)[(place.client * p.B + place.first + sequence) * p.H + unit];
    }
  }
}

template <typename T, int N, int M>
FLOW_DEVICE void begin(const Problem &p, const Place &place, const Lane &lane, BackwardRegisters<T, N, M> &r, char *shared) {
  constexpr int held = BackwardRegisters<T, N, M>::kHeld;
  const Shape &s = place.shape;
  const BackwardMemory memory(s, held);
  const int unit = place.unit(lane), steps = backward_steps(s);
  const bool mine = lane.warp < s.unit_warps() && unit < p.H;
  r.v = mine ? p.router[place.client * (p.H + 1) + unit] : 0;
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
  if (lane.thread < s.tile) reinterpret_cast<int *>(shared + memory.lengths)[lane.thread] = length_of(p, place, lane.thread);
  // A lane reads back from shared memory only what it wrote there itself.
  const Fragment *from = static_cast<const Fragment *>(p.weights) +
                         (((place.client * s.blocks + place.rank) * kWarps + lane.warp) * steps * M) * 32;
  Fragment *to = reinterpret_cast<Fragment *>(shared + memory.weights + lane.warp * memory.weights_of_warp);
  FLOW_UNROLL
  for (int k = 0; k < held; ++k) {
    FLOW_UNROLL
    for (int m = 0; m < M; ++m) r.held[k][m] = k < steps ? from[(k * M + m) * 32 + lane.lane] : Fragment{};
  }
  for (int n = held * M; n < steps * M; ++n) to[(n - held * M) * 32 + lane.lane] = from[n * 32 + lane.lane];
  fetch(p, place, lane, r, p.T - 1);
}

// From the gradient of the unit's output to those of its gates: the product's operand.
template <typename T, int N, int M>
FLOW_DEVICE void turn(const Problem &p, const Place &place, const Lane &lane, BackwardRegisters<T, N, M> &r, char *shared,
                      int64_t step) {
  const Shape &s = place.shape;
  const BackwardMemory memory(s, r.kHeld);
  if (lane.warp >= s.unit_warps()) return;
  const int unit = place.unit(lane);
  FLOW_UNROLL
  for (int n = 0; n < N; ++n) {
    FLOW_UNROLL
    for (int i = 0; i < 2; ++i) {
      const bool running = step < r.length[n][i] && unit < p.H;
      float of_gates[2][4] = {}, gap = 0;  // [expert][r, z, u, n]
      r.direct[n][i] = r.carry[n][i];
      r.slope[n][i] = r.edge[n][i] = 0;
      if (running) {
        const float delta = r.carry[n][i] + widen(r.dy[n][i]), h = widen(r.h[n][i]);
        const Four &routed = r.routed[n][i];
        r.direct[n][i] = 0;
        FLOW_UNROLL
        for (int e = 0; e < 2; ++e) {
          if (!uses(p, e)) continue;
          const T *kept = r.saved[n][i].v + 4 * e;
          const Gates g = {widen(kept[0]), widen(kept[1]), widen(kept[2]), widen(kept[3])};
          const float de = routed.v[e] * delta;
          const Gates d = gradients(g, h, de);
          of_gates[e][0] = d.r, of_gates[e][1] = d.z, of_gates[e][2] = d.u, of_gates[e][3] = d.n;
          r.direct[n][i] += g.z * de;
          gap += (e ? -delta : delta) * output(g, h);
        }
        r.slope[n][i] = routed.v[2], r.edge[n][i] = routed.v[3];
      }
      r.gap[2 * n + i] = gap;
      FLOW_UNROLL
      for (int e = 0; e < 2; ++e) {
        FLOW_UNROLL
        for (int g = 0; g < 4; ++g) {
          const int at = gradient_at(s, lane.warp, g, e, lane.sequence(n, i));
          reinterpret_cast<T *>(shared + memory.gradients + at)[lane.row] = narrow<T>(of_gates[e][g]);
        }
      }
    }
  }
}

// The product's rows are units of all blocks: into the parcels of those blocks, and into this block's own.
template <typename T, int N, int M>
FLOW_DEVICE void pack(const Place &place, const Lane &lane, BackwardRegisters<T, N, M> &r, char *shared, int64_t n_th) {
  const Shape &s = place.shape;
  const BackwardMemory memory(s, r.kHeld);
  char *parcels = shared + memory.parcels;
  const auto parcel = [&](int peer) {
    return slot_at(s, peer == place.rank ? received_buffer(n_th) : sending_buffer(n_th), peer);
  };
  FLOW_UNROLL
  for (int m = 0; m < M; ++m) {
    FLOW_UNROLL
    for (int half = 0; half < 2; ++half) {
      const int unit = (lane.warp * M + m) * 16 + half * 8 + lane.row;
      if (unit >= s.padded()) continue;
      const int peer = s.block_of(unit);
      FLOW_UNROLL
      for (int n = 0; n < N; ++n) {
        const int at = parcel(peer) + parcel_at(s, unit - peer * s.units, lane.sequence(n, 0));
        *reinterpret_cast<Two *>(parcels + at) = {{r.acc[m][n][half * 2], r.acc[m][n][half * 2 + 1]}};
      }
    }
  }
  for (int peer = lane.warp; peer < s.blocks; peer += kWarps) {
    const int sequence = lane.lane;
    if (sequence >= s.tile) break;
    float sum = 0;
    for (int w = 0; w < s.unit_warps(); ++w)
      sum += *reinterpret_cast<const float *>(shared + memory.gaps + (w * s.tile + sequence) * 4);
    *reinterpret_cast<float *>(parcels + parcel(peer) + parcel_at(s, s.units, sequence)) = sum;
  }
}

// Gradients of the gates to the tensor: a warp takes one gate of one expert, a lane 16 bytes at a time where H allows it.
template <typename T, int N, int M>
FLOW_DEVICE void store(const Problem &p, const Place &place, const Lane &lane, const char *shared, int64_t step) {
  const Shape &s = place.shape;
  const BackwardMemory memory(s, BackwardRegisters<T, N, M>::kHeld);
  const int gate = lane.warp % 4, expert = lane.warp / 4, slot = gate == 3 ? 0 : gate == 2 ? 3 : gate + 1;  // n, r, z, u
  if (!uses(p, expert)) return;
  const int warp = lane.lane % 8;
  if (warp >= s.unit_warps()) return;
  for (int sequence = lane.lane / 8; sequence < s.tile; sequence += 4) {
    const int length = reinterpret_cast<const int *>(shared + memory.lengths)[sequence];
    const int unit = place.rank * s.units + warp * kWarpUnits;
    if (unit >= p.H || !has_row(p, step, length)) continue;
    const int64_t row = row_of(p, place, step, length, sequence) * (p.route == 0 ? 2 : 1) + slot_of(p, expert);
    T *to = static_cast<T *>(p.dgates) + (row * 4 + slot) * p.H + unit;
    const int at = memory.gradients + gradient_at(s, warp, gate, expert, sequence);
    const Eight<T> all = *reinterpret_cast<const Eight<T> *>(shared + at);
    if (p.H % 8 == 0) {
      *reinterpret_cast<Eight<T> *>(to) = all;
    } else {
      FLOW_UNROLL
      for (int u = 0; u < 8; ++u)
        if (unit + u < p.H) to[u] = all.v[u];
    }
  }
}

// The carry to the step before.
template <typename T, int N, int M>
FLOW_DEVICE void collect(const Problem &p, const Place &place, const Lane &lane, BackwardRegisters<T, N, M> &r,
                         const char *shared, int64_t step, int64_t n_th) {
  const Shape &s = place.shape;
  const BackwardMemory memory(s, r.kHeld);
  if (lane.warp >= s.unit_warps()) return;
  const int local = lane.warp * kWarpUnits + lane.row;
  FLOW_UNROLL
  for (int n = 0; n < N; ++n) {
    Two sum = {}, gap = {};
    for (int peer = 0; peer < s.blocks; ++peer) {
      const char *parcel = shared + memory.parcels + slot_at(s, received_buffer(n_th), peer);
      const Two part = *reinterpret_cast<const Two *>(parcel + parcel_at(s, local, lane.sequence(n, 0)));
      const Two of_router = *reinterpret_cast<const Two *>(parcel + parcel_at(s, s.units, lane.sequence(n, 0)));
      FLOW_UNROLL
      for (int i = 0; i < 2; ++i) sum.v[i] += part.v[i], gap.v[i] += of_router.v[i];
    }
    FLOW_UNROLL
    for (int i = 0; i < 2; ++i) {
      const int length = r.length[n][i];
      const bool running = step < length;
      // without a gradient for the router, not even a NaN reaches it
      const float d = r.slope[n][i] != 0 ? r.slope[n][i] * (gap.v[i] + r.edge[n][i]) : 0;
      if (running) r.carry[n][i] = r.direct[n][i] + sum.v[i] + d * r.v;
      if (p.dlogit && place.unit(lane) == 0 && has_row(p, step, length))
        p.dlogit[row_of(p, place, step, length, lane.sequence(n, i))] = running ? d : 0;
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
  block.each([=, &p](const Lane &lane, Registers &r) { begin(p, place, lane, r, shared); });
  block.open(s, backward_exchanges(p.T), expected_bytes(s, parcel_bytes(s)));

  for (int64_t n = 0; n < p.T; ++n) {
    const int64_t step = p.T - 1 - n;
    block.each([=, &p](const Lane &lane, Registers &r) { turn(p, place, lane, r, shared, step); });
    block.template add_across_lanes<4, 16>([](Registers &r) -> auto & { return r.gap; });
    block.each([=, &p](const Lane &lane, Registers &r) {
      if (lane.row == 0 && lane.warp < s.unit_warps()) {
        FLOW_UNROLL
        for (int g = 0; g < 2 * N; ++g) {
          const int at = memory.gaps + (lane.warp * s.tile + lane.sequence(g / 2, g % 2)) * 4;
          *reinterpret_cast<float *>(shared + at) = r.gap[g];
        }
      }
      if (step > 0) fetch(p, place, lane, r, step - 1);
    });
    block.sync();  // the operand is there, and everyone is done with the parcels of the iteration before
    block.template product<T, M, N>(s, memory.weights, memory.weights_of_warp, memory.gradients, backward_steps(s));
    block.each([=, &p](const Lane &lane, Registers &r) {
      pack(place, lane, r, shared, n);
      store<T, N, M>(p, place, lane, shared, step);
    });
    block.publish();  // before the copies, which read what all threads have written
    block.send(
        n, [=](int peer) { return memory.parcels + slot_at(s, sending_buffer(n), peer); },
        memory.parcels + slot_at(s, received_buffer(n), place.rank), parcel_bytes(s));
    block.wait(n);
    block.each([=, &p](const Lane &lane, Registers &r) { collect(p, place, lane, r, shared, step, n); });
  }

  block.each([=, &p](const Lane &lane, Registers &r) {
    const int unit = place.unit(lane);
    FLOW_UNROLL
    for (int n = 0; n < N; ++n) {
      FLOW_UNROLL
      for (int i = 0; i < 2; ++i) {
        const int64_t b = place.first + lane.sequence(n, i);
        if (lane.warp < s.unit_warps() && b < p.B && unit < p.H)
          static_cast<T *>(p.dh0)[(place.client * p.B + b) * p.H + unit] = narrow<T>(r.carry[n][i]);
      }
    }
  });
  block.close();
}

}  // namespace flow::cuda
