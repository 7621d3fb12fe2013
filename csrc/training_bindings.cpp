// The methods of flow_kernels._C.Kernels for local training: tensors in; what raw addresses rely on is checked here.
#include <string.h>

#include <initializer_list>
#include <string>
#include <vector>

#include "arguments.h"
#include "tensor.h"
#include "training.h"
#include "workspace.h"

namespace py = pybind11;

namespace {

using flow::Memory;
using flow::Misfit;
using flow::Reader;
using flow::Tensor;

constexpr dlpack::Type kInt64 = {dlpack::kInt, 64, 1}, kFloat64 = {dlpack::kFloat, 64, 1};

int dtype_of(dlpack::Type type) {
  if (type.code == dlpack::kFloat && type.bits == 32) return FLOW_F32;
  if (type.code == dlpack::kFloat && type.bits == 64) return FLOW_F64;
  throw Misfit("the kernels of local training take float32 or float64");
}

int64_t size_of(const Tensor &t, int first = 0) {
  int64_t n = 1;
  for (int i = first; i < t.dimensions; ++i) n *= t.shape[i];
  return n;
}

// Whether two tensors have the same sizes from dimension 1 on.
bool alike(const Tensor &a, const Tensor &b) {
  bool same = a.dimensions == b.dimensions;
  for (int i = 1; same && i < a.dimensions; ++i) same = a.shape[i] == b.shape[i];
  return same;
}

constexpr const char *kGradient = "the gradient of ";

// The tensors of one call by shape and type: the data, or null for None.
class Call {
 public:
  explicit Call(const Reader &reader) : reader_(reader) {}

  Tensor read(py::handle object, const char *name) {
    const Tensor t = reader_.read(object, name);
    memory_.reads(t, name);
    return t;
  }
  Tensor write(py::handle object, const char *name) {
    const Tensor t = reader_.read(object, name);
    memory_.writes(t, name);
    return t;
  }
  const void *in(py::handle object, const char *name, std::initializer_list<int64_t> shape, dlpack::Type type) {
    const Tensor t = fitting(object, name, "", shape, type);
    memory_.reads(t, name);
    return t.data;
  }
  void *out(py::handle object, const char *name, std::initializer_list<int64_t> shape, dlpack::Type type,
            const char *prefix = "") {
    const Tensor t = fitting(object, name, prefix, shape, type);
    memory_.writes(t, name, prefix);
    return t.data;
  }

  template <class Problem>
  int run(Problem &p, int64_t bytes, int (*kernel)(const Problem *)) {
    memory_.check();
    const py::gil_scoped_release release;
    if (bytes > 0) {
      p.workspace = flow::workspace().get(bytes), p.workspace_bytes = bytes;
      if (reader_.poison) memset(p.workspace, 0xff, (size_t)bytes);
    }
    const int status = kernel(&p);
    flow::workspace().done();
    return status;
  }
  // A kernel without workspace
  template <class Kernel>
  int run(Kernel kernel) {
    memory_.check();
    const py::gil_scoped_release release;
    return kernel();
  }

 private:
  Tensor fitting(py::handle object, const char *name, const char *prefix, std::initializer_list<int64_t> shape,
                 dlpack::Type type) const {
    const Tensor t = reader_.read(object, name);
    const int dimensions = (int)shape.size();
    if (flow::fits(t, shape.begin(), dimensions, type)) return t;
    throw Misfit(std::string(prefix) + name + flow::misfit(t, shape.begin(), dimensions, type));
  }

  const Reader &reader_;
  Memory memory_;
};

void expect(const py::tuple &tensors, size_t count, const char *name) {
  if (tensors.size() != count) throw Misfit(std::string(name) + " must be a tuple of " + std::to_string(count));
}

// The tensors of FlowHead, in the order of flow_kernels/training/head.py
int head(const Reader &reader, py::handle x, py::handle targets, const py::tuple &weights, py::handle q, py::handle nats,
         py::handle counts, const py::tuple &best, py::handle dx, py::handle dq, const py::tuple &grads, bool mixed, int threads) {
  expect(weights, 6, "weights"), expect(best, 3, "best, row_nats and probability"), expect(grads, 6, "gradients");
  Call call(reader);
  const Tensor input = call.read(x, "x"), table = call.read(weights[2], "weight");
  if (input.dimensions != 3 || table.dimensions != 3) throw Misfit("x must be [K, N, I] and weight [K, V, D]");
  const dlpack::Type type = input.type;
  FlowHead p{};
  p.dtype = dtype_of(type), p.threads = threads;
  if (mixed && p.dtype != FLOW_F32) throw Misfit("mixed products take float32 tensors");
  if (mixed) p.dtype = FLOW_MIXED;
  p.K = input.shape[0], p.N = input.shape[1], p.I = input.shape[2], p.V = table.shape[1], p.D = table.shape[2];
  p.x = input.data;
  p.targets = static_cast<const int64_t *>(call.in(targets, "targets", {p.K, p.N}, kInt64));
  p.proj_w = call.in(weights[0], "projection_weight", {p.K, p.D, p.I}, type);
  p.proj_b = call.in(weights[1], "projection_bias", {p.K, p.D}, type);
  p.dproj_w = call.out(grads[0], "projection_weight", {p.K, p.D, p.I}, type, kGradient);
  p.dproj_b = call.out(grads[1], "projection_bias", {p.K, p.D}, type, kGradient);
  for (int e = 0; e < 2; ++e) {
    const char *weight = e ? "local_weight" : "weight", *bias = e ? "local_bias" : "bias";
    p.w[e] = call.in(weights[2 + 2 * e], weight, {p.K, p.V, p.D}, type);
    p.b[e] = call.in(weights[3 + 2 * e], bias, {p.K, p.V}, type);
    p.dw[e] = call.out(grads[2 + 2 * e], weight, {p.K, p.V, p.D}, type, kGradient);
    p.db[e] = call.out(grads[3 + 2 * e], bias, {p.K, p.V}, type, kGradient);
  }
  p.q = call.in(q, "q", {p.K, p.N, 2}, type), p.dq = call.out(dq, "q", {p.K, p.N, 2}, type, kGradient);
  p.dx = call.out(dx, "x", {p.K, p.N, p.I}, type, kGradient);
  p.nats = static_cast<double *>(call.out(nats, "nats", {p.K}, kFloat64));
  p.counts = static_cast<int64_t *>(call.out(counts, "counts", {p.K}, kInt64));
  p.best = static_cast<int64_t *>(call.out(best[0], "best", {p.K, p.N}, kInt64));
  p.row_nats = call.out(best[1], "row_nats", {p.K, p.N}, type);
  p.probability = call.out(best[2], "probability", {p.K, p.N}, type);
  return call.run(p, flow_head_workspace(&p), flow_head);
}

// weight [K, 2, H] and bias [K, 2] of a router; with dq backward, else forward
int router(const Reader &reader, py::handle x, py::handle targets, py::handle weight, py::handle bias, py::handle q, bool hard,
           double temperature, py::handle dq, py::handle dx, py::handle dw, py::handle db, int threads) {
  Call call(reader);
  const Tensor input = call.read(x, "x");
  if (input.dimensions != 3) throw Misfit("x must be [K, N, H]");
  const dlpack::Type type = input.type;
  FlowRouter p{};
  p.dtype = dtype_of(type), p.threads = threads, p.routing = hard ? FLOW_HARD : FLOW_SOFT, p.temperature = temperature;
  p.K = input.shape[0], p.N = input.shape[1], p.H = input.shape[2];
  p.x = input.data;
  p.targets = static_cast<const int64_t *>(call.in(targets, "targets", {p.K, p.N}, kInt64));
  p.w = call.in(weight, "router weight", {p.K, 2, p.H}, type);
  p.b = call.in(bias, "router bias", {p.K, 2}, type);
  p.dq = call.in(dq, "the gradient of q", {p.K, p.N, 2}, type);
  // forward writes q, backward does not
  p.q = p.dq ? const_cast<void *>(call.in(q, "q", {p.K, p.N, 2}, type)) : call.out(q, "q", {p.K, p.N, 2}, type);
  p.dx = call.out(dx, "x", {p.K, p.N, p.H}, type, kGradient);
  p.dw = call.out(dw, "router weight", {p.K, 2, p.H}, type, kGradient);
  p.db = call.out(db, "router bias", {p.K, 2}, type, kGradient);
  return call.run([&] { return p.dq ? flow_router_backward(&p) : flow_router_forward(&p); });
}

// The steps of an optimiser: tuples (parameter, gradient, anchor, momentum, rows), all with a leading K
struct Steps {
  std::vector<FlowParameter> all;
  dlpack::Type type{};
  int dtype = 0;
  int64_t K = 0;

  Steps(const Reader &reader, Call &call, const py::tuple &parameters) {
    for (const py::handle item : parameters) {
      if (!py::isinstance<py::tuple>(item) || py::len(item) != 5)
        throw Misfit("a step must be a tuple (parameter, gradient, anchor, momentum, rows)");
      const py::tuple one = py::reinterpret_borrow<py::tuple>(item);
      const Tensor parameter = call.write(one[0], "parameter"), gradient = call.read(one[1], "gradient");
      const Tensor anchor = call.read(one[2], "anchor"), velocity = call.write(one[3], "momentum");
      const Tensor rows = reader.read(one[4], "rows");
      if (!parameter.there || parameter.dimensions < 1) throw Misfit("parameter must be a tensor [K, ..]");
      if (all.empty()) type = parameter.type, dtype = dtype_of(type), K = parameter.shape[0];
      FlowParameter f{};
      f.n = size_of(parameter, 1);
      for (const Tensor *t : {&parameter, &gradient, &anchor, &velocity}) {
        if (!t->there) continue;
        const bool by_rows = t == &gradient && rows.there;
        if (t->dimensions < 1 || !flow::same(t->type, type) || t->shape[0] != K || (!by_rows && !alike(*t, parameter)))
          throw Misfit("parameters, gradients, anchors and momenta must be [K, ..] of one shape and dtype");
      }
      f.parameter = parameter.data, f.gradient = gradient.data, f.anchor = anchor.data, f.momentum = velocity.data;
      if (rows.there) {
        if (parameter.dimensions != 3 || gradient.dimensions != 3 || gradient.shape[2] != parameter.shape[2])
          throw Misfit("a gradient by rows must be [K, N, width] of a parameter [K, rows, width]");
        if (!gradient.shape[1]) throw Misfit("a gradient by rows must have at least one row; leave the parameter out");
        f.N = gradient.shape[1], f.width = gradient.shape[2];
        f.rows = static_cast<const int64_t *>(call.in(one[4], "rows", {K, f.N}, kInt64));
      }
      all.push_back(f);
    }
  }
};

constexpr dlpack::Type kBool = {dlpack::kBool, 8, 1};

int sgd(const Reader &reader, const py::sequence &parameters, py::handle present, double lr, double clip, double mu, double decay,
        double momentum, int threads) {
  FlowSgd p{};
  Call call(reader);
  const Steps steps(reader, call, py::tuple(parameters));
  p.K = steps.K, p.dtype = steps.dtype;
  p.count = (int64_t)steps.all.size(), p.parameters = steps.all.data(), p.threads = threads;
  p.lr = lr, p.clip = clip, p.mu = mu, p.decay = decay, p.momentum = momentum;
  p.present = static_cast<const uint8_t *>(call.in(present, "present", {p.K}, kBool));
  return call.run(p, flow_sgd_workspace(&p), flow_sgd);
}

// moments: tuples (first, second, touched), one for each step; taken: int64 [K]
int adam(const Reader &reader, const py::sequence &parameters, const py::sequence &moments, py::handle taken, py::handle present,
         double lr, double clip, double mu, double decay, double beta1, double beta2, double epsilon, bool decoupled, int threads) {
  FlowAdam p{};
  Call call(reader);
  const py::tuple given(parameters), beside(moments);
  const Steps steps(reader, call, given);
  expect(beside, given.size(), "moments");
  p.K = steps.K, p.dtype = steps.dtype;
  std::vector<FlowMoments> kept;
  for (size_t i = 0; i < given.size(); ++i) {
    const py::object item = beside[i], parameter_object = py::object(given[i])[py::int_(0)];
    if (!py::isinstance<py::tuple>(item) || py::len(item) != 3) throw Misfit("moments must be tuples (first, second, touched)");
    const py::tuple one = py::reinterpret_borrow<py::tuple>(item);
    const Tensor parameter = reader.read(parameter_object, "parameter");
    const Tensor first = call.write(one[0], "first moment"), second = call.write(one[1], "second moment");
    for (const Tensor *t : {&first, &second})
      if (!t->there || !flow::same(t->type, steps.type) || t->shape[0] != p.K || !alike(*t, parameter))
        throw Misfit("first and second moments must be [K, ..] of the parameter's shape and dtype");
    FlowMoments m{first.data, second.data, parameter.dimensions > 1 ? parameter.shape[1] : 1, nullptr};
    m.touched = static_cast<uint8_t *>(call.out(one[2], "touched", {p.K, m.rows}, kBool));
    kept.push_back(m);
  }
  p.count = (int64_t)steps.all.size(), p.parameters = steps.all.data(), p.moments = kept.data(), p.threads = threads;
  p.lr = lr, p.clip = clip, p.mu = mu, p.decay = decay, p.beta1 = beta1, p.beta2 = beta2, p.epsilon = epsilon;
  p.decoupled = decoupled;
  p.steps = static_cast<int64_t *>(call.out(taken, "steps", {p.K}, kInt64));
  p.present = static_cast<const uint8_t *>(call.in(present, "present", {p.K}, kBool));
  return call.run(p, flow_adam_workspace(&p), flow_adam);
}

// uploads: tuple of [K, ..], weights: tuple of float64 [K], all clients of which join the sum in one pass
int accumulate(const Reader &reader, py::handle total, const py::tuple &uploads, const py::tuple &weights, bool fresh) {
  Call call(reader);
  const Tensor sum = call.write(total, "total");
  if (!flow::same(sum.type, kFloat64) || sum.dimensions < 1 || sum.shape[0] != 3)
    throw Misfit("total must be float64 [3, ..]");
  if (uploads.size() != weights.size()) throw Misfit("uploads and weights must be as many");
  const int64_t n = size_of(sum, 1);
  std::vector<const void *> rows;
  std::vector<double> factors;
  int dtype = FLOW_F32;
  for (size_t u = 0; u < uploads.size(); ++u) {
    const Tensor given = call.read(uploads[u], "uploads");
    if (!given.dimensions || !alike(given, sum)) throw Misfit("uploads must be [K, ..] of a total [3, ..]");
    if (u && dtype != dtype_of(given.type)) throw Misfit("uploads must be of one dtype");
    dtype = dtype_of(given.type);
    const void *w = call.in(weights[u], "weights", {given.shape[0]}, kFloat64);
    if (!w) return FLOW_MISSING;
    for (int64_t k = 0; k < given.shape[0]; ++k) {
      rows.push_back(static_cast<const char *>(given.data) + k * n * (given.type.bits / 8));
      factors.push_back(static_cast<const double *>(w)[k]);
    }
  }
  return call.run([&] {
    return flow_accumulate((int64_t)rows.size(), n, dtype, rows.data(), factors.data(), static_cast<double *>(sum.data), fresh);
  });
}

}  // namespace

void add_training(py::class_<Reader> &kernels) {
  kernels.def("head", flow::method("head", head))
      .def("router", flow::method("router", router))
      .def("sgd", flow::method("sgd", sgd))
      .def("adam", flow::method("adam", adam))
      .def("accumulate", flow::method("accumulate", accumulate));
}
