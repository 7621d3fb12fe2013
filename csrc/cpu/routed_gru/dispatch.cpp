// Checks a problem, chooses the instruction set, divides the work over threads. Order of preference: clients, then batch
// tiles; neither needs a barrier inside the sequence.
#include <float.h>
#include <stdint.h>
#include <string.h>

#include <atomic>
#include <initializer_list>
#include <new>

#include "kernels.h"
#include "../common/threads.h"
#if defined(FLOW_AMX)
#include "../common/tile_support.h"
#endif

namespace {

struct Isa {
  const char *name;
  const FlowKernels *(*kernels)(int dtype);
  bool (*supported)();
};

#if defined(FLOW_X86)
// x86-64-v3 and v4, which some clangs do not know by name, by what tells their processors from older ones.
bool has_v3() { return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("bmi2"); }
bool has_v4() {
  return has_v3() && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
         __builtin_cpu_supports("avx512cd") && __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
}
bool has_bf16() { return has_v4() && __builtin_cpu_supports("avx512bf16") != 0; }
#endif

// Slowest first.
const Isa kIsas[] = {
    {"baseline", flow_kernels_baseline, [] { return true; }},
#if defined(FLOW_X86)
    {"avx2", flow_kernels_avx2, has_v3},
    {"avx512", flow_kernels_avx512, has_v4},
    {"avx512bf16", flow_kernels_avx512bf16, has_bf16},
#endif
#if defined(FLOW_AMX)
    {"avx512amx", flow_kernels_avx512amx, [] { return has_bf16() && has_tiles(); }},
#endif
};

const Isa *fastest() {
  const Isa *best = kIsas;
  for (const Isa &isa : kIsas)
    if (isa.supported()) best = &isa;
  return best;
}

// Another thread may select one while a kernel runs, which then ends with the one that it began with.
std::atomic<const Isa *> &selected() {
  static std::atomic<const Isa *> isa{fastest()};
  return isa;
}

const Isa *find(const char *name) {
  for (const Isa &isa : kIsas)
    if (!strcmp(isa.name, name)) return isa.supported() ? &isa : nullptr;
  return nullptr;
}

bool fits(int64_t limit, std::initializer_list<int64_t> factors) {
  for (int64_t f : factors) {
    if (f > limit) return false;
    limit /= f;
  }
  return true;
}

int check_problem(const FlowRoutedGru &p) {
  if (p.K < 1 || p.T < 1 || p.B < 1 || p.I < 1 || p.H < 1) return FLOW_BAD_SIZE;
  const int64_t limit = (int64_t)1 << 48;  // of all threads together, so that no size of a workspace overflows
  if (p.I > limit - p.H || p.H > limit - 16) return FLOW_BAD_SIZE;
  if (!fits(limit, {p.K, p.T, p.B, 8, p.H + 16, 8}) || !fits(limit, {p.K, p.T, p.B, p.I, 8}) ||
      !fits(limit, {p.K, 8, p.H + 16, p.I + p.H + 16, 8}))
    return FLOW_BAD_SIZE;
  if (p.dtype < FLOW_F32 || p.dtype > FLOW_MIXED || p.route < FLOW_MIXTURE || p.route > FLOW_LOCAL || p.routing < FLOW_SOFT ||
      p.routing > FLOW_STRAIGHT_THROUGH || p.threads < 1 || !(p.temperature > 0 && p.temperature <= DBL_MAX))
    return FLOW_BAD_OPTION;
  return FLOW_OK;
}

// Packed rows: at every step as many as there are sequences longer than that, and those come first.
int check_offsets(const FlowRoutedGru &p) {
  if (!p.lengths || p.batch_first || p.offsets[0]) return FLOW_BAD_OFFSETS;
  for (int64_t k = 0; k < p.K; ++k) {
    const int64_t *lengths = p.lengths + k * p.B;
    int64_t running = p.B, sum = 0;
    for (int64_t b = 1; b < p.B; ++b)
      if (lengths[b] > lengths[b - 1]) return FLOW_BAD_OFFSETS;
    for (int64_t t = 0; t < p.T; ++t) {
      while (running && lengths[running - 1] <= t) --running;
      sum += running;
      if (p.offsets[t + 1] != sum) return FLOW_BAD_OFFSETS;
    }
  }
  return FLOW_OK;
}

int check(const FlowRoutedGru &p, bool backward) {
  const int status = check_problem(p);
  if (status) return status;
  if (!p.x || !p.h0 || !p.y || !p.q || (!backward && !p.h_n)) return FLOW_MISSING;
  for (int e = 0; e < 2; ++e) {
    if (p.route != FLOW_MIXTURE && e != p.route - FLOW_GLOBAL) continue;
    const FlowExpert &expert = p.expert[e];
    if (!expert.w_ih || !expert.w_hh || !expert.b_ih != !expert.b_hh) return FLOW_MISSING;
  }
  if (p.route == FLOW_MIXTURE && !p.router_w) return FLOW_MISSING;
  if (p.ragged && (!p.lengths || p.offsets)) return FLOW_BAD_OPTION;
  if (p.lengths)
    for (int64_t i = 0; i < p.K * p.B; ++i) {
      if (p.lengths[i] < (p.ragged ? 0 : 1) || p.lengths[i] > p.T) return FLOW_BAD_LENGTH;
      if (i % p.B && p.lengths[i] && !p.lengths[i - 1]) return FLOW_BAD_LENGTH;
    }
  return p.offsets ? check_offsets(p) : FLOW_OK;
}

// How clients, batch tiles and threads share the work and the workspace.
struct Division {
  int threads;
  int64_t tiles, tile;  // batch tiles a client, rows of the largest
  int64_t slots;        // packed weights (and backward's state) held at once: one a thread, or one a client
  int64_t pack, state, scratch, bytes;
  static constexpr int64_t kLine = 64;  // of a cache

  Division(const FlowRoutedGru &p, const FlowKernels &kernels, bool backward) {
    // Waking a thread takes as long as some 10^5 operations.
    const double wake = 2e5, work = 12.0 * p.K * p.T * p.B * p.H * (p.I + p.H);
    const int most = p.threads < kMostThreads ? p.threads : kMostThreads;
    threads = work < wake * most ? (int)(work / wake) : most;
    if (threads < 1) threads = 1;
    tiles = 1;
    // Enough clients keep every thread busy with whole clients; otherwise a client's batch is cut as well. Two sequences keep
    // the multipliers nearly as busy as many do, since both experts run side by side.
    if (threads > 1 && p.K % threads && p.K < 4 * (int64_t)threads) {
      const int64_t most = (p.B + 1) / 2;
      tiles = most < threads ? most : threads;
    }
    if (p.K * tiles < threads) threads = (int)(p.K * tiles);
    tile = (p.B + tiles - 1) / tiles;
    slots = tiles == 1 ? threads : p.K;
    pack = backward ? kernels.backward_pack_size(&p) : kernels.forward_pack_size(&p);
    state = backward ? kernels.backward_state_size(&p) : 0;
    // Tiles differ by one row, and the smaller one may want more: it takes more time steps at once.
    const auto size = backward ? kernels.backward_scratch_size : kernels.forward_scratch_size;
    scratch = size(&p, tile);
    if (tile > 1 && size(&p, tile - 1) > scratch) scratch = size(&p, tile - 1);
    bytes = slots * (pack + state) + threads * scratch + (tiles > 1 ? p.K * kLine : 0);
  }

  char *pack_of(const FlowRoutedGru &p, int64_t slot) const { return static_cast<char *>(p.workspace) + slot * (pack + state); }
  char *state_of(const FlowRoutedGru &p, int64_t slot) const { return pack_of(p, slot) + pack; }
  char *scratch_of(const FlowRoutedGru &p, int thread) const {
    return static_cast<char *>(p.workspace) + slots * (pack + state) + thread * scratch;
  }
  // Parts of client k that are done, where clients are cut
  std::atomic<int64_t> *done_of(const FlowRoutedGru &p, int64_t k) const {
    return reinterpret_cast<std::atomic<int64_t> *>(scratch_of(p, threads) + k * kLine);
  }
};

const FlowKernels &kernels_for(const FlowRoutedGru &p) { return *selected().load()->kernels(p.dtype); }

// One part of one step of a client's work, and where its data lies.
struct Task {
  int64_t client, step, part, parts;
  char *pack, *state, *scratch;
};

// Every step of a client goes on from what the step before left.
void forward_step(const FlowKernels &f, const FlowRoutedGru *p, const Task &t) {
  t.step ? f.forward_tile(p, t.client, t.pack, t.scratch, t.part, t.parts)
         : f.forward_pack(p, t.client, t.pack, t.part, t.parts);
}
void backward_step(const FlowKernels &f, const FlowRoutedGru *p, const Task &t) {
  const int64_t chunk = (t.step - 1) / 2;
  if (!t.step) {
    f.backward_pack(p, t.client, t.pack, t.part, t.parts);
  } else if (t.step % 2) {
    f.backward_tile(p, t.client, t.pack, t.state, t.scratch, chunk, t.part, t.parts);
  } else {
    f.backward_weights(p, t.client, t.state, t.scratch, chunk, t.part, t.parts);
  }
}

// A whole client is one task; where clients are cut, a task is one part of one step, all clients' first steps before any
// second, and waits for the parts of its own client's step before. Tasks are taken in that order, so every thread waits for
// tasks that others have taken already.
template <class Step>
void run_tasks(Step run_step, int64_t steps, const FlowRoutedGru &p, const FlowKernels &f, const Division &d) {
  const bool cut = d.tiles > 1;
  const int64_t round = p.K * d.tiles, tasks = cut ? round * steps : round;
  std::atomic<int64_t> next{0};
  for (int64_t k = 0; cut && k < p.K; ++k) new (d.done_of(p, k)) std::atomic<int64_t>(0);
  on_threads(d.threads, [&](int me) noexcept {
    for (int64_t i; (i = next.fetch_add(1, std::memory_order_relaxed)) < tasks;) {
      const int64_t k = i % round / d.tiles, slot = cut ? k : me;
      Task task{k, i / round, i % d.tiles, d.tiles, d.pack_of(p, slot), d.state_of(p, slot), d.scratch_of(p, me)};
      if (cut) {
        wait_for(*d.done_of(p, k), task.step * d.tiles);
        run_step(f, &p, task);
        d.done_of(p, k)->fetch_add(1, std::memory_order_release);
      } else {
        for (task.step = 0; task.step < steps; ++task.step) run_step(f, &p, task);
      }
    }
  });
}

int run(const FlowRoutedGru *p, bool is_backward) {
  const int status = check(*p, is_backward);
  if (status) return status;
  const FlowKernels &f = kernels_for(*p);
  const Division d(*p, f, is_backward);
  if (!p->workspace || p->workspace_bytes < d.bytes || (uintptr_t)p->workspace % 64) return FLOW_SMALL_WORKSPACE;
  is_backward ? run_tasks(backward_step, 1 + 2 * f.backward_chunks(p), *p, f, d) : run_tasks(forward_step, 2, *p, f, d);
  return FLOW_OK;
}

}  // namespace

extern "C" {

int flow_routed_gru_check(const FlowRoutedGru *p, int is_backward) { return check(*p, is_backward); }

int64_t flow_routed_gru_workspace(const FlowRoutedGru *p, int is_backward) {
  return check(*p, is_backward) ? -1 : Division(*p, kernels_for(*p), is_backward).bytes;
}

int flow_routed_gru_division(const FlowRoutedGru *p, int is_backward, int32_t *threads, int64_t *tiles, int64_t *bytes) {
  const int status = check_problem(*p);
  if (status) return status;
  const Division d(*p, kernels_for(*p), is_backward);
  *threads = d.threads, *tiles = d.tiles, *bytes = d.bytes;
  return FLOW_OK;
}

int flow_routed_gru_forward(const FlowRoutedGru *p) { return run(p, false); }

int flow_routed_gru_backward(const FlowRoutedGru *p) { return run(p, true); }

const char *flow_cpu_isa(void) { return selected().load()->name; }

const char *flow_cpu_threads(void) { return flow::kind_of_threads(); }

int flow_cpu_has_isa(const char *name) { return find(name) != nullptr; }

int flow_cpu_select_isa(const char *name) {
  const Isa *isa = find(name);
  if (!isa) return FLOW_BAD_ISA;
  selected() = isa;
  return FLOW_OK;
}

}  // extern "C"
