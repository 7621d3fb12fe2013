// Tensors as they come from Python: the DLPack exchange interface (version 1) that torch.Tensor offers for C code. Declares
// only what is used of https://dmlc.github.io/dlpack/latest/c_api.html; no framework's header is needed.
#pragma once

#include <pybind11/pybind11.h>
#include <stdint.h>

#include <stdexcept>
#include <string>

namespace dlpack {

struct Device {
  int32_t type, index;
};
constexpr int32_t kCpu = 1;

struct Type {
  uint8_t code, bits;
  uint16_t lanes;
};
constexpr uint8_t kInt = 0, kFloat = 2, kBfloat = 4;

struct Tensor {
  void *data;
  Device device;
  int32_t dimensions;
  Type type;
  int64_t *shape, *strides;  // strides in elements; null: contiguous
  uint64_t offset;           // bytes
};

// The table behind torch.Tensor.__dlpack_c_exchange_api__
struct Exchange {
  uint32_t major, minor;
  Exchange *older;
  void *allocate, *owned_from_python, *owned_to_python;
  int (*from_python)(void *object, Tensor *out);  // borrowed: valid while the Python object is
  void *stream;
};

}  // namespace dlpack

namespace flow {

namespace py = pybind11;

// A tensor argument that has been looked at, or its absence. `shape` belongs to the Python object.
struct Tensor {
  void *data = nullptr;
  dlpack::Type type{};
  int dimensions = 0;
  const int64_t *shape = nullptr;
  bool there = false;
};

// A tensor that the kernels cannot take as it is.
struct Misfit : std::runtime_error {
  using std::runtime_error::runtime_error;
};

class Reader {
 public:
  bool poison = false;

  explicit Reader(py::handle tensor_class) {
    const py::capsule capsule = tensor_class.attr("__dlpack_c_exchange_api__");
    api_ = static_cast<const dlpack::Exchange *>(capsule.get_pointer());
    while (api_ && api_->major != 1) api_ = api_->older;
    if (!api_ || !api_->from_python) throw py::import_error("this torch has no DLPack exchange interface of version 1");
  }

  // The argument `name`, which must be None or a contiguous tensor on the CPU.
  Tensor read(py::handle object, const char *name) const {
    Tensor t;
    if (object.is_none()) return t;
    dlpack::Tensor d;
    if (api_->from_python(object.ptr(), &d)) {
      PyErr_Clear();  // its message is of DLPack, which nobody asked for
      throw Misfit(std::string(name) + " must be a dense tensor on the CPU");
    }
    if (d.device.type != dlpack::kCpu || d.type.lanes != 1) throw Misfit(std::string(name) + " must be on the CPU");
    int64_t expected = 1;
    bool empty = false;  // then its strides mean nothing
    for (int n = 0; n < d.dimensions; ++n) empty = empty || d.shape[n] == 0;
    for (int n = d.dimensions - 1; n >= 0 && d.strides && !empty; --n) {
      if (d.shape[n] != 1 && d.strides[n] != expected) throw Misfit(std::string(name) + " must be contiguous");
      expected *= d.shape[n];
    }
    t.data = static_cast<char *>(d.data) + d.offset;
    t.type = d.type;
    t.dimensions = d.dimensions;
    t.shape = d.shape;
    t.there = true;
    return t;
  }

 private:
  const dlpack::Exchange *api_;
};

}  // namespace flow
