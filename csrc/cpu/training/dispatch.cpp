// Checks a problem of local training and deals its clients over threads; nothing below a client is divided.
#include <float.h>
#include <string.h>

#include <atomic>

#include "../common/threads.h"
#include "kernels.h"

namespace {

const FlowTraining &training_for(int dtype) {
#if defined(FLOW_X86)
  const char *isa = flow_cpu_isa();
  if (!strcmp(isa, "avx2")) return *flow_training_avx2(dtype);
  if (!strcmp(isa, "avx512")) return *flow_training_avx512(dtype);
  if (!strcmp(isa, "avx512bf16")) return *flow_training_avx512bf16(dtype);
#endif
#if defined(FLOW_AMX)
  if (!strcmp(isa, "avx512amx")) return *flow_training_avx512amx(dtype);
#endif
  return *flow_training_baseline(dtype);
}

int64_t line(int64_t bytes) { return (bytes + 63) / 64 * 64; }

// work(client, thread) for all clients, each by one thread
template <class Work>
void for_clients(int64_t K, int threads, Work work) {
  std::atomic<int64_t> next{0};
  on_threads((int)threads_for(threads, K), [&](int me) noexcept {
    for (int64_t k; (k = next.fetch_add(1, std::memory_order_relaxed)) < K;) work(k, me);
  });
}

int check_head(const FlowHead &p) {
  const int64_t limit = (int64_t)1 << 28;  // the square of a width, twice, in bytes, is no overflow
  if (p.K < 1 || p.N < 1 || p.V < 1 || p.I < 1 || p.D < 1) return FLOW_BAD_SIZE;
  if (p.K > limit || p.N > limit || p.V > limit || p.I > limit || p.D > limit) return FLOW_BAD_SIZE;
  if ((p.dtype != FLOW_F32 && p.dtype != FLOW_F64 && p.dtype != FLOW_MIXED) || p.threads < 1) return FLOW_BAD_OPTION;
  if (!p.proj_w && p.D != p.I) return FLOW_BAD_SIZE;
  return FLOW_OK;
}

int check_targets(const FlowHead &p) {
  if (!p.x || !p.targets || !p.w[0] || !p.b[0] || !p.w[1] != !p.b[1] || !p.proj_w != !p.proj_b || !p.nats || !p.counts)
    return FLOW_MISSING;
  if (!p.w[1] != !p.q) return FLOW_MISSING;
  // a gradient of what is not there would be left unwritten
  if ((!p.proj_w && (p.dproj_w || p.dproj_b)) || (!p.w[1] && (p.dw[1] || p.db[1] || p.dq))) return FLOW_BAD_OPTION;
  for (int64_t i = 0; i < p.K * p.N; ++i)
    if (p.targets[i] >= p.V) return FLOW_BAD_TARGET;
  return FLOW_OK;
}

int check_router(const FlowRouter &p, bool backward) {
  const int64_t limit = (int64_t)1 << 31;
  if (p.K < 1 || p.N < 1 || p.H < 1 || p.K > limit || p.N > limit || p.H > limit) return FLOW_BAD_SIZE;
  if ((p.dtype != FLOW_F32 && p.dtype != FLOW_F64) || p.threads < 1 || !(p.temperature > 0 && p.temperature <= DBL_MAX) || p.routing < FLOW_SOFT ||
      p.routing > FLOW_HARD)
    return FLOW_BAD_OPTION;
  if (!p.x || !p.targets || !p.w || !p.b || !p.q || (backward && !p.dq)) return FLOW_MISSING;
  return FLOW_OK;
}

// What a client's rows take, in all tensors that have their gradients by rows: the sums, their names, and a table of slots.
struct StepScratch {
  int64_t sums = 0, names = 0, slots = 0, total;
  template <class Problem>
  explicit StepScratch(const Problem &p) {
    const int64_t size = p.dtype == FLOW_F64 ? 8 : 4;
    for (int64_t i = 0; i < p.count; ++i) {
      const FlowParameter &one = p.parameters[i];
      if (!one.N) continue;
      sums += one.N * one.width * size;
      names += (one.N + 1) * (int64_t)sizeof(int64_t);
      const int64_t rows = one.n / one.width * (int64_t)sizeof(int32_t);
      if (rows > slots) slots = rows;
    }
    sums = line(sums), names = line(names), slots = line(slots);
    total = sums + names + slots;
  }
};

// What is common to all optimisers; `plain`: nothing but the gradient moves a parameter.
template <class Problem>
int check_step(const Problem &p, bool plain) {
  if (p.K < 1 || p.count < 0) return FLOW_BAD_SIZE;
  if ((p.dtype != FLOW_F32 && p.dtype != FLOW_F64) || p.threads < 1) return FLOW_BAD_OPTION;
  for (int64_t i = 0; i < p.count; ++i) {
    const FlowParameter &one = p.parameters[i];
    if (one.n < 1 || one.N < 0 || (one.N && (one.width < 1 || one.n % one.width || one.n / one.width > INT32_MAX)))
      return FLOW_BAD_SIZE;
    if (!one.parameter || !one.gradient || (one.N && !one.rows)) return FLOW_MISSING;
    if (one.N && !plain) return FLOW_BAD_OPTION;
    for (int64_t r = 0; r < p.K * one.N; ++r)
      if (one.rows[r] >= one.n / one.width) return FLOW_BAD_TARGET;
  }
  return FLOW_OK;
}

int check_sgd(const FlowSgd &p) {
  if (const int status = check_step(p, p.mu == 0 && p.decay == 0 && p.momentum == 0)) return status;
  for (int64_t i = 0; i < p.count; ++i)
    if (p.momentum != 0 && !p.parameters[i].momentum) return FLOW_BAD_OPTION;
  return FLOW_OK;
}

int check_adam(const FlowAdam &p) {
  if (const int status = check_step(p, p.mu == 0 && p.decay == 0)) return status;
  if (!p.steps) return FLOW_MISSING;
  for (int64_t k = 0; k < p.K; ++k)
    if (p.steps[k] < 0) return FLOW_BAD_OPTION;
  for (int64_t i = 0; i < p.count; ++i) {
    const FlowParameter &one = p.parameters[i];
    const FlowMoments &own = p.moments[i];
    if (!own.first || !own.second || (one.N && !own.touched)) return FLOW_MISSING;
    if (one.N && own.rows != one.n / one.width) return FLOW_BAD_SIZE;
  }
  return FLOW_OK;
}

// bytes: of the workspace
template <class Problem>
int step_of_clients(const Problem &p, int64_t bytes, void (*step)(const Problem *, int64_t, void *, int64_t *, int32_t *)) {
  const StepScratch s(p);
  if (p.workspace_bytes < bytes || (uintptr_t)p.workspace % 64) return FLOW_SMALL_WORKSPACE;
  for_clients(p.K, p.threads, [&](int64_t k, int me) {
    char *mine = static_cast<char *>(p.workspace) + me * s.total;
    step(&p, k, mine, reinterpret_cast<int64_t *>(mine + s.sums), reinterpret_cast<int32_t *>(mine + s.sums + s.names));
  });
  return FLOW_OK;
}

}  // namespace

extern "C" {

int64_t flow_head_workspace(const FlowHead *p) {
  if (check_head(*p)) return -1;
  return training_for(p->dtype).head_scratch_size(p) * threads_for(p->threads, p->K);
}

int flow_head(const FlowHead *p) {
  int status = check_head(*p);
  if (!status) status = check_targets(*p);
  if (status) return status;
  const FlowTraining &f = training_for(p->dtype);
  const int64_t scratch = f.head_scratch_size(p), bytes = scratch * threads_for(p->threads, p->K);
  if (!p->workspace || p->workspace_bytes < bytes || (uintptr_t)p->workspace % 64) return FLOW_SMALL_WORKSPACE;
  for_clients(p->K, p->threads,
              [&](int64_t k, int me) { f.head(p, k, static_cast<char *>(p->workspace) + me * scratch); });
  return FLOW_OK;
}

int flow_router_forward(const FlowRouter *p) {
  const int status = check_router(*p, false);
  if (status) return status;
  const FlowTraining &f = training_for(p->dtype);
  for_clients(p->K, p->threads, [&](int64_t k, int) { f.router_forward(p, k); });
  return FLOW_OK;
}

int flow_router_backward(const FlowRouter *p) {
  const int status = check_router(*p, true);
  if (status) return status;
  const FlowTraining &f = training_for(p->dtype);
  for_clients(p->K, p->threads, [&](int64_t k, int) { f.router_backward(p, k); });
  return FLOW_OK;
}

int64_t flow_sgd_workspace(const FlowSgd *p) {
  return check_sgd(*p) ? -1 : StepScratch(*p).total * threads_for(p->threads, p->K);
}

int flow_sgd(const FlowSgd *p) {
  const int status = check_sgd(*p);
  if (status) return status;
  return step_of_clients(*p, flow_sgd_workspace(p), training_for(p->dtype).sgd);
}

int64_t flow_adam_workspace(const FlowAdam *p) {
  return check_adam(*p) ? -1 : StepScratch(*p).total * threads_for(p->threads, p->K);
}

int flow_adam(const FlowAdam *p) {
  const int status = check_adam(*p);
  if (status) return status;
  return step_of_clients(*p, flow_adam_workspace(p), training_for(p->dtype).adam);
}

int flow_accumulate(int64_t K, int64_t n, int32_t dtype, const void *const *uploads, const double *weights, double *total,
                    int32_t fresh) {
  if (K < 1 || n < 1) return FLOW_BAD_SIZE;
  if (dtype != FLOW_F32 && dtype != FLOW_F64) return FLOW_BAD_OPTION;
  if (!uploads || !weights || !total) return FLOW_MISSING;
  training_for(dtype).accumulate(K, n, uploads, weights, total, fresh != 0);
  return FLOW_OK;
}

}  // extern "C"
