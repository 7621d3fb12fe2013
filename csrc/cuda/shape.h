// How a cluster divides a client's units, where things lie in a block's shared memory, and who sends what to whom when: plain
// integer functions, the only place where this is said. Kernels, launcher and the tests' CPU model all use them.
//
// A cluster of `blocks` blocks runs `tile` sequences of one client. A block owns `units` consecutive hidden units, a warp eight
// of them. The tensor cores' products are m16n8k16: 16 rows of weights, 8 sequences (an n-tile), 16 columns of the state.
#pragma once

#include "portable.h"

namespace flow::cuda {

constexpr int kWarpUnits = 8;   // hidden units of a warp
constexpr int kWarps = 8;       // of a block; in forward only as many as have units
constexpr int kMaxBlocks = 16;  // of a cluster; above 8 the device must allow it ("non-portable")
constexpr int kMaxHidden = 512;
constexpr int kShared = 227 * 1024;  // bytes a block may use on sm_90
constexpr int kFragment = 512;       // bytes of a 16 x 16 tile of weights: 16 for each lane

FLOW_BOTH constexpr int round_up(int n, int to) { return (n + to - 1) / to * to; }
FLOW_BOTH constexpr int at_least_0(int n) { return n > 0 ? n : 0; }

struct Shape {
  int hidden, blocks, tile;
  int units;    // of a block
  int inverse;  // of units, in 1/65536, rounded up: kernels do not divide

  FLOW_BOTH constexpr int padded() const { return blocks * units; }
  FLOW_BOTH constexpr int unit_warps() const { return units / kWarpUnits; }
  FLOW_BOTH constexpr int n_tiles() const { return tile / 8; }
  FLOW_BOTH constexpr int block_of(int unit) const { return unit * inverse >> 16; }  // exact up to unit * units = 65536
};

constexpr Shape shape_of(int hidden, int blocks, int tile) {
  // One block alone must own an even number of warps' units, so that padded() is made of whole 16-column steps.
  const int units = blocks == 1 ? round_up(hidden, 16) : round_up((hidden + blocks - 1) / blocks, 8);
  return {hidden, blocks, tile, units, (65536 + units - 1) / units};
}

// ---- forward ----------------------------------------------------------------------------------------------------------
// A warp multiplies its 8 units' rows with the whole state. Three row tiles: gate r, z, u of the global expert in rows 0-7, of
// the local one in rows 8-15, so that one lane's accumulators hold all six gates of one unit.
//
// A block of a cluster of 16 has units for four warps only. There two warps share eight units: each multiplies with half of the
// state's columns, and finishes every other sequence.
constexpr int kForwardRows = 3;
FLOW_BOTH constexpr int forward_split(const Shape &s) { return s.blocks > 8 ? 2 : 1; }
FLOW_BOTH constexpr int forward_warps(const Shape &s) { return s.unit_warps() * forward_split(s); }
FLOW_BOTH constexpr int forward_steps(const Shape &s) { return s.padded() / 16 / forward_split(s); }  // of 16 columns, a warp
constexpr int forward_held(int n_tiles, int split) {  // of these, with weights in registers
  return n_tiles == 1 ? 12 : n_tiles == 2 ? (split == 2 ? 10 : 9) : 4;
}

// The state of one step, two buffers of [padded / 8] groups of eight units. A group has [tile][8] elements of 2 bytes, so that
// ldmatrix reads its 8 x 8 matrices as 128 consecutive bytes, without bank conflicts. Behind them are [tile] floats, the
// group's part of the router's logit. A block's groups are one consecutive piece, the same one in every block.
FLOW_BOTH constexpr int state_group(int tile) { return tile * 20; }
FLOW_BOTH constexpr int state_bytes(const Shape &s) { return s.padded() / 8 * state_group(s.tile); }
FLOW_BOTH constexpr int state_at(const Shape &s, int unit, int sequence) {
  return unit / 8 * state_group(s.tile) + (sequence * 8 + unit % 8) * 2;
}
FLOW_BOTH constexpr int state_piece(const Shape &s) { return s.unit_warps() * state_group(s.tile); }
// The n-tiles change places from group to group: a warp reads those of eight groups at once.
FLOW_BOTH constexpr int logit_at(const Shape &s, int group, int sequence) {
  const int n_tile = sequence / 8 ^ (group * s.tile / 32 & (s.n_tiles() - 1));
  return group * state_group(s.tile) + s.tile * 16 + (n_tile * 8 + sequence % 8) * 4;
}

struct ForwardMemory {
  int state, shares, weights, weights_of_warp, bytes;

  FLOW_BOTH constexpr ForwardMemory(const Shape &s, int held)
      : state(128),  // behind the two barriers
        shares(state + 2 * state_bytes(s)),
        weights(shares + (forward_split(s) - 1) * forward_warps(s) * share_bytes(s)),
        weights_of_warp(at_least_0(forward_steps(s) - held) * kForwardRows * kFragment),
        bytes(weights + forward_warps(s) * weights_of_warp) {}

  // What a warp hands to the one that shares its units: two floats (global, local) a lane, of every row tile and n-tile.
  FLOW_BOTH static constexpr int share_bytes(const Shape &s) { return kForwardRows * s.n_tiles() * 32 * 8; }
};

// ---- backward ---------------------------------------------------------------------------------------------------------
// All eight warps multiply the transposed weights of the block's own units, [padded] x [6 units], with the gates' gradients.
// Warp w has `rows` row tiles of 16 columns of the state, from (w * rows) * 16 on. Rows r and r + 8 of a tile are the columns
// 2 r and 2 r + 1, which are neighbours in W_hh.
FLOW_BOTH constexpr int backward_rows(const Shape &s) { return (s.padded() + 16 * kWarps - 1) / (16 * kWarps); }
FLOW_BOTH constexpr int backward_steps(const Shape &s) { return 3 * s.unit_warps(); }  // of 16: gate r, z or u of eight units
// 16-column steps with weights in registers: as many as there is room for beside the sequences.
constexpr int backward_held(int rows, int n_tiles) {
  return rows == 4 ? 4 : rows == 2 && n_tiles == 2 ? 9 : 20 / rows;
}

// The gates' gradients: [unit warp][r, z, u][expert][tile][8 units], the operand of the product, and behind it, only there to
// be stored, n [unit warp][expert][tile][8 units]. Eight sequences change places from step to step of the product, since what
// is stored is read of eight unit warps at once. Two buffers take turns: gradients are stored while the next are written.
FLOW_BOTH constexpr int swizzle(int step) { return step & 7; }
FLOW_BOTH constexpr int gradient_at(const Shape &s, int warp, int gate, int expert, int sequence) {
  const int step = gate < 3 ? warp * 3 + gate : s.unit_warps() * 3 + warp;
  return ((step * 2 + expert) * s.tile + (sequence ^ swizzle(step))) * 16;
}

FLOW_BOTH constexpr int gradient_bytes(const Shape &s) { return s.unit_warps() * 8 * s.tile * 16; }

// What a block sends to a peer in a step: the carry of the peer's units as far as it comes from the sender's, [units][tile]
// floats, and [tile] floats more for the router. Two buffers of `blocks` such parcels. Eight sequences of a unit are a piece;
// pieces change places so that those of four units, neighbours or every other one, lie in different banks.
FLOW_BOTH constexpr int parcel_bytes(const Shape &s) { return (s.units + 1) * s.tile * 4; }
FLOW_BOTH constexpr int parcel_at(const Shape &s, int unit, int sequence) {
  const int piece = unit * s.n_tiles() + sequence / 8, across = unit % 8 * s.n_tiles() >> 2;
  return ((piece ^ across) * 8 + sequence % 8) * 4;
}

// The floats for the router, behind those of the units; of four senders at once they lie in different banks.
FLOW_BOTH constexpr int gap_at(const Shape &s, int sender, int sequence) {
  return parcel_at(s, s.units, sequence ^ sender / 2 % s.n_tiles() * 8);
}

struct BackwardMemory {
  int parcels, gradients, gaps, lengths, logits, weights, weights_of_warp, bytes;

  FLOW_BOTH constexpr BackwardMemory(const Shape &s, int held)
      : parcels(128),
        gradients(round_up(parcels + 2 * s.blocks * parcel_bytes(s), 128)),
        gaps(gradients + 2 * gradient_bytes(s)),      // [unit_warps][tile] floats
        lengths(gaps + s.unit_warps() * s.tile * 4),  // [tile] int
        logits(lengths + s.tile * 4),                 // [tile] floats
        weights(logits + s.tile * 4),
        weights_of_warp(at_least_0(backward_steps(s) - held) * backward_rows(s) * kFragment),
        bytes(weights + kWarps * weights_of_warp) {}
};

// ---- exchange ---------------------------------------------------------------------------------------------------------
// Exchange n = 0, 1, .. of a launch: every block of the cluster sends one piece to every other, and waits for as many. Two
// barriers take turns, so the n-th use of a barrier is told from the one before by its parity.
FLOW_BOTH constexpr int barrier_of(int n) { return n & 1; }
FLOW_BOTH constexpr int parity_of(int n) { return (n >> 1) & 1; }
FLOW_BOTH constexpr int barrier_at(int n) { return barrier_of(n) * 8; }  // offset of the mbarrier in shared memory
FLOW_BOTH constexpr int expected_bytes(const Shape &s, int piece) { return (s.blocks - 1) * piece; }

// Forward, step s: reads the state in buffer s % 2 and writes the next into the other; exchange n = s brings the peers' part.
FLOW_BOTH constexpr int forward_exchanges(int steps) { return steps - 1; }
FLOW_BOTH constexpr int state_buffer(int step) { return step & 1; }
// Backward, iteration n (step T - 1 - n): receives into buffer n % 2 (a block's own parcel is written there at once), in the
// slot of the sender. What goes to peer p is first put together in slot p of the *other* buffer: that slot is free until p
// sends again, which p does only once it has received this.
FLOW_BOTH constexpr int backward_exchanges(int steps) { return steps; }
FLOW_BOTH constexpr int gradient_buffer(int n) { return n & 1; }
FLOW_BOTH constexpr int received_buffer(int n) { return n & 1; }
FLOW_BOTH constexpr int sending_buffer(int n) { return (n + 1) & 1; }
FLOW_BOTH constexpr int slot_at(const Shape &s, int buffer, int slot) { return (buffer * s.blocks + slot) * parcel_bytes(s); }

// ---- rows of the tensors ----------------------------------------------------------------------------------------------
// The step at which a sequence is at step s of the loop: its own order turned round, its padding where it is.
FLOW_BOTH constexpr int time_of(int s, int length, bool reverse) {
  return reverse && s < length ? length - 1 - s : s;
}

}  // namespace flow::cuda
