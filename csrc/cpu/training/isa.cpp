// Compiled once per instruction set, with FLOW_ISA its name: everything but the one exported function is internal.
#include "kernels.h"

#include "adam.h"
#include "head.h"
#include "router.h"
#include "sgd.h"
#include "uploads.h"

namespace {

template <class F>
struct HeadEntry {
  using T = Real<F>;

  static int64_t scratch_size(const FlowHead *p) {
    return ((int64_t)HeadScratch<F>(HeadClient<F>(*p, 0)).total * (int64_t)sizeof(T) + 63) / 64 * 64;
  }
  static void head(const FlowHead *p, int64_t k, void *scratch) {
    const HeadClient<F> c(*p, k);
    [[maybe_unused]] const Tiles<F> tiles;
    HeadRun<F>(c, static_cast<T *>(scratch)).run();
  }
};

#if !defined(__AVX512BF16__)
template <class F>
struct TrainingEntry {
  using T = Real<F>;

  static void sgd(const FlowSgd *p, int64_t k, void *sums, int64_t *named, int32_t *slots) {
    SgdRun<T>(*p, k, static_cast<T *>(sums), named, slots).run();
  }
  static void adam(const FlowAdam *p, int64_t k, void *sums, int64_t *named, int32_t *slots) {
    AdamRun<T>(*p, k, static_cast<T *>(sums), named, slots).run();
  }
  static void add(int64_t K, int64_t n, const void *const *uploads, const double *weights, double *total, bool fresh) {
    accumulate<T>(K, n, uploads, weights, total, fresh);
  }

  static void router_forward(const FlowRouter *p, int64_t k) { RouterClient<T>(*p, k).forward(); }
  static void router_backward(const FlowRouter *p, int64_t k) { RouterClient<T>(*p, k).backward(); }

  static constexpr FlowTraining table = {
      HeadEntry<F>::scratch_size, HeadEntry<F>::head, router_forward, router_backward, sgd, adam, add,
  };
};
#endif

}  // namespace

#define FLOW_JOIN2(a, b) a##b
#define FLOW_JOIN(a, b) FLOW_JOIN2(a, b)
extern "C" const FlowTraining *FLOW_JOIN(flow_training_, FLOW_ISA)(int dtype) {
#if defined(__AVX512BF16__)  // which adds to avx512 a head of mixed products and nothing else
  static const FlowTraining mixed = [] {
    FlowTraining table = *flow_training_avx512(FLOW_F32);
    table.head_scratch_size = HeadEntry<Mixed>::scratch_size, table.head = HeadEntry<Mixed>::head;
    return table;
  }();
  return dtype == FLOW_MIXED ? &mixed : flow_training_avx512(dtype);
#else
  return dtype == FLOW_F64 ? &TrainingEntry<Double>::table : &TrainingEntry<Single>::table;
#endif
}
