// Tensors as they come from Python: the DLPack exchange interface (version 1) that torch.Tensor offers for C code. Declares
// only what is used of https://dmlc.github.io/dlpack/latest/c_api.html; no framework's header is needed.
#pragma once

#include <pybind11/pybind11.h>
#include <stdint.h>
#include <stdlib.h>

#include <algorithm>
#include <new>
#include <stdexcept>
#include <string>
#include <vector>

namespace dlpack {

struct Device {
  int32_t type, index;
};
constexpr int32_t kCpu = 1;

struct Type {
  uint8_t code, bits;
  uint16_t lanes;
};
constexpr uint8_t kInt = 0, kUnsigned = 1, kFloat = 2, kBfloat = 4, kComplex = 5, kBool = 6;

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
  int64_t bytes = 0;
};

// A tensor that the kernels cannot take as it is.
struct Misfit : std::runtime_error {
  using std::runtime_error::runtime_error;
};

inline std::string text(const int64_t *shape, int dimensions) {
  std::string s = "[";
  for (int n = 0; n < dimensions; ++n) s += (n ? ", " : "") + std::to_string(shape[n]);
  return s + "]";
}

// As torch writes it: "float32"
inline std::string text(dlpack::Type type) {
  const auto with_bits = [&](const char *kind) { return kind + std::to_string(type.bits); };
  switch (type.code) {
    case dlpack::kInt: return with_bits("int");
    case dlpack::kUnsigned: return with_bits("uint");
    case dlpack::kFloat: return with_bits("float");
    case dlpack::kBfloat: return with_bits("bfloat");
    case dlpack::kComplex: return with_bits("complex");
    case dlpack::kBool: return "bool";
    default: return "of another dtype";
  }
}

inline bool same(dlpack::Type a, dlpack::Type b) { return a.code == b.code && a.bits == b.bits && a.lanes == b.lanes; }

// Whether t is absent or has this dtype and shape; and what to say where it does not.
inline bool fits(const Tensor &t, const int64_t *shape, int dimensions, dlpack::Type type) {
  return !t.there || (same(t.type, type) && t.dimensions == dimensions && std::equal(shape, shape + dimensions, t.shape));
}
inline std::string misfit(const Tensor &t, const int64_t *shape, int dimensions, dlpack::Type type) {
  return " is " + text(t.type) + " " + text(t.shape, t.dimensions) + " and must be " + text(type) + " " +
         text(shape, dimensions);
}

// The memory of one call: what is written must be nobody else's.
class Memory {
 public:
  Memory() { spans_.reserve(48); }
  // name: a literal; prefix: what stands before it in a message
  void reads(const Tensor &t, const char *name, const char *prefix = "") { add(t, name, prefix, false); }
  void writes(const Tensor &t, const char *name, const char *prefix = "") { add(t, name, prefix, true); }

  void check() {
    std::sort(spans_.begin(), spans_.end(), [](const Span &a, const Span &b) { return a.begin < b.begin; });
    const Span *last = nullptr, *last_written = nullptr;  // those that reach furthest
    for (const Span &one : spans_) {
      const Span *other = one.written ? last : last_written;
      if (other && one.begin < other->end) {
        const Span &written = one.written ? one : *other, &second = one.written ? *other : one;
        throw Misfit(text_of(written) + " is written and shares memory with " + text_of(second) + "; pass a clone() of one");
      }
      if (!last || one.end > last->end) last = &one;
      if (one.written && (!last_written || one.end > last_written->end)) last_written = &one;
    }
  }

 private:
  struct Span {
    const char *begin, *end, *name, *prefix;
    bool written;
  };
  static std::string text_of(const Span &s) { return std::string(s.prefix) + s.name; }
  void add(const Tensor &t, const char *name, const char *prefix, bool written) {
    const char *begin = static_cast<const char *>(t.data);
    if (t.bytes) spans_.push_back({begin, begin + t.bytes, name, prefix, written});
  }
  std::vector<Span> spans_;
};

class Reader {
 public:
  bool poison = false;

  // Zeros: Python can make an object whose constructor never runs (Kernels.__new__, copy.copy), and pybind11 then takes raw
  // memory for it. read() recognises that.
  static void *operator new(size_t bytes) {
    if (void *p = calloc(1, bytes)) return p;
    throw std::bad_alloc();
  }
  static void operator delete(void *p) { free(p); }

  explicit Reader(py::handle tensor_class) {
    const py::object capsule = tensor_class.attr("__dlpack_c_exchange_api__");
    constexpr const char *name = "dlpack_exchange_api";
    if (!PyCapsule_IsValid(capsule.ptr(), name))
      throw py::type_error("Kernels: __dlpack_c_exchange_api__ of the class must be a capsule with the name "
                           "dlpack_exchange_api; pass torch.Tensor");
    api_ = static_cast<const dlpack::Exchange *>(PyCapsule_GetPointer(capsule.ptr(), name));
    while (api_ && api_->major != 1) api_ = api_->older;
    if (!api_ || !api_->from_python) throw py::import_error("this torch has no DLPack exchange interface of version 1");
    is_negative_ = tensor_class.attr("is_neg");
    storage_of_ = tensor_class.attr("untyped_storage");
  }

  // The argument `name`, which must be None or a contiguous tensor on the CPU whose numbers lie in memory as they are.
  Tensor read(py::handle object, const char *name) const {
    Tensor t;
    if (!api_) throw py::value_error("Kernels: the object was made without its constructor; make it by Kernels(torch.Tensor)");
    if (object.is_none()) return t;
    // first, since it may run Python, and what from_python finds belongs to the tensor
    const py::object negative = py::reinterpret_steal<py::object>(PyObject_CallOneArg(is_negative_.ptr(), object.ptr()));
    if (!negative && !PyErr_ExceptionMatches(PyExc_TypeError)) throw py::error_already_set();
    dlpack::Tensor d;
    if (!negative || api_->from_python(object.ptr(), &d)) {
      PyErr_Clear();  // its message is of DLPack, which nobody asked for
      throw Misfit(std::string(name) + " must be a dense tensor on the CPU");
    }
    if (negative.ptr() == Py_True)
      throw Misfit(std::string(name) +
                   " is a view with its negative bit set, as .imag of a conjugate is; pass tensor.resolve_neg()");
    if (d.device.type != dlpack::kCpu) throw Misfit(std::string(name) + " must be on the CPU");
    if (d.type.lanes != 1 || d.type.bits < 8) throw Misfit(std::string(name) + " has a dtype that no kernel takes");
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
    if (empty) return t;
    t.bytes = expected * (d.type.bits / 8);
    if (is_freed(object, t.data)) throw Misfit(std::string(name) + " has no memory: its storage was freed or never made");
    if ((uintptr_t)t.data % std::min(d.type.bits / 8, 8))
      throw Misfit(std::string(name) + " must be aligned to its " + std::to_string(d.type.bits / 8) + " bytes; pass a clone()");
    return t;
  }

 private:
  // Without memory a tensor's address is its offset. Only where the address could be one is the storage asked.
  bool is_freed(py::handle object, const void *data) const {
    constexpr uintptr_t kOffsets = (uintptr_t)1 << 40;
    if (!data) return true;
    if ((uintptr_t)data >= kOffsets) return false;
    try {
      return storage_of_(object).attr("nbytes")().cast<int64_t>() == 0;
    } catch (py::error_already_set &) {
      return true;  // there is no storage at all
    }
  }

  const dlpack::Exchange *api_;
  py::object is_negative_, storage_of_;
};

}  // namespace flow
