// Which part of the problem a thread has: its lane, its block's place, its rows of the tensors.
#pragma once

#include "cluster.h"
#include "shape.h"

namespace flow::cuda {

struct alignas(16) Fragment {  // a lane's part of a 16 x 16 tile of weights
  uint32_t v[4];
};
struct alignas(8) Two {
  float v[2];
};
struct alignas(16) Four {
  float v[4];
};
template <typename T>
struct alignas(4) Pair {
  T v[2];
};
template <typename T>
struct alignas(16) Eight {
  T v[8];
};

// A lane of m16n8k16's accumulator has rows `row` and `row` + 8, columns 2 `pair` and 2 `pair` + 1. Here: unit `row` of the
// warp's eight, global and local expert, and two sequences of every n-tile.
struct Lane {
  int thread, warp, lane, row, pair;
  FLOW_BOTH explicit Lane(int t) : thread(t), warp(t / 32), lane(t % 32), row(t % 32 / 4), pair(t % 4) {}
  FLOW_BOTH int sequence(int n, int i) const { return n * 8 + pair * 2 + i; }  // of the tile
};

// What a kernel is given.
struct Problem : FlowCluster {
  Shape shape;
  float scale;  // 1 / temperature

  explicit Problem(const FlowCluster &p)
      : FlowCluster(p), shape(shape_of((int)p.H, (int)p.blocks, (int)p.tile)), scale(1 / (float)p.temperature) {}
  int64_t tiles() const { return (B + tile - 1) / tile; }
};

struct Place {
  Shape shape;
  int64_t client;
  int first;  // the tile's first sequence
  int rank;   // of the block in its cluster

  FLOW_BOTH Place(const Problem &p, int64_t client, int64_t tile, int block)
      : shape(p.shape), client(client), first((int)(tile * p.shape.tile)), rank(block) {}
  FLOW_BOTH int unit(int warp, const Lane &lane) const { return rank * shape.units + warp * kWarpUnits + lane.row; }
};

// Offset, in one 16-column step of an operand, of the matrix row whose address a lane gives to ldmatrix: matrices in the order
// columns 0-7, columns 8-15 of an n-tile, then those of the next. Columns 8-15 lie `group` bytes behind columns 0-7. With one
// n-tile only the first 16 lanes are asked.
FLOW_BOTH constexpr int operand_row(int group, int n_tiles, int lane) {
  const int matrix = lane / 8 % (n_tiles == 1 ? 2 : 4);
  return matrix % 2 * group + (matrix / 2 * 8 + lane % 8) * 16;
}

// An operand: 16-column steps of two groups of eight columns, a group [tile][8] elements of 2 bytes and what is behind them.
// Sequence n is taken from place n ^ crossed; the gates' gradients also lie at swizzled places.
struct Operand {
  int at, group, crossed;
};

// Steps of a sequence of the tile; -1 where the tile reaches past the batch.
FLOW_DEVICE int length_of(const Problem &p, const Place &place, int sequence) {
  const int64_t b = place.first + sequence;
  if (b >= p.B) return -1;
  const int64_t length = p.lengths ? p.lengths[place.client * p.B + b] : p.T;
  return (int)(length < p.T ? length : p.T);
}

// Padding has rows in padded tensors and none in packed ones.
FLOW_DEVICE bool has_row(const Problem &p, int s, int length) { return length >= 0 && (s < length || !p.offsets); }

// The row of its client at which a sequence is at step s of the loop; -1 where it has none. 32 bits suffice: as many rows would
// be terabytes.
FLOW_DEVICE int row_of(const Problem &p, const Place &place, int s, int length, int sequence) {
  const bool there = has_row(p, s, length);
  const int t = there ? time_of(s, length, p.reverse != 0) : 0, b = place.first + sequence;
  const int first = p.offsets ? (int)p.offsets[t] : t * (int)p.step_stride;
  return there ? first + b * (int)p.batch_stride : -1;
}

// The row among those of all clients. Where there is none, the client's first one: something to read, whatever it holds.
FLOW_DEVICE int64_t among_all(const Problem &p, const Place &place, int row) {
  return place.client * p.rows + (row < 0 ? 0 : row);
}

// Two numbers of a row of weights, of columns `column` and the next; zero where there is none. In one load where H is even: the
// caller has asked paired().
template <typename T>
FLOW_DEVICE uint32_t two_weights(const Problem &p, const T *row, int column, bool paired) {
  if (!row || column >= p.shape.hidden) return 0;
  if (paired) {
    uint32_t both;
    memcpy(&both, __builtin_assume_aligned(row + column, 4), 4);
    return both;
  }
  return (uint32_t)row[column].bits | (column + 1 < p.shape.hidden ? (uint32_t)row[column + 1].bits << 16 : 0);
}
FLOW_DEVICE bool paired(const Problem &p) {
  return p.H % 2 == 0 && (reinterpret_cast<uintptr_t>(p.w_hh[0]) | reinterpret_cast<uintptr_t>(p.w_hh[1])) % 4 == 0;
}

// Row of W_hh of one expert, gate and unit; null where there is none.
template <typename T>
FLOW_DEVICE const T *weight_row(const Problem &p, const Place &place, int expert, int gate, int unit) {
  const T *w = static_cast<const T *>(p.w_hh[expert]);
  return w && unit < p.shape.hidden ? w + ((place.client * 3 + gate) * p.H + unit) * p.H : nullptr;
}

// Row 0 minus row 1 of the router, its column of h.
template <typename T>
FLOW_DEVICE float router_weight(const Problem &p, const Place &place, int unit) {
  const T *w = static_cast<const T *>(p.router);
  if (!w || unit >= p.shape.hidden) return 0;
  w += place.client * 2 * (p.I + p.H) + p.I + unit;
  return widen(w[0]) - widen(w[p.I + p.H]);
}

// Whether the route uses an expert, and its place among those used.
FLOW_DEVICE bool uses(const Problem &p, int expert) { return p.route == 0 || p.route == expert + 1; }
FLOW_DEVICE int64_t slot_of(const Problem &p, int expert) { return p.route == 0 ? expert : 0; }

}  // namespace flow::cuda
