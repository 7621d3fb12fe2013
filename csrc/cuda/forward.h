// Forward: a cluster takes its sequences through all steps. Every block has the whole state h of its tile in shared
// memory and the recurrent weights of its own units, of both experts. A step multiplies the two. A lane finishes the
// units and sequences that its accumulators belong to, and keeps their state in float registers. The block sends its
// rounded part to the peers, and with it the part of the router's logit that its units make.
//
// What a step needs lies between the arrival of the state and the sending of the next one. Outputs are stored and the x-parts
// of the next step are loaded after that, while the state is on its way. The cell does not branch: what a length, a route
// or the end of the tensors excludes is computed from something that is there, and not chosen.
//
// Two state buffers suffice without a message that one is free. A peer overwrites the buffer that holds h_s with its part of
// h_{s+2}, for which it needs my part of h_{s+1}, which I send after a barrier that follows my last read of h_s. And that send
// reads from the very place where I put h_{s+1}: I write there again at step s + 2, having received the peers' h_{s+2}, which
// they sent after h_{s+1} had arrived.
#pragma once

#include "cell.h"
#include "place.h"

namespace flow::cuda {

// S: forward_split.
template <typename T, int N, int S>
struct ForwardRegisters {
  static constexpr int kHeld = forward_held(N, S);
  static constexpr int kOwn = 2 / S;  // sequences of every n-tile that the lane finishes
  Fragment held[kHeld][kForwardRows];
  float acc[kForwardRows][N][4];
  float h[N][kOwn], bias[8];
  float v, of_router;       // the router's weight of the unit, its bias
  float x[N][kOwn][6];      // of the step that comes next, on their way while the state is
  Two scores[N][kOwn];      // likewise
  float logit[N * kOwn];    // the state's part of the router's logit
  float part[N * kOwn];     // what the unit adds to the next
  Eight<T> gates[N][kOwn];  // for backward: r, z, n, u of both experts
  Choice q[N][kOwn];
  int length[N][kOwn], row[N][kOwn];  // row: of the step that is computed
};

// Which eight units of its block a warp has, and which part of the state's columns it multiplies.
template <int S>
struct Share {
  int warp, part;
  FLOW_BOTH Share(const Shape &s, const Lane &lane)
      : warp(S == 2 && lane.warp >= s.unit_warps() ? lane.warp - s.unit_warps() : lane.warp),
        part(S == 2 && lane.warp >= s.unit_warps() ? 1 : 0) {}
  // The i-th own sequence of an n-tile. Where two warps share units, column 2 pair of an accumulator is sequence 2 pair + part.
  FLOW_BOTH int sequence(const Lane &lane, int n, int i) const { return lane.sequence(n, S == 2 ? part : i); }
};

// Rows and x-parts of step s. What is loaded past a length is not used.
template <typename T, int N, int S>
FLOW_DEVICE void fetch(const Problem &p, const Place &place, const Lane &lane, ForwardRegisters<T, N, S> &r, int s) {
  const Share<S> share(place.shape, lane);
  const int unit = place.unit(share.warp, lane), column = unit < p.shape.hidden ? unit : 0;
  FLOW_UNROLL
  for (int n = 0; n < N; ++n) {
    FLOW_UNROLL
    for (int i = 0; i < r.kOwn; ++i) {
      r.row[n][i] = row_of(p, place, s, r.length[n][i], share.sequence(lane, n, i));
      const int64_t row = among_all(p, place, r.row[n][i]);
      FLOW_UNROLL
      for (int e = 0; e < 2; ++e) {
        const float *x = p.gates_of_x + (slot_of(p, e) * p.K * p.rows + row) * 3 * p.H + column;
        FLOW_UNROLL
        for (int g = 0; g < 3; ++g) r.x[n][i][e * 3 + g] = x[g * p.H];
      }
      // without a router anything will do: the route says what q is
      r.scores[n][i] = reinterpret_cast<const Two *>(p.scores ? p.scores : p.gates_of_x)[row];
    }
  }
}

template <typename T>
FLOW_DEVICE float bias_of(const Problem &p, const Place &place, const void *of_expert, int gate, int unit) {
  if (!of_expert || unit >= p.shape.hidden) return 0;
  return widen(static_cast<const T *>(of_expert)[(place.client * 3 + gate) * p.H + unit]);
}

// The lane's state and weights; the block's copy of h_0 and of its parts of the logit.
template <typename T, int N, int S>
FLOW_DEVICE void begin(const Problem &p, const Place &place, const Lane &lane, ForwardRegisters<T, N, S> &r, char *shared) {
  constexpr int held = ForwardRegisters<T, N, S>::kHeld;
  const Shape &s = place.shape;
  const Share<S> share(s, lane);
  const ForwardMemory memory(s, held);
  const int threads = forward_warps(s) * 32, unit = place.unit(share.warp, lane);
  const T *h0 = static_cast<const T *>(p.h0) + place.client * p.B * p.H;
  for (int n = lane.thread; n < s.padded() * s.tile; n += threads) {
    const int at = n % s.padded(), sequence = n / s.padded(), b = place.first + sequence;
    const bool there = at < p.shape.hidden && b < p.B;
    in_shared<T>(shared, memory.state + state_at(s, at, sequence)) = there ? h0[b * p.H + at] : narrow<T>(0);
  }
  for (int n = lane.thread; n < s.padded() / 8 * s.tile; n += threads) {
    const int group = n / s.tile, sequence = n % s.tile, b = place.first + sequence;
    float sum = 0;
    for (int at = group * 8; at < group * 8 + 8 && at < p.shape.hidden && b < p.B; ++at)
      sum += router_weight<T>(p, place, at) * widen(h0[b * p.H + at]);
    in_shared<float>(shared, memory.state + logit_at(s, group, sequence)) = sum;
  }
  r.v = router_weight<T>(p, place, unit);
  const T *of_router = static_cast<const T *>(p.router_bias) + place.client * 2;
  r.of_router = p.router_bias ? widen(of_router[0]) - widen(of_router[1]) : 0;
  FLOW_UNROLL
  for (int e = 0; e < 2; ++e) {
    FLOW_UNROLL
    for (int g = 0; g < 2; ++g)
      r.bias[4 * e + g] = bias_of<T>(p, place, p.b_ih[e], g, unit) + bias_of<T>(p, place, p.b_hh[e], g, unit);
    r.bias[4 * e + 2] = bias_of<T>(p, place, p.b_ih[e], 2, unit), r.bias[4 * e + 3] = bias_of<T>(p, place, p.b_hh[e], 2, unit);
  }
  FLOW_UNROLL
  for (int n = 0; n < N; ++n) {
    FLOW_UNROLL
    for (int i = 0; i < r.kOwn; ++i) {
      const int sequence = share.sequence(lane, n, i);
      r.length[n][i] = length_of(p, place, sequence);
      const int64_t b = place.first + sequence;
      r.h[n][i] = b < p.B && unit < p.shape.hidden ? widen(h0[b * p.H + unit]) : 0;
    }
  }
  // The warp's weights as the tensor cores hold them, straight from W_hh: the lanes of a unit read whole sectors of 32 bytes.
  const bool pairs = paired(p);
  const int steps = forward_steps(s), first = share.part * steps * 16 + lane.pair * 2;
  const auto weights = [&](int k, int gate) {
    Fragment f;
    FLOW_UNROLL
    for (int j = 0; j < 4; ++j)
      f.v[j] = two_weights(p, weight_row<T>(p, place, j % 2, gate, unit), first + k * 16 + j / 2 * 8, pairs);
    return f;
  };
  FLOW_UNROLL
  for (int k = 0; k < held; ++k) {
    FLOW_UNROLL
    for (int g = 0; g < kForwardRows; ++g) r.held[k][g] = k < steps ? weights(k, g) : Fragment{};
  }
  // A lane reads back from shared memory only what it wrote there itself.
  FLOW_UNROLL_BY(4)
  for (int k = held; k < steps; ++k) {
    FLOW_UNROLL
    for (int g = 0; g < kForwardRows; ++g) {
      const int at = ((k - held) * kForwardRows + g) * kFragment + lane.lane * 16;
      in_shared<Fragment>(shared, memory.weights + lane.warp * memory.weights_of_warp + at) = weights(k, g);
    }
  }
  fetch(p, place, lane, r, 0);
}

// Sums begin with what x and the biases bring, in the warp that will finish them.
template <typename T, int N, int S>
FLOW_DEVICE void start(ForwardRegisters<T, N, S> &r) {
  FLOW_UNROLL
  for (int n = 0; n < N; ++n) {
    FLOW_UNROLL
    for (int i = 0; i < 2; ++i) {
      FLOW_UNROLL
      for (int e = 0; e < 2; ++e) {
        const bool own = i < r.kOwn;
        const float *x = r.x[n][own ? i : 0] + 3 * e, *bias = r.bias + 4 * e;
        r.acc[0][n][i + 2 * e] = own ? x[0] + bias[0] : 0;
        r.acc[1][n][i + 2 * e] = own ? x[1] + bias[1] : 0;
        r.acc[2][n][i + 2 * e] = own ? bias[3] : 0;
      }
    }
  }
}

// The router's logit: a lane adds up every eighth group, the lanes of all rows together all of them.
template <typename T, int N, int S>
FLOW_DEVICE void route(const Place &place, const Lane &lane, ForwardRegisters<T, N, S> &r, char *shared, int step) {
  const Shape &s = place.shape;
  const Share<S> share(s, lane);
  const int state = ForwardMemory(s, r.kHeld).state + state_buffer(step) * state_bytes(s), groups = s.padded() / 8;
  FLOW_UNROLL
  for (int j = 0; j < N * r.kOwn; ++j) r.logit[j] = 0;
  FLOW_UNROLL
  for (int first = 0; first < kMaxHidden / 8; first += 8) {
    if (first >= groups) break;
    const int group = first + lane.row;
    const bool there = group < groups;
    FLOW_UNROLL
    for (int n = 0; n < N; ++n) {
      const Two part = in_shared<Two>(shared, state + logit_at(s, there ? group : lane.row % 2, lane.sequence(n, 0)));
      FLOW_UNROLL
      for (int i = 0; i < r.kOwn; ++i)
        r.logit[n * r.kOwn + i] += select(there, select(S == 2 && share.part, part.v[1], part.v[i]), 0);
    }
  }
}

// Where two warps share units: the sums of the other's sequences go there, and those of one's own come.
template <typename T, int N>
FLOW_DEVICE int share_at(const Shape &s, const ForwardMemory &memory, const Lane &lane, int warp, int n_th) {
  return memory.shares + warp * memory.share_bytes(s) + (n_th * 32 + lane.lane) * 8;
}
template <typename T, int N>
FLOW_DEVICE void hand_over(const Place &place, const Lane &lane, ForwardRegisters<T, N, 2> &r, char *shared) {
  const ForwardMemory memory(place.shape, r.kHeld);
  FLOW_UNROLL
  for (int m = 0; m < kForwardRows; ++m) {
    FLOW_UNROLL
    for (int n = 0; n < N; ++n)
      in_shared<Two>(shared, share_at<T, N>(place.shape, memory, lane, lane.warp, m * N + n)) = {
          {r.acc[m][n][1], r.acc[m][n][3]}};
  }
}
template <typename T, int N>
FLOW_DEVICE void take_over(const Place &place, const Lane &lane, ForwardRegisters<T, N, 2> &r, char *shared) {
  const Shape &s = place.shape;
  const ForwardMemory memory(s, r.kHeld);
  const int other = lane.warp < s.unit_warps() ? lane.warp + s.unit_warps() : lane.warp - s.unit_warps();
  FLOW_UNROLL
  for (int m = 0; m < kForwardRows; ++m) {
    FLOW_UNROLL
    for (int n = 0; n < N; ++n) {
      const Two sums = in_shared<Two>(shared, share_at<T, N>(s, memory, lane, other, m * N + n));
      r.acc[m][n][0] += sums.v[0], r.acc[m][n][2] += sums.v[1];
    }
  }
}

// The cell, from the accumulators to the next state.
template <typename T, int N, int S>
FLOW_DEVICE void finish(const Problem &p, const Place &place, const Lane &lane, ForwardRegisters<T, N, S> &r, char *shared,
                        int step) {
  const Shape &s = place.shape;
  const Share<S> share(s, lane);
  const int state = ForwardMemory(s, r.kHeld).state + state_buffer(step + 1) * state_bytes(s);
  FLOW_UNROLL
  for (int n = 0; n < N; ++n) {
    FLOW_UNROLL
    for (int i = 0; i < r.kOwn; ++i) {
      const bool running = step < r.length[n][i];
      const float score = r.scores[n][i].v[0] - r.scores[n][i].v[1] + r.of_router + r.logit[n * r.kOwn + i];
      const Choice c = choose(score * p.scale, p.routing != 0);
      const float h = r.h[n][i];
      const float q[2] = {select(p.route == 0, c.q0, p.route == 1), select(p.route == 0, c.q1, p.route == 2)};
      r.q[n][i] = {q[0], q[1]};
      float fresh = 0;  // an expert that the route leaves out has no say, not even by a NaN
      FLOW_UNROLL
      for (int e = 0; e < 2; ++e) {
        const Gates g = gates(r.acc[0][n][i + 2 * e], r.acc[1][n][i + 2 * e], r.x[n][i][3 * e + 2] + r.bias[4 * e + 2],
                              r.acc[2][n][i + 2 * e]);
        const float of_expert = q[e] * output(g, h);
        fresh += select(uses(p, e), of_expert, 0);
        T *kept = r.gates[n][i].v + 4 * e;
        kept[0] = narrow<T>(g.r), kept[1] = narrow<T>(g.z), kept[2] = narrow<T>(g.n), kept[3] = narrow<T>(g.u);
      }
      r.h[n][i] = select(running, fresh, h);
      const T rounded = narrow<T>(r.h[n][i]);
      in_shared<T>(shared, state + state_at(s, place.unit(share.warp, lane), share.sequence(lane, n, i))) = rounded;
      r.part[n * r.kOwn + i] = r.v * widen(rounded);
    }
  }
}

// The block's part of the next logit, summed over the eight units of a group.
template <typename T, int N, int S>
FLOW_DEVICE void add_to_route(const Place &place, const Lane &lane, ForwardRegisters<T, N, S> &r, char *shared, int step) {
  const Shape &s = place.shape;
  const Share<S> share(s, lane);
  if (lane.row) return;
  const int state = ForwardMemory(s, r.kHeld).state + state_buffer(step + 1) * state_bytes(s);
  const int group = place.rank * s.unit_warps() + share.warp;
  FLOW_UNROLL
  for (int n = 0; n < N; ++n) {
    FLOW_UNROLL
    for (int i = 0; i < r.kOwn; ++i)
      in_shared<float>(shared, state + logit_at(s, group, share.sequence(lane, n, i))) = r.part[n * r.kOwn + i];
  }
}

// The step's outputs, and what backward needs, to the tensors.
template <typename T, int N, int S>
FLOW_DEVICE void store(const Problem &p, const Place &place, const Lane &lane, const ForwardRegisters<T, N, S> &r,
                       int step) {
  const Share<S> share(place.shape, lane);
  const int unit = place.unit(share.warp, lane);
  const bool saves = p.saved != nullptr;
  FLOW_UNROLL
  for (int n = 0; n < N; ++n) {
    FLOW_UNROLL
    for (int i = 0; i < r.kOwn; ++i) {
      const bool running = step < r.length[n][i];
      if (unit >= p.shape.hidden || r.row[n][i] < 0) continue;
      const int64_t row = among_all(p, place, r.row[n][i]);
      static_cast<T *>(p.y)[row * p.H + unit] = narrow<T>(running ? r.h[n][i] : 0);
      if (saves & running) static_cast<Eight<T> *>(p.saved)[row * p.H + unit] = r.gates[n][i];
      if (unit == 0) {
        static_cast<T *>(p.q)[row * 2] = narrow<T>(running ? r.q[n][i].q0 : 0);
        static_cast<T *>(p.q)[row * 2 + 1] = narrow<T>(running ? r.q[n][i].q1 : 0);
      }
    }
  }
}

template <typename T, int N, int S, class Block>
FLOW_DEVICE void forward(Block &block, const Problem &p) {
  using Registers = ForwardRegisters<T, N, S>;
  const Place place = block.place(p);
  const Shape &s = place.shape;
  const ForwardMemory memory(s, Registers::kHeld);
  char *const shared = block.shared();
  const int steps = (int)p.T;
  block.each([=, &p](const Lane &lane, Registers &r) { begin(p, place, lane, r, shared); });
  block.open(s, forward_exchanges(steps), expected_bytes(s, state_piece(s)));
  const int part = S == 2 && block.second_half() ? 1 : 0;

  for (int step = 0; step < steps; ++step) {
    block.each([](const Lane &, Registers &r) { start(r); });
    if (step > 0) block.wait(step - 1);
    block.each([=](const Lane &lane, Registers &r) { route(place, lane, r, shared, step); });
    const int group = state_group(s.tile), columns = part * forward_steps(s) * 2 * group;
    block.template product<T, kForwardRows, N, false>(
        memory.weights, memory.weights_of_warp,
        {memory.state + state_buffer(step) * state_bytes(s) + columns, group, part}, forward_steps(s));
    if constexpr (S == 2) block.each([=](const Lane &lane, Registers &r) { hand_over(place, lane, r, shared); });
    block.template add_across_lanes<4, 16>([](Registers &r) -> auto & { return r.logit; });
    if constexpr (S == 2) {
      block.sync();
      block.each([=](const Lane &lane, Registers &r) { take_over(place, lane, r, shared); });
    }
    block.each([=, &p](const Lane &lane, Registers &r) { finish(p, place, lane, r, shared, step); });
    block.template add_across_lanes<4, 16>([](Registers &r) -> auto & { return r.part; });
    block.each([=](const Lane &lane, Registers &r) { add_to_route(place, lane, r, shared, step); });
    block.publish();  // before the copies, which read what all threads have written; nobody reads h_s any more
    if (step + 1 < steps) {
      const int mine = memory.state + state_buffer(step + 1) * state_bytes(s) + place.rank * state_piece(s);
      block.send(step, [=](int) { return mine; }, mine, state_piece(s));
    }
    // after the fence, which would wait for them
    block.each([=, &p](const Lane &lane, Registers &r) {
      store(p, place, lane, r, step);
      fetch(p, place, lane, r, step + 1 < steps ? step + 1 : step);
    });
  }

  block.each([=, &p](const Lane &lane, Registers &r) {
    const Share<S> share(s, lane);
    const int unit = place.unit(share.warp, lane);
    FLOW_UNROLL
    for (int n = 0; n < N; ++n) {
      FLOW_UNROLL
      for (int i = 0; i < r.kOwn; ++i) {
        const int64_t b = place.first + share.sequence(lane, n, i);
        if (b < p.B && unit < p.shape.hidden)
          static_cast<T *>(p.h_n)[(place.client * p.B + b) * p.H + unit] = narrow<T>(r.h[n][i]);
      }
    }
  });
  block.close();
}

}  // namespace flow::cuda
