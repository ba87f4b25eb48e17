// Borrows NumPy arrays, or rejects them with a message that names the argument. Nothing is copied and nothing is cast:
// the Python side brings arrays into shape, this is the last line of defence.
#pragma once

#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>

#include <algorithm>
#include <cstdint>
#include <initializer_list>
#include <span>
#include <string>
#include <vector>

#include "cpu/rows.hpp"

namespace mfa::bindings {

namespace py = pybind11;

inline std::string as_text(std::span<const std::size_t> shape) {
  std::string text = "(";
  for (const std::size_t extent : shape) text += (text.size() > 1 ? ", " : "") + std::to_string(extent);
  return text + (shape.size() == 1 ? ",)" : ")");
}

inline std::string shape_of(const py::array& array) {
  const std::vector<std::size_t> shape(array.shape(), array.shape() + array.ndim());
  return as_text(shape);
}

inline void require_shape(const char* name, const py::array& array, std::initializer_list<std::size_t> shape) {
  if (!std::equal(shape.begin(), shape.end(), array.shape(), array.shape() + array.ndim(),
                  [](std::size_t wanted, py::ssize_t got) { return got == static_cast<py::ssize_t>(wanted); }))
    throw py::value_error(std::string(name) + " must have shape " + as_text({shape.begin(), shape.size()}) + ", got " +
                          shape_of(array));
}

// What an object is, for a message: of an array its type and layout.
inline std::string kind_of(const py::object& object) {
  if (!py::isinstance<py::array>(object)) return py::repr(py::type::of(object)).cast<std::string>();
  const auto array = py::reinterpret_borrow<py::array>(object);
  return (array.flags() & py::array::c_style ? "one of " : "one that is not contiguous, of ") +
         py::str(array.dtype()).cast<std::string>();
}

// A C-contiguous array of exactly this type and shape.
template <class T>
const T* borrow(const char* name, const py::object& object, std::initializer_list<std::size_t> shape) {
  if (!py::isinstance<py::array_t<T, py::array::c_style>>(object))
    throw py::type_error(std::string(name) + " must be a C-contiguous array of " +
                         py::str(py::dtype::of<T>()).cast<std::string>() + ", got " + kind_of(object));
  const auto array = py::reinterpret_borrow<py::array>(object);
  require_shape(name, array, shape);
  if (!(array.flags() & py::detail::npy_api::NPY_ARRAY_ALIGNED_))
    throw py::value_error(std::string(name) + " must be aligned");
  return static_cast<const T*>(array.data());
}

template <class T>
T* borrow_output(const char* name, const py::object& object, std::initializer_list<std::size_t> shape) {
  const T* data = borrow<T>(name, object, shape);
  if (!py::reinterpret_borrow<py::array>(object).writeable())
    throw py::value_error(std::string(name) + " must be writeable");
  return const_cast<T*>(data);
}

// Null for None: an output that is not wanted.
template <class T>
T* borrow_optional(const char* name, const py::object& object, std::initializer_list<std::size_t> shape) {
  return object.is_none() ? nullptr : borrow_output<T>(name, object, shape);
}

// Groups of components, as offsets from 0 to their number.
inline std::span<const std::int64_t> borrow_groups(const py::array& groups, std::size_t n_components) {
  if (groups.ndim() != 1 || groups.shape(0) < 2) throw py::value_error("groups must have shape (n_groups + 1,)");
  const auto size = static_cast<std::size_t>(groups.shape(0));
  const std::int64_t* offsets = borrow<std::int64_t>("groups", groups, {size});
  bool rising = offsets[0] == 0 && offsets[size - 1] == static_cast<std::int64_t>(n_components);
  for (std::size_t g = 0; g + 1 < size; ++g) rising = rising && offsets[g] < offsets[g + 1];
  if (!rising) throw py::value_error("groups must rise from 0 to the number of components");
  return {offsets, size};
}

inline cpu::ElementType element_type(const py::array& array) {
  const py::dtype type = array.dtype();
  const auto size = type.itemsize();
  const bool native = type.byteorder() == '=' || type.byteorder() == '|';
  if (native) switch (type.kind()) {
    case 'b': return cpu::ElementType::boolean;
    case 'f':
      if (size == 2) return cpu::ElementType::f16;
      if (size == 4) return cpu::ElementType::f32;
      if (size == 8) return cpu::ElementType::f64;
      if (size == sizeof(long double)) return cpu::ElementType::long_double;
      break;
    case 'u':
      if (size == 1) return cpu::ElementType::u8;
      if (size == 2) return cpu::ElementType::u16;
      if (size == 4) return cpu::ElementType::u32;
      if (size == 8) return cpu::ElementType::u64;
      break;
    case 'i':
      if (size == 1) return cpu::ElementType::i8;
      if (size == 2) return cpu::ElementType::i16;
      if (size == 4) return cpu::ElementType::i32;
      if (size == 8) return cpu::ElementType::i64;
      break;
    default: break;
  }
  throw py::type_error("X must hold real numbers" + std::string(native ? "" : " in native byte order") +
                       ", got dtype " + py::str(type).cast<std::string>());
}

// Samples of any real type and any strides, as long as every entry is aligned.
inline cpu::Rows borrow_rows(const py::array& array, std::size_t n_features) {
  if (array.ndim() != 2 || array.shape(1) != static_cast<py::ssize_t>(n_features))
    throw py::value_error("X must have shape (n_samples, " + std::to_string(n_features) + "), got " + shape_of(array));
  if (!(array.flags() & py::detail::npy_api::NPY_ARRAY_ALIGNED_)) throw py::value_error("X must be aligned");
  cpu::Rows rows;
  rows.data = array.data();
  rows.type = element_type(array);
  rows.n_rows = static_cast<std::size_t>(array.shape(0));
  rows.n_features = n_features;
  rows.row_stride = array.strides(0);
  rows.column_stride = array.strides(1);
  return rows;
}

}  // namespace mfa::bindings
