// The kernels through their C ABI alone, without Python: what can be run under an emulator of another processor (make cross).
//   gradients in double against central differences of the forward pass; float against double; any number of threads
#include <math.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include <cstdlib>
#include <vector>

#include "../../csrc/routed_gru.h"

namespace {

int failures = 0;

void expect(bool ok, const char *what, int number, double error) {
  if (!ok) printf("FAILED  problem %d: %s, error %.3g\n", number, what, error), ++failures;
}

// The tensors of one problem, all inputs first, then what forward writes, then gradients in the order of the inputs.
enum { kX, kH0, kGlobal, kLocal = kGlobal + 4, kRouterW = kLocal + 4, kRouterB, kInputs };
const char *const kNames[kInputs] = {
    "x",          "h0",         "global w_ih", "global w_hh", "global b_ih", "global b_hh",
    "local w_ih", "local w_hh", "local b_ih",  "local b_hh",  "router w",    "router b",
};

struct Sizes {
  int64_t K, T, B, I, H;
};

uint32_t random_state = 1;
double uniform() {
  random_state = random_state * 1664525u + 1013904223u;
  return (random_state >> 8) / 8388608.0 - 1;
}

template <class T>
struct Problem {
  FlowRoutedGru p{};
  std::vector<T> in[kInputs], grad[kInputs], y, h_n, q, gates, dy, dh_n, dq;
  std::vector<int64_t> lengths;
  std::vector<char> workspace;

  Problem(const Sizes &s, int threads, uint32_t seed) {
    random_state = seed;
    const int64_t sizes[kInputs] = {
        s.T * s.B * s.I, s.B * s.H, 3 * s.H * s.I, 3 * s.H * s.H, 3 * s.H, 3 * s.H,
        3 * s.H * s.I, 3 * s.H * s.H, 3 * s.H, 3 * s.H, 2 * (s.I + s.H), 2,
    };
    for (int n = 0; n < kInputs; ++n) {
      grad[n].resize(s.K * sizes[n]);
      for (int64_t i = 0; i < s.K * sizes[n]; ++i) in[n].push_back((T)(uniform() * (n < kGlobal ? 1 : 1 / sqrt((double)s.H))));
    }
    const int64_t rows = s.K * s.T * s.B, padded = (s.H + 15) / 16 * 16;
    y.resize(rows * s.H), h_n.resize(s.K * s.B * s.H), q.resize(rows * 2), gates.resize(rows * 8 * padded);
    for (auto *outputs : {&dy, &dh_n, &dq}) {
      outputs->resize(outputs == &dy ? y.size() : outputs == &dh_n ? h_n.size() : q.size());
      for (T &value : *outputs) value = (T)uniform();
    }
    for (int64_t i = 0; i < s.K * s.B; ++i) lengths.push_back(s.T - i % s.T);
    p.K = s.K, p.T = s.T, p.B = s.B, p.I = s.I, p.H = s.H;
    p.dtype = sizeof(T) == 8 ? FLOW_F64 : FLOW_F32, p.route = FLOW_MIXTURE, p.routing = FLOW_SOFT, p.threads = threads;
    p.temperature = 0.8, p.lengths = lengths.data();
    p.x = in[kX].data(), p.h0 = in[kH0].data(), p.router_w = in[kRouterW].data(), p.router_b = in[kRouterB].data();
    p.dx = grad[kX].data(), p.dh0 = grad[kH0].data(), p.drouter_w = grad[kRouterW].data(), p.drouter_b = grad[kRouterB].data();
    for (int e = 0, n = kGlobal; e < 2; ++e, n += 4) {
      p.expert[e] = {in[n].data(), in[n + 1].data(), in[n + 2].data(), in[n + 3].data()};
      p.grad[e] = {grad[n].data(), grad[n + 1].data(), grad[n + 2].data(), grad[n + 3].data()};
    }
    p.y = y.data(), p.h_n = h_n.data(), p.q = q.data(), p.gates = gates.data();
    p.dy = dy.data(), p.dh_n = dh_n.data(), p.dq = dq.data();
  }

  void run(bool backward) {
    const int64_t bytes = flow_routed_gru_workspace(&p, backward);
    workspace.assign(bytes > 0 ? bytes + 64 : 64, 0x7f);
    p.workspace = workspace.data() + (64 - (uintptr_t)workspace.data() % 64) % 64, p.workspace_bytes = bytes;
    const int status = bytes < 0 ? FLOW_BAD_SIZE : backward ? flow_routed_gru_backward(&p) : flow_routed_gru_forward(&p);
    if (status) printf("the kernel refused the problem: status %d\n", status), exit(1);
  }

  double loss() {
    run(false);
    double sum = 0;
    for (size_t i = 0; i < y.size(); ++i) sum += (double)y[i] * dy[i];
    for (size_t i = 0; i < h_n.size(); ++i) sum += (double)h_n[i] * dh_n[i];
    for (size_t i = 0; i < q.size(); ++i) sum += (double)q[i] * dq[i];
    return sum;
  }
};

template <class A, class B>
double largest_difference(const std::vector<A> &a, const std::vector<B> &b) {
  double worst = 0;
  for (size_t i = 0; i < a.size(); ++i) worst = fmax(worst, fabs((double)a[i] - (double)b[i]));
  return worst;
}

void check(const Sizes &sizes, int number) {
  Problem<double> exact(sizes, 1, number), cut(sizes, 3, number);
  Problem<float> single(sizes, 2, number);
  exact.run(false), exact.run(true), cut.run(false), cut.run(true), single.run(false), single.run(true);
  expect(exact.y == cut.y && exact.h_n == cut.h_n && exact.q == cut.q, "outputs on three threads", number, 0);
  double error = largest_difference(exact.y, single.y);
  expect(error < 1e-5, "float y against double", number, error);
  for (int n = 0; n < kInputs; ++n) {
    expect(exact.grad[n] == cut.grad[n], kNames[n], number, 0);
    error = largest_difference(exact.grad[n], single.grad[n]);
    expect(error < 1e-4, kNames[n], number, error);
    for (int sample = 0; sample < 4; ++sample) {
      const size_t i = (size_t)sample * 7919 % exact.in[n].size();
      const double before = exact.in[n][i], step = 1e-5;
      exact.in[n][i] = before + step;
      const double up = exact.loss();
      exact.in[n][i] = before - step;
      const double slope = (up - exact.loss()) / (2 * step);
      exact.in[n][i] = before;
      error = fabs(slope - exact.grad[n][i]);
      expect(error < 1e-7 * (1 + fabs(slope)), kNames[n], number, error);
    }
  }
}

}  // namespace

int main() {
  const Sizes all[] = {{1, 1, 1, 1, 1}, {2, 4, 3, 5, 7}, {1, 3, 9, 17, 16}, {3, 2, 5, 3, 33}, {1, 7, 2, 1, 20}, {5, 3, 1, 6, 9}};
  for (const char *isa : {"baseline", "avx2", "avx512", "avx512bf16", "avx512amx"}) {
    if (flow_cpu_select_isa(isa)) continue;  // not here
    int number = 0;
    for (const Sizes &sizes : all) check(sizes, ++number);
    printf("%s, %s: %d problems, %d failures\n", flow_cpu_isa(), flow_cpu_threads(), number, failures);
  }
  return failures != 0;
}
