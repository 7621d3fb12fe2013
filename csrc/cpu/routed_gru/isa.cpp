// Compiled once per instruction set, with FLOW_ISA its name: everything but the one exported function is internal.
#include "kernels.h"

#include "forward.h"
#include "weights.h"

namespace {

template <class F>
struct Entry {
  using T = Real<F>;

  static int64_t bytes(int64_t elements) { return (int64_t)((elements * (int64_t)sizeof(T) + 63) / 64 * 64); }

  static int64_t forward_pack_bytes(const Client<F> &c) { return bytes(ForwardPack<F>(c, is_direct(c)).total); }
  static int64_t forward_pack_size(const FlowRoutedGru *p) { return forward_pack_bytes(Client<F>(*p, 0)); }
  static int64_t forward_scratch_size(const FlowRoutedGru *p, int64_t tile) {
    return bytes(ForwardScratch<F>(Client<F>(*p, 0), tile, p->gates != nullptr).total);
  }
  static void forward_pack(const FlowRoutedGru *p, int64_t k, void *pack, int64_t part, int64_t parts) {
    const Client<F> c(*p, k);
    pack_forward(static_cast<T *>(pack), c, is_direct(c), part, parts);
  }
  static void forward_tile(const FlowRoutedGru *p, int64_t k, const void *pack, void *scratch, int64_t part, int64_t parts) {
    const Client<F> c(*p, k);
    [[maybe_unused]] const Tiles<F> tiles;
    ForwardTile<F>(c, static_cast<const T *>(pack), static_cast<T *>(scratch), Tile(c.B, part, parts)).run();
  }

  static int64_t backward_pack_size(const FlowRoutedGru *p) { return bytes(BackwardPack<F>(Client<F>(*p, 0)).total); }
  static int64_t backward_state_size(const FlowRoutedGru *p) { return bytes(BackwardState<F>(Client<F>(*p, 0)).total); }
  static int64_t backward_scratch_size(const FlowRoutedGru *p, int64_t tile) {
    const Client<F> c(*p, 0);
    const int64_t scan = BackwardTile<F>::scratch_size(c, tile), weights = WeightScratch<F>(c).total;
    return bytes(scan > weights ? scan : weights);
  }
  static int64_t backward_chunks(const FlowRoutedGru *p) {
    int64_t most = 0;
    for (int64_t k = 0; k < (p->ragged ? p->K : 1); ++k) {
      const int64_t count = BackwardState<F>(Client<F>(*p, k)).chunks.count;
      if (count > most) most = count;
    }
    return most;
  }
  static void backward_pack(const FlowRoutedGru *p, int64_t k, void *pack, int64_t part, int64_t parts) {
    pack_backward(static_cast<T *>(pack), Client<F>(*p, k), part, parts);
  }
  static void backward_tile(const FlowRoutedGru *p, int64_t k, const void *pack, void *state, void *scratch, int64_t chunk,
                            int64_t part, int64_t parts) {
    const Client<F> c(*p, k);
    const Tile mine(c.B, part, parts);
    [[maybe_unused]] const Tiles<F> tiles;
    BackwardTile<F>(c, static_cast<const T *>(pack), static_cast<T *>(state), static_cast<T *>(scratch), mine, chunk).run();
  }
  static void backward_weights(const FlowRoutedGru *p, int64_t k, void *state, void *scratch, int64_t chunk, int64_t part,
                               int64_t parts) {
    const Client<F> c(*p, k);
    [[maybe_unused]] const Tiles<F> tiles;
    if (wants_weights(c)) WeightGradients<F>(c, static_cast<T *>(state), static_cast<T *>(scratch), chunk).run(part, parts);
  }

  static constexpr FlowKernels table = {
      forward_pack_size,     forward_scratch_size, forward_pack,  forward_tile,  backward_pack_size, backward_state_size,
      backward_scratch_size, backward_chunks,      backward_pack, backward_tile, backward_weights,
  };
};

}  // namespace

#define FLOW_JOIN2(a, b) a##b
#define FLOW_JOIN(a, b) FLOW_JOIN2(a, b)
extern "C" const FlowKernels *FLOW_JOIN(flow_kernels_, FLOW_ISA)(int dtype) {
  switch (dtype) {
    case FLOW_BF16: return &Entry<Brain>::table;
#if defined(__AVX512BF16__)  // which adds to avx512 products of bfloat16 and nothing else
    case FLOW_MIXED: return &Entry<Mixed>::table;
    default: return flow_kernels_avx512(dtype);
#else
    case FLOW_F64: return &Entry<Double>::table;
    default: return &Entry<Single>::table;
#endif
  }
}
