// Forward: a cluster takes its sequences through all steps. Every block has the whole state h of its tile in shared
// memory and the recurrent weights of its own units, of both experts. A step multiplies the two. A lane finishes the
// units and sequences that its accumulators belong to, and keeps their state in float registers. The block sends its
// rounded part to the peers.
//
// Two state buffers suffice without a message that one is free. A peer overwrites the buffer that holds h_s with its part of
// h_{s+2}, for which it needs my part of h_{s+1}, which I send after a barrier that follows my last read of h_s. And that send
// reads from the very place where I put h_{s+1}: I write there again at step s + 2, having received the peers' h_{s+2}, which
// they sent after h_{s+1} had arrived.
#pragma once

#include "cell.h"
#include "place.h"

namespace flow::cuda {

template <typename T, int N>
struct ForwardRegisters {
  static constexpr int kHeld = forward_held(N);
  Fragment held[kHeld][kForwardRows];
  float acc[kForwardRows][N][4];
  float h[N][2], bias[8];
  float x[N][2][6];  // of the step that comes next, on their way while the state is
  Two scores[N][2];  // likewise
  float partial[N];
  int length[N][2];
};

// The x-parts of step s. What lies past a length is never read.
template <typename T, int N>
FLOW_DEVICE void fetch(const Problem &p, const Place &place, const Lane &lane, ForwardRegisters<T, N> &r, int64_t s) {
  const int unit = place.unit(lane);
  FLOW_UNROLL
  for (int n = 0; n < N; ++n) {
    FLOW_UNROLL
    for (int i = 0; i < 2; ++i) {
      const bool running = s < r.length[n][i];
      const int64_t row = running ? row_of(p, place, s, r.length[n][i], lane.sequence(n, i)) : 0;
      FLOW_UNROLL
      for (int e = 0; e < 2; ++e) {
        const float *x = p.gates_of_x + (slot_of(p, e) * p.K * p.rows + row) * 3 * p.H + unit;
        FLOW_UNROLL
        for (int g = 0; g < 3; ++g) r.x[n][i][e * 3 + g] = running && unit < p.H && uses(p, e) ? x[g * p.H] : 0;
      }
      r.scores[n][i] = running && p.scores ? reinterpret_cast<const Two *>(p.scores)[row] : Two{};
    }
  }
}

// The lane's state and weights; the block's copy of h_0 and of what the router needs.
template <typename T, int N>
FLOW_DEVICE void begin(const Problem &p, const Place &place, const Lane &lane, ForwardRegisters<T, N> &r, char *shared) {
  constexpr int held = ForwardRegisters<T, N>::kHeld;
  const Shape &s = place.shape;
  const ForwardMemory memory(s, held);
  const int threads = s.unit_warps() * 32, unit = place.unit(lane);
  const T *h0 = static_cast<const T *>(p.h0) + place.client * p.B * p.H;
  T *state = reinterpret_cast<T *>(shared + memory.state);
  for (int n = lane.thread; n < s.padded() * s.tile; n += threads) {
    const int at = n % s.padded(), sequence = n / s.padded(), b = place.first + sequence;
    state[state_at(s, at, sequence) / 2] = at < p.H && b < p.B ? h0[b * p.H + at] : narrow<T>(0);
  }
  float *router = reinterpret_cast<float *>(shared + memory.router);
  for (int n = lane.thread; n <= s.padded(); n += threads)
    router[n] = n == s.padded() ? p.router[place.client * (p.H + 1) + p.H]
                : n < p.H       ? p.router[place.client * (p.H + 1) + n]
                                : 0;
  FLOW_UNROLL
  for (int g = 0; g < 8; ++g) r.bias[g] = unit < p.H ? p.bias[(place.client * p.H + unit) * 8 + g] : 0;
  FLOW_UNROLL
  for (int n = 0; n < N; ++n) {
    FLOW_UNROLL
    for (int i = 0; i < 2; ++i) {
      const int sequence = lane.sequence(n, i);
      r.length[n][i] = length_of(p, place, sequence);
      const int64_t b = place.first + sequence;
      r.h[n][i] = b < p.B && unit < p.H ? widen(h0[b * p.H + unit]) : 0;
    }
  }
  // A lane reads back from shared memory only what it wrote there itself.
  const int steps = s.padded() / 16;
  const Fragment *from = static_cast<const Fragment *>(p.weights) +
                         (((place.client * s.blocks + place.rank) * s.unit_warps() + lane.warp) * steps * kForwardRows) * 32;
  Fragment *to = reinterpret_cast<Fragment *>(shared + memory.weights + lane.warp * memory.weights_of_warp);
  FLOW_UNROLL
  for (int k = 0; k < held; ++k) {
    FLOW_UNROLL
    for (int m = 0; m < kForwardRows; ++m)
      r.held[k][m] = k < steps ? from[(k * kForwardRows + m) * 32 + lane.lane] : Fragment{};
  }
  for (int n = held * kForwardRows; n < steps * kForwardRows; ++n)
    to[(n - held * kForwardRows) * 32 + lane.lane] = from[n * 32 + lane.lane];
  fetch(p, place, lane, r, 0);
}

// The router's product with h: a warp takes every so many 16 columns, a lane the same ones as in the tensor cores' operand.
template <typename T, int N>
FLOW_DEVICE void route(const Place &place, const Lane &lane, ForwardRegisters<T, N> &r, const char *shared, int64_t step) {
  const Shape &s = place.shape;
  const ForwardMemory memory(s, r.kHeld);
  const char *state = shared + memory.state + state_buffer(step) * state_bytes(s);
  FLOW_UNROLL
  for (int n = 0; n < N; ++n) r.partial[n] = 0;
  for (int k = lane.warp * 16; k < s.padded(); k += s.unit_warps() * 16) {
    FLOW_UNROLL
    for (int half = 0; half < 2; ++half) {
      const int unit = k + half * 8 + lane.pair * 2;
      const Two v = *reinterpret_cast<const Two *>(shared + memory.router + unit * 4);
      FLOW_UNROLL
      for (int n = 0; n < N; ++n) {
        const Pair<T> h = *reinterpret_cast<const Pair<T> *>(state + state_at(s, unit, n * 8 + lane.row));
        r.partial[n] += v.v[0] * widen(h.v[0]) + v.v[1] * widen(h.v[1]);
      }
    }
  }
}

// The cell, from the accumulators to the next state.
template <typename T, int N>
FLOW_DEVICE void finish(const Problem &p, const Place &place, const Lane &lane, ForwardRegisters<T, N> &r, char *shared,
                        int64_t step) {
  const Shape &s = place.shape;
  const ForwardMemory memory(s, r.kHeld);
  const int unit = place.unit(lane);
  T *state = reinterpret_cast<T *>(shared + memory.state + state_buffer(step + 1) * state_bytes(s));
  const float bias = *reinterpret_cast<const float *>(shared + memory.router + s.padded() * 4);
  const float scale = 1 / (float)p.temperature;
  FLOW_UNROLL
  for (int n = 0; n < N; ++n) {
    float score[2];
    FLOW_UNROLL
    for (int i = 0; i < 2; ++i) score[i] = r.scores[n][i].v[0] - r.scores[n][i].v[1] + bias;
    for (int w = 0; w < s.unit_warps(); ++w) {
      const int at = memory.partial + (w * s.tile + lane.sequence(n, 0)) * 4;
      const Two part = *reinterpret_cast<const Two *>(shared + at);
      score[0] += part.v[0], score[1] += part.v[1];
    }
    FLOW_UNROLL
    for (int i = 0; i < 2; ++i) {
      const int sequence = lane.sequence(n, i), length = r.length[n][i];
      const bool running = step < length;
      Choice c = {p.route == 1 ? 1.0f : 0.0f, p.route == 2 ? 1.0f : 0.0f};
      if (p.route == 0) c = choose(score[i] * scale, p.routing != 0);
      const float *x = r.x[n][i], h = r.h[n][i];
      const Gates global = gates(r.acc[0][n][i] + x[0] + r.bias[0], r.acc[1][n][i] + x[1] + r.bias[1], x[2] + r.bias[2],
                                 r.acc[2][n][i] + r.bias[3]);
      const Gates local = gates(r.acc[0][n][i + 2] + x[3] + r.bias[4], r.acc[1][n][i + 2] + x[4] + r.bias[5], x[5] + r.bias[6],
                                r.acc[2][n][i + 2] + r.bias[7]);
      float fresh = 0;  // an expert that the route leaves out has no say, not even by a NaN
      if (uses(p, 0)) fresh += c.q0 * output(global, h);
      if (uses(p, 1)) fresh += c.q1 * output(local, h);
      if (running) r.h[n][i] = fresh;
      state[state_at(s, unit, sequence) / 2] = narrow<T>(r.h[n][i]);
      if (unit >= p.H || !has_row(p, step, length)) continue;
      const int64_t row = row_of(p, place, step, length, sequence);
      static_cast<T *>(p.y)[row * p.H + unit] = narrow<T>(running ? fresh : 0);
      if (p.saved && running) {
        const float all[8] = {global.r, global.z, global.n, global.u, local.r, local.z, local.n, local.u};
        Eight<T> kept;
        FLOW_UNROLL
        for (int g = 0; g < 8; ++g) kept.v[g] = narrow<T>(all[g]);
        static_cast<Eight<T> *>(p.saved)[row * p.H + unit] = kept;
      }
      if (unit == 0) {
        static_cast<T *>(p.q)[row * 2] = narrow<T>(running ? c.q0 : 0);
        static_cast<T *>(p.q)[row * 2 + 1] = narrow<T>(running ? c.q1 : 0);
      }
    }
  }
}

template <typename T, int N, class Block>
FLOW_DEVICE void forward(Block &block, const Problem &p) {
  using Registers = ForwardRegisters<T, N>;
  const Place place = block.place(p);
  const Shape &s = place.shape;
  const ForwardMemory memory(s, Registers::kHeld);
  char *const shared = block.shared();
  block.each([=, &p](const Lane &lane, Registers &r) { begin(p, place, lane, r, shared); });
  block.open(s, forward_exchanges(p.T), expected_bytes(s, state_piece(s)));

  for (int64_t step = 0; step < p.T; ++step) {
    if (step > 0) block.wait(step - 1);
    block.each([=](const Lane &lane, Registers &r) { route<T, N>(place, lane, r, shared, step); });
    block.template add_across_lanes<1, 2>([](Registers &r) -> auto & { return r.partial; });
    block.each([=](const Lane &lane, Registers &r) {
      if (lane.pair) return;
      FLOW_UNROLL
      for (int n = 0; n < N; ++n)
        *reinterpret_cast<float *>(shared + memory.partial + (lane.warp * s.tile + n * 8 + lane.row) * 4) = r.partial[n];
    });
    block.template product<T, kForwardRows, N>(s, memory.weights, memory.weights_of_warp,
                                               memory.state + state_buffer(step) * state_bytes(s), s.padded() / 16);
    block.sync();  // the router's parts are there, and nobody reads this state any more
    block.each([=, &p](const Lane &lane, Registers &r) { finish(p, place, lane, r, shared, step); });
    block.publish();  // before the copies, which read what all threads have written
    if (step + 1 < p.T) {
      const int mine = memory.state + state_buffer(step + 1) * state_bytes(s) + state_at(s, place.rank * s.units, 0);
      block.send(step, [=](int) { return mine; }, mine, state_piece(s));
      // after the fence, which would wait for these loads
      block.each([=, &p](const Lane &lane, Registers &r) { fetch(p, place, lane, r, step + 1); });
    }
  }

  block.each([=, &p](const Lane &lane, Registers &r) {
    const int unit = place.unit(lane);
    FLOW_UNROLL
    for (int n = 0; n < N; ++n) {
      FLOW_UNROLL
      for (int i = 0; i < 2; ++i) {
        const int64_t b = place.first + lane.sequence(n, i);
        if (b < p.B && unit < p.H) static_cast<T *>(p.h_n)[(place.client * p.B + b) * p.H + unit] = narrow<T>(r.h[n][i]);
      }
    }
  });
  block.close();
}

}  // namespace flow::cuda
