// Python module flow_kernels._C: a struct of sizes and raw addresses in, a status out. Knows nothing of torch.
#include <pybind11/pybind11.h>

#include "routed_gru.h"

namespace py = pybind11;

namespace {

template <class P>
uintptr_t address(P *pointer) {
  return reinterpret_cast<uintptr_t>(pointer);
}

// A pointer member appears in Python as an integer address, 0 for null.
template <class Class, class P>
void pointer(Class &cls, const char *name, P *FlowRoutedGru::*member) {
  cls.def_property(
      name, [member](const FlowRoutedGru &p) { return address(p.*member); },
      [member](FlowRoutedGru &p, uintptr_t a) { p.*member = reinterpret_cast<P *>(a); });
}


}  // namespace

PYBIND11_MODULE(_C, m) {
  m.doc() = "Raw entry points of the CPU kernels; use flow_kernels.routed_gru instead.";

  py::class_<FlowRoutedGru> cls(m, "Problem");
  cls.def(py::init([] { return FlowRoutedGru{}; }))
      .def_readwrite("K", &FlowRoutedGru::K)
      .def_readwrite("T", &FlowRoutedGru::T)
      .def_readwrite("B", &FlowRoutedGru::B)
      .def_readwrite("I", &FlowRoutedGru::I)
      .def_readwrite("H", &FlowRoutedGru::H)
      .def_readwrite("dtype", &FlowRoutedGru::dtype)
      .def_readwrite("route", &FlowRoutedGru::route)
      .def_readwrite("routing", &FlowRoutedGru::routing)
      .def_readwrite("batch_first", &FlowRoutedGru::batch_first)
      .def_readwrite("threads", &FlowRoutedGru::threads)
      .def_readwrite("reverse", &FlowRoutedGru::reverse)
      .def_readwrite("temperature", &FlowRoutedGru::temperature)
      .def_readwrite("workspace_bytes", &FlowRoutedGru::workspace_bytes)
      .def("set_expert",
           [](FlowRoutedGru &p, int e, uintptr_t w_ih, uintptr_t w_hh, uintptr_t b_ih, uintptr_t b_hh) {
             if (e < 0 || e > 1) throw py::index_error("expert is 0 (global) or 1 (local)");
             p.expert[e] = {reinterpret_cast<void *>(w_ih), reinterpret_cast<void *>(w_hh), reinterpret_cast<void *>(b_ih),
                            reinterpret_cast<void *>(b_hh)};
           })
      .def("set_expert_grad",
           [](FlowRoutedGru &p, int e, uintptr_t w_ih, uintptr_t w_hh, uintptr_t b_ih, uintptr_t b_hh) {
             if (e < 0 || e > 1) throw py::index_error("expert is 0 (global) or 1 (local)");
             p.grad[e] = {reinterpret_cast<void *>(w_ih), reinterpret_cast<void *>(w_hh), reinterpret_cast<void *>(b_ih),
                          reinterpret_cast<void *>(b_hh)};
           })
      .def("workspace_size", [](const FlowRoutedGru &p, bool backward) { return flow_routed_gru_workspace(&p, backward); })
      .def("division",
           [](const FlowRoutedGru &p, bool backward) {
             int32_t threads = 0;
             int64_t tiles = 0, bytes = 0;
             if (flow_routed_gru_division(&p, backward, &threads, &tiles, &bytes)) throw py::value_error("bad sizes or options");
             return py::make_tuple(threads, tiles, bytes);
           })
      .def("forward", [](const FlowRoutedGru &p) { return flow_routed_gru_forward(&p); },
           py::call_guard<py::gil_scoped_release>())
      .def("backward", [](const FlowRoutedGru &p) { return flow_routed_gru_backward(&p); },
           py::call_guard<py::gil_scoped_release>());
  pointer(cls, "x", &FlowRoutedGru::x);
  pointer(cls, "h0", &FlowRoutedGru::h0);
  pointer(cls, "router_w", &FlowRoutedGru::router_w);
  pointer(cls, "router_b", &FlowRoutedGru::router_b);
  pointer(cls, "lengths", &FlowRoutedGru::lengths);
  pointer(cls, "offsets", &FlowRoutedGru::offsets);
  pointer(cls, "y", &FlowRoutedGru::y);
  pointer(cls, "h_n", &FlowRoutedGru::h_n);
  pointer(cls, "q", &FlowRoutedGru::q);
  pointer(cls, "gates", &FlowRoutedGru::gates);
  pointer(cls, "dy", &FlowRoutedGru::dy);
  pointer(cls, "dh_n", &FlowRoutedGru::dh_n);
  pointer(cls, "dq", &FlowRoutedGru::dq);
  pointer(cls, "dx", &FlowRoutedGru::dx);
  pointer(cls, "dh0", &FlowRoutedGru::dh0);
  pointer(cls, "drouter_w", &FlowRoutedGru::drouter_w);
  pointer(cls, "drouter_b", &FlowRoutedGru::drouter_b);
  pointer(cls, "workspace", &FlowRoutedGru::workspace);

  m.def("isa", &flow_cpu_isa);
  m.def("has_isa", &flow_cpu_has_isa);
  m.def("select_isa", &flow_cpu_select_isa);
}
