// Borrows arrays on the device, or rejects them with a message that names the argument. What a library calls its arrays is
// none of this file's business: it reads the description that they give of themselves.
#pragma once

#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>

#include <algorithm>
#include <cstdint>
#include <initializer_list>
#include <string>
#include <vector>

#include "rows.hpp"

namespace mfa::cuda {

namespace py = pybind11;

#if defined(MFA_CUDA_EMULATION)
inline constexpr const char* interface_name = "__array_interface__";
#else
inline constexpr const char* interface_name = "__cuda_array_interface__";
#endif

struct DeviceArray {
  void* data = nullptr;
  bool read_only = false;
  std::string type;
  std::vector<std::size_t> shape;
  std::vector<std::ptrdiff_t> strides;  // bytes; empty where the array is C-contiguous

  std::string shape_text() const {
    std::string text = "(";
    for (std::size_t axis = 0; axis < shape.size(); ++axis)
      text += (axis > 0 ? ", " : "") + std::to_string(shape[axis]);
    return text + (shape.size() == 1 ? ",)" : ")");
  }
  bool is_empty() const { return std::find(shape.begin(), shape.end(), std::size_t{0}) != shape.end(); }
  // Whether the entries from this axis on lie in a line.
  bool is_contiguous(std::size_t first_axis, std::size_t item) const {
    if (strides.empty() || is_empty()) return true;
    auto expected = static_cast<std::ptrdiff_t>(item);
    for (std::size_t axis = shape.size(); axis-- > first_axis;) {
      if (shape[axis] > 1 && strides[axis] != expected) return false;
      expected *= static_cast<std::ptrdiff_t>(shape[axis]);
    }
    return true;
  }
  // Whether every entry can be read: a device stops for good at one that lies across two places.
  bool is_aligned(std::size_t item) const {
    const auto whole = [&](std::ptrdiff_t stride) { return stride % static_cast<std::ptrdiff_t>(item) == 0; };
    return is_empty() || (reinterpret_cast<std::uintptr_t>(data) % item == 0 &&
                          std::all_of(strides.begin(), strides.end(), whole));
  }
};

inline DeviceArray describe(const char* name, const py::object& object) {
  // Asked for once: a library may make it anew every time.
  const py::object attribute = py::getattr(object, interface_name, py::none());
  if (attribute.is_none())
    throw py::type_error(std::string(name) + " must be an array with " + interface_name + ", got " +
                         py::repr(py::type::of(object)).cast<std::string>());
  const auto description = py::reinterpret_borrow<py::dict>(attribute);
  const auto data = description["data"].cast<py::tuple>();
  DeviceArray array;
  array.data = reinterpret_cast<void*>(data[0].cast<std::uintptr_t>());
  array.read_only = data[1].cast<bool>();
  array.type = description["typestr"].cast<std::string>();
  for (const auto extent : description["shape"].cast<py::tuple>()) array.shape.push_back(extent.cast<std::size_t>());
  if (description.contains("strides") && !description["strides"].is_none())
    for (const auto stride : description["strides"].cast<py::tuple>())
      array.strides.push_back(stride.cast<std::ptrdiff_t>());
  return array;
}

template <class T>
inline constexpr const char* type_name = nullptr;
template <>
inline constexpr const char* type_name<float> = "<f4";
template <>
inline constexpr const char* type_name<double> = "<f8";
template <>
inline constexpr const char* type_name<std::int64_t> = "<i8";
template <>
inline constexpr const char* type_name<bool> = "|b1";

// Where its numbers are, if it is a C-contiguous array of exactly this type and shape.
template <class T>
T* numbers_of(const char* name, const DeviceArray& array, std::initializer_list<std::size_t> shape) {
  if (array.type != type_name<T>)
    throw py::type_error(std::string(name) + " must hold numbers of type " + type_name<T> + ", got " + array.type);
  if (array.shape != std::vector<std::size_t>(shape)) {
    DeviceArray expected;
    expected.shape = shape;
    throw py::value_error(std::string(name) + " must have shape " + expected.shape_text() + ", got " +
                          array.shape_text());
  }
  if (!array.is_contiguous(0, sizeof(T))) throw py::value_error(std::string(name) + " must be C-contiguous");
  if (!array.is_aligned(sizeof(T))) throw py::value_error(std::string(name) + " must be aligned");
  return static_cast<T*>(array.data);
}

template <class T>
const T* borrow(const char* name, const py::object& object, std::initializer_list<std::size_t> shape) {
  return numbers_of<T>(name, describe(name, object), shape);
}

template <class T>
T* borrow_output(const char* name, const py::object& object, std::initializer_list<std::size_t> shape) {
  const DeviceArray array = describe(name, object);
  if (array.read_only) throw py::value_error(std::string(name) + " must be writeable");
  return numbers_of<T>(name, array, shape);
}

// Null for None: an output that is not wanted.
template <class T>
T* borrow_optional(const char* name, const py::object& object, std::initializer_list<std::size_t> shape) {
  return object.is_none() ? nullptr : borrow_output<T>(name, object, shape);
}

inline AnyRows borrow_rows(const py::object& object, std::size_t n_features) {
  const DeviceArray array = describe("X", object);
  if (array.shape.size() != 2 || array.shape[1] != n_features)
    throw py::value_error("X must have shape (n_samples, " + std::to_string(n_features) + "), got " +
                          array.shape_text());
  AnyRows rows;
  std::size_t item = 0;
  if (array.type == "<f4") rows.type = ElementType::f32, item = 4;
  else if (array.type == "<f8") rows.type = ElementType::f64, item = 8;
  else if (array.type == "|u1") rows.type = ElementType::u8, item = 1;
  else if (array.type == "<V2" || array.type == "|V2") rows.type = ElementType::bf16, item = 2;
  else
    throw py::type_error("X on a device must be float32, float64, uint8 or bfloat16 (typestr <V2), got typestr " +
                         array.type);
  if (!array.is_contiguous(1, item))
    throw py::value_error("X on a device must have rows whose entries lie in a line; make it C-contiguous");
  if (!array.is_aligned(item)) throw py::value_error("X on a device must be aligned; copy it");
  rows.data = array.data;
  rows.count = array.shape[0];
  rows.stride = array.strides.empty() ? static_cast<std::ptrdiff_t>(n_features * item) : array.strides[0];
  return rows;
}

}  // namespace mfa::cuda
