// Compiled once per instruction set, with FLOW_ISA its name: everything but the one exported function is internal.
#include "kernels.h"

#include "forward.h"
#include "weights.h"

namespace {

template <class T>
struct Entry {
  static int64_t bytes(long elements) { return (int64_t)((elements * (long)sizeof(T) + 63) / 64 * 64); }

  static int64_t forward_pack_size(const FlowRoutedGru *p) { return bytes(ForwardPack<T>(Client<T>(*p, 0)).total); }
  static int64_t forward_scratch_size(const FlowRoutedGru *p, int64_t tile) {
    return bytes(ForwardScratch<T>(Client<T>(*p, 0), tile, p->gates != nullptr).total);
  }
  static void forward_pack(const FlowRoutedGru *p, int64_t k, void *pack, int64_t part, int64_t parts) {
    pack_forward(static_cast<T *>(pack), Client<T>(*p, k), part, parts);
  }
  static void forward_tile(const FlowRoutedGru *p, int64_t k, const void *pack, void *scratch, int64_t part, int64_t parts) {
    const Client<T> c(*p, k);
    ForwardTile<T>(c, static_cast<const T *>(pack), static_cast<T *>(scratch), Tile(c.B, part, parts)).run();
  }

  static int64_t backward_pack_size(const FlowRoutedGru *p) { return bytes(BackwardPack<T>(Client<T>(*p, 0)).total); }
  static int64_t backward_grads_size(const FlowRoutedGru *p) { return bytes(GateGradients<T>(Client<T>(*p, 0)).total); }
  static int64_t backward_scratch_size(const FlowRoutedGru *p, int64_t tile) {
    const Client<T> c(*p, 0);
    const long scan = BackwardTile<T>::scratch_size(c, tile), weights = WeightScratch<T>(c).total;
    return bytes(scan > weights ? scan : weights);
  }
  static void backward_pack(const FlowRoutedGru *p, int64_t k, void *pack, int64_t part, int64_t parts) {
    pack_backward(static_cast<T *>(pack), Client<T>(*p, k), part, parts);
  }
  static void backward_tile(const FlowRoutedGru *p, int64_t k, const void *pack, void *grads, void *scratch, int64_t part,
                            int64_t parts) {
    const Client<T> c(*p, k);
    BackwardTile<T>(c, static_cast<const T *>(pack), static_cast<T *>(grads), static_cast<T *>(scratch), Tile(c.B, part, parts)).run();
  }
  static void backward_weights(const FlowRoutedGru *p, int64_t k, const void *grads, void *scratch, int64_t part, int64_t parts) {
    const Client<T> c(*p, k);
    if (wants_weights(c)) WeightGradients<T>(c, static_cast<const T *>(grads), static_cast<T *>(scratch)).run(part, parts);
  }

  static constexpr FlowKernels table = {
      forward_pack_size,  forward_scratch_size,  forward_pack,  forward_tile,  backward_pack_size, backward_grads_size,
      backward_scratch_size, backward_pack, backward_tile, backward_weights, kRows,
  };
};

}  // namespace

#define FLOW_JOIN2(a, b) a##b
#define FLOW_JOIN(a, b) FLOW_JOIN2(a, b)
extern "C" const FlowKernels *FLOW_JOIN(flow_kernels_, FLOW_ISA)(int dtype) {
  return dtype == FLOW_F64 ? &Entry<double>::table : &Entry<float>::table;
}
