// The table of functions of local training that each instruction set provides. Sizes are bytes.
#pragma once

#include "../../training.h"

struct FlowTraining {
  int64_t (*head_scratch_size)(const FlowHead *);
  void (*head)(const FlowHead *, int64_t client, void *scratch);
  void (*router_forward)(const FlowRouter *, int64_t client);
  void (*router_backward)(const FlowRouter *, int64_t client);
  void (*sgd)(const FlowSgd *, int64_t client, void *sums, int64_t *named, int32_t *slots);
  void (*adam)(const FlowAdam *, int64_t client, void *sums, int64_t *named, int32_t *slots);
  void (*accumulate)(int64_t K, int64_t n, const void *const *uploads, const double *weights, double *total, bool fresh);
};

extern "C" {
const FlowTraining *flow_training_baseline(int dtype);
const FlowTraining *flow_training_avx2(int dtype);
const FlowTraining *flow_training_avx512(int dtype);
const FlowTraining *flow_training_avx512bf16(int dtype);
const FlowTraining *flow_training_avx512amx(int dtype);
}
