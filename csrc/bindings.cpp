// Python module flow_kernels._C: tensors (see tensor.h), options, sizes in; a status out. Everything that raw addresses rely
// on is checked here.
#include <string.h>

#include <initializer_list>
#include <string>

#include "arguments.h"
#include "routed_gru.h"
#include "tensor.h"
#include "workspace.h"

namespace py = pybind11;

void add_training(py::class_<flow::Reader> &kernels);  // training_bindings.cpp

namespace {

constexpr int kTensors = 12;  // x, h0, four of each expert, two of the router: the order of flow_kernels/call.py
const char *const kNames[kTensors] = {"input",           "hx",
                                      "weight_ih",       "weight_hh",
                                      "bias_ih",         "bias_hh",
                                      "local_weight_ih", "local_weight_hh",
                                      "local_bias_ih",   "local_bias_hh",
                                      "router_weight",   "router_bias"};

constexpr const char *kGradient = "the gradient of ";

using flow::Memory;
using flow::Tensor;
using flow::text;

int index_of(const std::string &value, std::initializer_list<const char *> names, const char *what) {
  int n = 0;
  for (const char *name : names) {
    if (value == name) return n;
    ++n;
  }
  std::string readable = value;  // a message with bytes that are no text could not become an exception of Python's
  for (char &c : readable)
    if (c < ' ' || c > '~') c = '?';
  throw flow::Misfit(std::string("flow_kernels::routed_gru: ") + what + " '" + readable + "' is unknown");
}

int dtype_of(dlpack::Type type) {
  if (type.code == dlpack::kFloat && type.bits == 32) return FLOW_F32;
  if (type.code == dlpack::kFloat && type.bits == 64) return FLOW_F64;
  if (type.code == dlpack::kBfloat && type.bits == 16) return FLOW_BF16;
  throw flow::Misfit("flow_kernels::routed_gru: input must be float32, float64 or bfloat16");
}

// One call: reads and checks the tensors, fills in the C struct, runs it without the GIL.
class Call {
 public:
  FlowRoutedGru p{};

  Call(const flow::Reader &reader, const py::tuple &tensors, py::handle lengths, py::handle offsets, const std::string &route,
       const std::string &routing, double temperature, bool batch_first, bool reverse, bool ragged, bool mixed, int threads,
       const char *op)
      : reader_(reader), op_(op) {
    if (tensors.size() != kTensors) throw flow::Misfit("flow_kernels::routed_gru: twelve tensors are expected");
    Tensor t[kTensors];
    for (int n = 0; n < kTensors; ++n) t[n] = reader_.read(tensors[n], kNames[n]), memory_.reads(t[n], kNames[n]);
    const Tensor packed = reader_.read(offsets, "offsets"), valid = reader_.read(lengths, "lengths");
    memory_.reads(packed, "offsets"), memory_.reads(valid, "lengths");
    const Tensor &x = t[0], &h0 = t[1];
    const int rows = packed.there ? 1 : 2;  // dimensions of x between the client and the input
    if (!x.there || !h0.there || h0.dimensions < 2 || h0.dimensions > 3 || x.dimensions != h0.dimensions - 1 + rows)
      throw flow::Misfit(
          "flow_kernels::routed_gru: input must be [T, B, I] or [K, T, B, I] (packed: [N, I] or [K, N, I]), hx [B, H] or [K, "
          "B, H]");
    clients_ = h0.dimensions - 2;
    type_ = x.type;
    p.dtype = dtype_of(x.type);
    if (mixed) {
      if (p.dtype != FLOW_F32) throw flow::Misfit("flow_kernels::routed_gru: mixed products take float32 tensors");
      p.dtype = FLOW_MIXED;
    }
    p.route = index_of(route, {"mixture", "global", "local"}, "route");
    p.routing = index_of(routing, {"soft", "hard", "straight_through"}, "routing");
    p.temperature = temperature, p.batch_first = batch_first, p.reverse = reverse, p.ragged = ragged;
    p.threads = threads;
    p.K = clients_ ? h0.shape[0] : 1, p.B = h0.shape[clients_], p.H = h0.shape[clients_ + 1];
    p.I = x.shape[clients_ + rows];
    rows_ = x.shape[clients_];
    if (packed.there) {
      if (clients_ && x.shape[0] != p.K)
        throw flow::Misfit("flow_kernels::routed_gru: hx and input have different numbers of clients");
      if (packed.dimensions != 1 || packed.shape[0] < 2 || packed.type.code != dlpack::kInt || packed.type.bits != 64)
        throw flow::Misfit("flow_kernels::routed_gru: offsets must be int64 [T + 1]");
      p.offsets = static_cast<const int64_t *>(packed.data);
      p.T = packed.shape[0] - 1;
      if (p.offsets[p.T] != rows_ || !valid.there)
        throw py::value_error(
            "routed_gru: batch_sizes must never rise, be at least 1 and sum to the N=" + std::to_string(rows_) +
            " rows of input; take it from the PackedSequence that input is the data of");
    } else {
      p.T = x.shape[clients_ + (batch_first ? 1 : 0)];
      rows2_ = x.shape[clients_ + 1];
      if (x.shape[clients_ + (batch_first ? 0 : 1)] != p.B || (clients_ && x.shape[0] != p.K))
        throw flow::Misfit("flow_kernels::routed_gru: hx " + text(h0.shape, h0.dimensions) + " does not go with input " +
                           text(x.shape, x.dimensions));
    }
    const int64_t H = p.H, G = 3 * p.H;
    for (int e = 0; e < 2; ++e) {
      const Tensor *w = t + 2 + 4 * e;
      const char *const *names = kNames + 2 + 4 * e;
      fits(w[0], names[0], {G, p.I}), fits(w[1], names[1], {G, H}), fits(w[2], names[2], {G}), fits(w[3], names[3], {G});
      p.expert[e] = {w[0].data, w[1].data, w[2].data, w[3].data};
    }
    fits(h0, "hx", {p.B, H}), fits(t[10], "router_weight", {2, p.I + H}), fits(t[11], "router_bias", {2});
    if (valid.there) {
      fits(valid, "lengths", {p.B}, {dlpack::kInt, 64, 1});
      p.lengths = static_cast<const int64_t *>(valid.data);
    }
    p.x = x.data, p.h0 = h0.data, p.router_w = t[10].data, p.router_b = t[11].data;
  }

  // A tensor that has a row for every row of input, read: y, q, gates, dy, dq.
  const void *rows(py::handle object, const char *name, std::initializer_list<int64_t> rest) {
    return read(object, name, rest, true).data;
  }
  const void *tensor(py::handle object, const char *name, std::initializer_list<int64_t> shape) {
    return read(object, name, shape, false).data;
  }
  // The same for what the call writes; prefix: what stands before the name in a message.
  void *out_rows(py::handle object, const char *name, std::initializer_list<int64_t> rest, const char *prefix = "") {
    return write(object, name, rest, true, prefix).data;
  }
  void *out(py::handle object, const char *name, std::initializer_list<int64_t> shape, const char *prefix = "") {
    return write(object, name, shape, false, prefix).data;
  }
  int64_t experts() const { return p.route == FLOW_MIXTURE ? 2 : 1; }
  int64_t padded() const { return (p.H + 15) / 16 * 16; }

  int run(bool backward) {
    memory_.check();
    const int64_t bytes = flow_routed_gru_workspace(&p, backward);
    if (bytes < 0) return flow_routed_gru_check(&p, backward);
    const py::gil_scoped_release release;
    p.workspace = flow::workspace().get(bytes), p.workspace_bytes = bytes;
    if (reader_.poison) memset(p.workspace, 0xff, (size_t)bytes);
    const int status = backward ? flow_routed_gru_backward(&p) : flow_routed_gru_forward(&p);
    flow::workspace().done();
    return status;
  }

 private:
  Tensor read(py::handle object, const char *name, std::initializer_list<int64_t> rest, bool with_rows) {
    const Tensor t = reader_.read(object, name);
    fits(t, name, rest, type_, with_rows);
    memory_.reads(t, name);
    return t;
  }
  Tensor write(py::handle object, const char *name, std::initializer_list<int64_t> rest, bool with_rows, const char *prefix) {
    const Tensor t = reader_.read(object, name);
    fits(t, name, rest, type_, with_rows);
    memory_.writes(t, name, prefix);
    return t;
  }
  void fits(const Tensor &t, const char *name, std::initializer_list<int64_t> rest) const { fits(t, name, rest, type_); }

  // Raise unless t is absent or [K, rows of input, *rest] with this dtype (K only with a client dimension, rows if asked for).
  void fits(const Tensor &t, const char *name, std::initializer_list<int64_t> rest, dlpack::Type type,
            bool with_rows = false) const {
    int64_t expected[6];
    int n = 0;
    if (clients_) expected[n++] = p.K;
    if (with_rows) {
      expected[n++] = rows_;
      if (!p.offsets) expected[n++] = rows2_;
    }
    for (int64_t size : rest) expected[n++] = size;
    if (!flow::fits(t, expected, n, type))
      throw flow::Misfit(std::string("flow_kernels::") + op_ + ": " + name + flow::misfit(t, expected, n, type));
  }

  const flow::Reader &reader_;
  const char *op_;
  dlpack::Type type_{};
  int clients_ = 0;
  int64_t rows_ = 0, rows2_ = 0;
  Memory memory_;
};

int forward(const flow::Reader &reader, const py::tuple &tensors, py::handle lengths, py::handle offsets,
            const std::string &route, const std::string &routing, double temperature, bool batch_first, bool reverse,
            bool ragged, bool mixed, int threads, py::handle y, py::handle h_n, py::handle q, py::handle gates) {
  Call call(reader, tensors, lengths, offsets, route, routing, temperature, batch_first, reverse, ragged, mixed, threads,
            "routed_gru");
  FlowRoutedGru &p = call.p;
  p.y = call.out_rows(y, "y", {p.H}), p.q = call.out_rows(q, "q", {2});
  p.h_n = call.out(h_n, "h_n", {p.B, p.H});
  p.gates = call.out_rows(gates, "gates", {call.experts() * 4, call.padded()});
  return call.run(false);
}

int try_forward(const flow::Reader &reader, const py::tuple &tensors, py::handle lengths, py::handle offsets,
                const std::string &route, const std::string &routing, double temperature, bool batch_first, bool reverse,
                bool ragged, bool mixed, int threads, py::handle y, py::handle h_n, py::handle q, py::handle gates) {
  try {
    return forward(reader, tensors, lengths, offsets, route, routing, temperature, batch_first, reverse, ragged, mixed, threads, y,
                   h_n, q, gates);
  } catch (const flow::Misfit &) {
    return -1;
  }
}

int backward(const flow::Reader &reader, const py::tuple &tensors, py::handle lengths, py::handle offsets,
             const std::string &route, const std::string &routing, double temperature, bool batch_first, bool reverse,
             bool ragged, bool mixed, int threads, py::handle y, py::handle q, py::handle gates, py::handle dy, py::handle dh_n,
             py::handle dq, const py::tuple &grads) {
  Call call(reader, tensors, lengths, offsets, route, routing, temperature, batch_first, reverse, ragged, mixed, threads,
            "routed_gru_backward");
  FlowRoutedGru &p = call.p;
  // forward writes these, backward does not
  p.y = const_cast<void *>(call.rows(y, "y", {p.H})), p.q = const_cast<void *>(call.rows(q, "q", {2}));
  p.gates = const_cast<void *>(call.rows(gates, "gates", {call.experts() * 4, call.padded()}));
  p.dy = call.rows(dy, "dy", {p.H}), p.dq = call.rows(dq, "dq", {2});
  p.dh_n = call.tensor(dh_n, "dh_n", {p.B, p.H});
  if (grads.size() != kTensors) throw flow::Misfit("flow_kernels::routed_gru_backward: twelve gradients are expected");
  const int64_t G = 3 * p.H;
  const auto grad = [&](int n, std::initializer_list<int64_t> shape) {
    return call.out(grads[n], kNames[n], shape, kGradient);
  };
  p.dx = call.out_rows(grads[0], kNames[0], {p.I}, kGradient), p.dh0 = grad(1, {p.B, p.H});
  for (int e = 0; e < 2; ++e) {
    const int n = 2 + 4 * e;
    p.grad[e] = {grad(n, {G, p.I}), grad(n + 1, {G, p.H}), grad(n + 2, {G}), grad(n + 3, {G})};
  }
  p.drouter_w = grad(10, {2, p.I + p.H}), p.drouter_b = grad(11, {2});
  return call.run(true);
}

py::tuple division(int64_t K, int64_t T, int64_t B, int64_t I, int64_t H, int dtype, int threads, bool backward) {
  FlowRoutedGru p{};
  char saved = 0;
  p.gates = &saved;  // only whether there are any is looked at
  p.K = K, p.T = T, p.B = B, p.I = I, p.H = H, p.dtype = dtype, p.threads = threads, p.temperature = 1;
  int64_t tiles = 0, bytes = 0;
  int32_t used = 0;
  if (flow_routed_gru_division(&p, backward, &used, &tiles, &bytes)) throw py::value_error("bad sizes or options");
  return py::make_tuple(used, tiles, bytes);
}

// A name ends where its string does, not at a zero in it.
bool has_isa(const std::string &name) { return name.find('\0') == name.npos && flow_cpu_has_isa(name.c_str()); }
int select_isa(const std::string &name) { return has_isa(name) ? flow_cpu_select_isa(name.c_str()) : (int)FLOW_BAD_ISA; }

}  // namespace

PYBIND11_MODULE(_C, m) {
  m.doc() = "Raw entry points of the CPU kernels; use flow_kernels.routed_gru instead.";

  py::class_<flow::Reader> kernels(m, "Kernels");
  add_training(kernels);
  kernels.def(py::init<py::handle>(), "tensor_class: torch.Tensor")
      .def_readwrite("poison", &flow::Reader::poison,
                     "Fill every workspace with NaN first, so that a test sees what is read unwritten.")
      .def("forward", flow::method("forward", forward))
      .def("try_forward", flow::method("try_forward", try_forward), "forward, or -1 where that raises because of a tensor.")
      .def("backward", flow::method("backward", backward));

  m.def("division", flow::function("division", division), "Threads used, batch tiles a client, bytes of workspace.");
  m.def("isa", &flow_cpu_isa);
  m.def("threads", &flow_cpu_threads, "What shares the work of a call: OpenMP, OpenMP of torch, or a thread pool of the extension's own.");
  m.def("has_isa", flow::function("has_isa", has_isa));
  m.def("select_isa", flow::function("select_isa", select_isa));
}
