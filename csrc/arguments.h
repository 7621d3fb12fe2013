// Arguments from Python. pybind11 answers what it cannot convert with the repr() of every argument, and that of a tensor whose
// storage was freed reads memory that is not there; so the arguments are converted here.
#pragma once

#include <pybind11/pybind11.h>
#include <stdint.h>

#include <string>
#include <type_traits>
#include <utility>

namespace flow {

namespace py = pybind11;

template <class T>
constexpr const char *kind_of() {
  if (std::is_same<T, bool>::value) return "a bool";
  if (std::is_integral<T>::value) return "an integer of its range";
  if (std::is_floating_point<T>::value) return "a number";
  if (std::is_same<T, std::string>::value) return "a string";
  return std::is_same<T, py::tuple>::value ? "a tuple" : "a sequence";
}

template <class T>
T converted(py::handle object, const char *function, size_t place) {
  if constexpr (std::is_same<T, py::handle>::value) {
    return object;
  } else {
    py::detail::make_caster<T> caster;
    if (caster.load(object, true)) return py::detail::cast_op<T>(std::move(caster));
    PyErr_Clear();
    throw py::type_error(std::string(function) + ": argument " + std::to_string(place + 1) + " must be " + kind_of<T>() +
                         ", got " + Py_TYPE(object.ptr())->tp_name);
  }
}

inline void expect_count(const py::args &all, size_t count, const char *function) {
  if (all.size() == count) return;
  throw py::type_error(std::string(function) + ": " + std::to_string(count) + " arguments are expected, got " +
                       std::to_string(all.size()));
}

template <class R, class... T, size_t... N>
auto function(const char *name, R (*call)(T...), std::index_sequence<N...>) {
  return [=](const py::args &all) -> R {
    expect_count(all, sizeof...(T), name);
    return call(converted<std::decay_t<T>>(all[N], name, N)...);
  };
}
template <class Self, class R, class... T, size_t... N>
auto method(const char *name, R (*call)(const Self &, T...), std::index_sequence<N...>) {
  return [=](const Self &self, const py::args &all) -> R {
    expect_count(all, sizeof...(T), name);
    return call(self, converted<std::decay_t<T>>(all[N], name, N)...);
  };
}

// A function, and a method of Self, as pybind11 is to define them
template <class R, class... T>
auto function(const char *name, R (*call)(T...)) {
  return function(name, call, std::index_sequence_for<T...>());
}
template <class Self, class R, class... T>
auto method(const char *name, R (*call)(const Self &, T...)) {
  return method(name, call, std::index_sequence_for<T...>());
}

}  // namespace flow
