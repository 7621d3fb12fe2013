// Compiled once per instruction set, with FLOW_ISA its name: everything but the one exported function is internal.
#include "kernels.h"

#include "head.h"
#include "router.h"
#include "sgd.h"
#include "uploads.h"

namespace {

template <class F>
struct TrainingEntry {
  using T = Real<F>;

  static int64_t head_scratch_size(const FlowHead *p) {
    return ((int64_t)HeadScratch<F>(HeadClient<F>(*p, 0)).total * (int64_t)sizeof(T) + 63) / 64 * 64;
  }
  static void head(const FlowHead *p, int64_t k, void *scratch) {
    const HeadClient<F> c(*p, k);
    HeadRun<F>(c, static_cast<T *>(scratch)).run();
  }
  static void sgd(const FlowSgd *p, int64_t k, void *sums, int64_t *named, int32_t *slots) {
    SgdRun<T>(*p, k, static_cast<T *>(sums), named, slots).run();
  }
  static void add(int64_t K, int64_t n, const void *const *uploads, const double *weights, double *total, bool fresh) {
    accumulate<T>(K, n, uploads, weights, total, fresh);
  }

  static void router_forward(const FlowRouter *p, int64_t k) { RouterClient<T>(*p, k).forward(); }
  static void router_backward(const FlowRouter *p, int64_t k) { RouterClient<T>(*p, k).backward(); }

  static constexpr FlowTraining table = {head_scratch_size, head, router_forward, router_backward, sgd, add};
};

}  // namespace

#define FLOW_JOIN2(a, b) a##b
#define FLOW_JOIN(a, b) FLOW_JOIN2(a, b)
extern "C" const FlowTraining *FLOW_JOIN(flow_training_, FLOW_ISA)(int dtype) {
#if defined(__AVX512BF16__)
  return dtype == FLOW_MIXED ? &TrainingEntry<Mixed>::table : flow_training_avx512(dtype);
#else
  return dtype == FLOW_F64 ? &TrainingEntry<Double>::table : &TrainingEntry<Single>::table;
#endif
}
