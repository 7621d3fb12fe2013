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

  explicit Problem(const FlowCluster &p) : FlowCluster(p), shape(shape_of((int)p.H, (int)p.blocks, (int)p.tile)) {}
  int64_t tiles() const { return (B + tile - 1) / tile; }
};

struct Place {
  Shape shape;
  int64_t client;
  int first;  // the tile's first sequence
  int rank;   // of the block in its cluster

  FLOW_BOTH Place(const Problem &p, int64_t client, int64_t tile, int block)
      : shape(p.shape), client(client), first((int)(tile * p.shape.tile)), rank(block) {}
  FLOW_BOTH int unit(const Lane &lane) const { return rank * shape.units + lane.warp * kWarpUnits + lane.row; }
};

// Offset, in one 16-column step of an operand [2][tile][8], of the matrix row whose address a lane gives to ldmatrix: matrices
// in the order columns 0-7, columns 8-15 of an n-tile, then those of the next. With one n-tile only the first 16 lanes are
// asked.
FLOW_BOTH constexpr int operand_row(int tile, int n_tiles, int lane) {
  const int matrix = lane / 8 % (n_tiles == 1 ? 2 : 4);
  return (matrix % 2 * tile + matrix / 2 * 8 + lane % 8) * 16;
}

// Steps of a sequence of the tile; -1 where the tile reaches past the batch.
FLOW_DEVICE int length_of(const Problem &p, const Place &place, int sequence) {
  const int64_t b = place.first + sequence;
  if (b >= p.B) return -1;
  const int64_t length = p.lengths ? p.lengths[place.client * p.B + b] : p.T;
  return (int)(length < p.T ? length : p.T);
}

// Padding has rows in padded tensors and none in packed ones.
FLOW_DEVICE bool has_row(const Problem &p, int64_t s, int length) { return length >= 0 && (s < length || !p.offsets); }

// The row, counted over all clients, at which a sequence is at step s of the loop; only where has_row.
FLOW_DEVICE int64_t row_of(const Problem &p, const Place &place, int64_t s, int length, int sequence) {
  const int64_t t = time_of(s, length, p.reverse != 0), b = place.first + sequence;
  return place.client * p.rows + (p.offsets ? p.offsets[t] + b : t * p.step_stride + b * p.batch_stride);
}

// Whether the route uses an expert, and its place among those used.
FLOW_DEVICE bool uses(const Problem &p, int expert) { return p.route == 0 || p.route == expert + 1; }
FLOW_DEVICE int64_t slot_of(const Problem &p, int expert) { return p.route == 0 ? expert : 0; }

}  // namespace flow::cuda
