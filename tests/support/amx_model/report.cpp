// What the model has seen, for ctypes; and what takes the place of the kernels that multiply no bfloat16, which are not
// modelled.
#include "immintrin.h"

#include "../../../csrc/cpu/routed_gru/kernels.h"
#include "../../../csrc/cpu/training/kernels.h"

#define SHOWN extern "C" __attribute__((visibility("default")))

SHOWN const char *flow_model_broken() { return flow_model::broken.load(); }
SHOWN int64_t flow_model_products() { return flow_model::products.load(); }
SHOWN int64_t flow_model_configured() { return flow_model::configured.load(); }

extern "C" const FlowKernels *flow_kernels_avx512(int) {
  static const FlowKernels none{};
  return &none;
}
extern "C" const FlowTraining *flow_training_avx512(int) {
  static const FlowTraining none{};
  return &none;
}
