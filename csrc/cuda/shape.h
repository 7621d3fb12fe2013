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
constexpr int kForwardRows = 3;
constexpr int forward_held(int n_tiles) { return n_tiles > 2 ? 4 : 8; }  // 16-column steps of weights kept in registers

// The state of one step, two buffers of [padded / 8][tile][8] elements of 2 bytes: ldmatrix reads its 8 x 8 matrices
// as 128 consecutive bytes, without bank conflicts. A block's units are one consecutive piece, the same one in every
// block.
FLOW_BOTH constexpr int state_bytes(const Shape &s) { return s.padded() * s.tile * 2; }
FLOW_BOTH constexpr int state_at(const Shape &s, int unit, int sequence) {
  return ((unit / 8 * s.tile + sequence) * 8 + unit % 8) * 2;
}
FLOW_BOTH constexpr int state_piece(const Shape &s) { return s.units * s.tile * 2; }

struct ForwardMemory {
  int state, router, partial, weights, weights_of_warp, bytes;

  FLOW_BOTH constexpr ForwardMemory(const Shape &s, int held)
      : state(128),  // behind the two barriers
        router(state + 2 * state_bytes(s)),
        partial(router + round_up((s.padded() + 1) * 4, 16)),  // [unit_warps][tile] floats
        weights(partial + s.unit_warps() * s.tile * 4),
        weights_of_warp(at_least_0(s.padded() / 16 - held) * kForwardRows * kFragment),
        bytes(weights + s.unit_warps() * weights_of_warp) {}
};

// ---- backward ---------------------------------------------------------------------------------------------------------
// All eight warps multiply the transposed weights of the block's own units, [padded] x [6 units], with the gates' gradients.
// Warp w has `rows` row tiles of 16 columns of the state, from (w * rows) * 16 on.
FLOW_BOTH constexpr int backward_rows(const Shape &s) { return (s.padded() + 16 * kWarps - 1) / (16 * kWarps); }
FLOW_BOTH constexpr int backward_steps(const Shape &s) { return 3 * s.unit_warps(); }  // of 16: gate r, z or u of eight units
constexpr int backward_held(int rows) { return rows == 4 ? 4 : 20 / rows; }            // 16-column steps in registers

// The gates' gradients: [unit warp][r, z, u][expert][tile][8 units], the operand of the product, and behind it, only there to
// be stored, n [unit warp][expert][tile][8 units].
FLOW_BOTH constexpr int gradient_at(const Shape &s, int warp, int gate, int expert, int sequence) {
  return (((gate < 3 ? warp * 3 + gate : s.unit_warps() * 3 + warp) * 2 + expert) * s.tile + sequence) * 16;
}

// What a block sends to a peer in a step: the carry of the peer's units as far as it comes from the sender's, [units][tile]
// floats, and [tile] floats more for the router. Two buffers of `blocks` such parcels.
FLOW_BOTH constexpr int parcel_bytes(const Shape &s) { return (s.units + 1) * s.tile * 4; }
FLOW_BOTH constexpr int parcel_at(const Shape &s, int unit, int sequence) { return (unit * s.tile + sequence) * 4; }

struct BackwardMemory {
  int parcels, gradients, gaps, lengths, weights, weights_of_warp, bytes;

  FLOW_BOTH constexpr BackwardMemory(const Shape &s, int held)
      : parcels(128),
        gradients(parcels + 2 * s.blocks * parcel_bytes(s)),
        gaps(gradients + s.unit_warps() * 8 * s.tile * 16),  // [unit_warps][tile] floats
        lengths(gaps + s.unit_warps() * s.tile * 4),         // [tile] int
        weights(lengths + s.tile * 4),
        weights_of_warp(at_least_0(backward_steps(s) - held) * backward_rows(s) * kFragment),
        bytes(weights + kWarps * weights_of_warp) {}
};

// ---- exchange ---------------------------------------------------------------------------------------------------------
// Exchange n = 0, 1, .. of a launch: every block of the cluster sends one piece to every other, and waits for as many. Two
// barriers take turns, so the n-th use of a barrier is told from the one before by its parity.
FLOW_BOTH constexpr int barrier_of(int64_t n) { return (int)(n & 1); }
FLOW_BOTH constexpr int parity_of(int64_t n) { return (int)((n >> 1) & 1); }
FLOW_BOTH constexpr int barrier_at(int64_t n) { return barrier_of(n) * 8; }  // offset of the mbarrier in shared memory
FLOW_BOTH constexpr int expected_bytes(const Shape &s, int piece) { return (s.blocks - 1) * piece; }

// Forward, step s: reads the state in buffer s % 2 and writes the next into the other; exchange n = s brings the peers' part.
FLOW_BOTH constexpr int64_t forward_exchanges(int64_t steps) { return steps - 1; }
FLOW_BOTH constexpr int state_buffer(int64_t step) { return (int)(step & 1); }
// Backward, iteration n (step T - 1 - n): receives into buffer n % 2 (a block's own parcel is written there at once), in the
// slot of the sender. What goes to peer p is first put together in slot p of the *other* buffer: that slot is free until p
// sends again, which p does only once it has received this.
FLOW_BOTH constexpr int64_t backward_exchanges(int64_t steps) { return steps; }
FLOW_BOTH constexpr int received_buffer(int64_t n) { return (int)(n & 1); }
FLOW_BOTH constexpr int sending_buffer(int64_t n) { return (int)((n + 1) & 1); }
FLOW_BOTH constexpr int slot_at(const Shape &s, int buffer, int slot) { return (buffer * s.blocks + slot) * parcel_bytes(s); }

// ---- rows of the tensors ----------------------------------------------------------------------------------------------
// The step at which a sequence is at step s of the loop: its own order turned round, its padding where it is.
FLOW_BOTH constexpr int64_t time_of(int64_t s, int64_t length, bool reverse) {
  return reverse && s < length ? length - 1 - s : s;
}

}  // namespace flow::cuda
