// The table of functions that each instruction set provides. Sizes are bytes.
#pragma once

#include <stdint.h>

#include "../../routed_gru.h"

struct FlowKernels {
  int64_t (*forward_pack_size)(const FlowRoutedGru *);
  int64_t (*forward_scratch_size)(const FlowRoutedGru *, int64_t tile);
  void (*forward_pack)(const FlowRoutedGru *, int64_t client, void *pack, int64_t part, int64_t parts);
  void (*forward_tile)(const FlowRoutedGru *, int64_t client, const void *pack, void *scratch, int64_t part, int64_t parts);

  int64_t (*backward_pack_size)(const FlowRoutedGru *);
  int64_t (*backward_state_size)(const FlowRoutedGru *);
  int64_t (*backward_scratch_size)(const FlowRoutedGru *, int64_t tile);
  int64_t (*backward_chunks)(const FlowRoutedGru *);
  void (*backward_pack)(const FlowRoutedGru *, int64_t client, void *pack, int64_t part, int64_t parts);
  // Chunk after chunk: the tiles of one, then its weights.
  void (*backward_tile)(const FlowRoutedGru *, int64_t client, const void *pack, void *state, void *scratch, int64_t chunk,
                        int64_t part, int64_t parts);
  void (*backward_weights)(const FlowRoutedGru *, int64_t client, void *state, void *scratch, int64_t chunk, int64_t part,
                           int64_t parts);
};

extern "C" {
const FlowKernels *flow_kernels_baseline(int dtype);
const FlowKernels *flow_kernels_avx2(int dtype);
const FlowKernels *flow_kernels_avx512(int dtype);
const FlowKernels *flow_kernels_avx512bf16(int dtype);
const FlowKernels *flow_kernels_avx512amx(int dtype);
}
