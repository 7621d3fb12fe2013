// Python module flow_kernels._cuda: the addresses of a struct of cluster.h and of a stream in, a CUDA error out. It needs no
// driver to be imported.
#include <pybind11/pybind11.h>

#include "cluster.h"

namespace py = pybind11;

static const FlowCluster *problem(uintptr_t address) { return reinterpret_cast<const FlowCluster *>(address); }
static void *stream_at(uintptr_t stream) { return reinterpret_cast<void *>(stream); }

PYBIND11_MODULE(_cuda, m) {
  m.doc() = "Raw entry points of the cluster kernels for compute capability 9.0; use flow_kernels.routed_gru instead.";
  using Release = py::call_guard<py::gil_scoped_release>;
  m.def("size", &flow_cluster_size, "Bytes of the struct.");
  m.def(
      "forward", [](uintptr_t p, uintptr_t stream) { return flow_cluster_forward(problem(p), stream_at(stream)); }, Release());
  m.def(
      "backward", [](uintptr_t p, uintptr_t stream) { return flow_cluster_backward(problem(p), stream_at(stream)); },
      Release());
  m.def(
      "active", [](uintptr_t p, bool backward) { return flow_cluster_active(problem(p), backward); },
      "Clusters of this problem's shape that the device can run at once; minus a CUDA error.");
  m.def("error", &flow_cluster_error, "The text of an error.");
}
