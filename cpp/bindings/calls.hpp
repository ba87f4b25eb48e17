// What the functions of the extension share: the arguments that several of them take.
#pragma once

#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>

#include <cstdint>

#include "bindings/arrays.hpp"
#include "bindings/interrupts.hpp"
#include "cpu/score.hpp"
#include "cpu/statistics.hpp"
#include "model.hpp"

namespace mfa::bindings {

using Index = std::int64_t;

template <class Call>
auto by_type(const py::array& X, const Call& call) {
  return py::isinstance<py::array_t<float>>(X) ? call(float{}) : call(double{});
}

template <class T>
cpu::Reduced<T> borrow_reduced(const Model& model, std::size_t n, cpu::Groups groups, const py::object& log_sum,
                               const py::object& best_value, const py::object& best,
                               const py::object& responsibilities, const py::object& factors) {
  const std::size_t n_groups = groups.size() - 1;
  return {borrow_optional<double>("log_sum", log_sum, {n, n_groups}),
          borrow_optional<double>("best_value", best_value, {n, n_groups}),
          borrow_optional<Index>("best", best, {n, n_groups}),
          borrow_optional<T>("responsibilities", responsibilities, {n, model.n_components()}),
          borrow_optional<double>("factors", factors, {n, model.n_factors()})};
}

inline cpu::Statistics borrow_statistics(const py::tuple& arrays, std::size_t K, std::size_t L, std::size_t d) {
  if (arrays.size() != 5) throw py::value_error("statistics must be a tuple of 5 arrays");
  return {borrow_output<double>("counts", arrays[0], {K}), borrow_output<double>("factor_sums", arrays[1], {K, L}),
          borrow_output<double>("factor_moments", arrays[2], {K, L, L}),
          borrow_output<double>("cross", arrays[3], {K, L + 1, d}),
          borrow_output<double>("squares", arrays[4], {K, d})};
}

inline const double* borrow_sample_weight(const py::object& sample_weight, std::size_t n) {
  return sample_weight.is_none() ? nullptr : borrow<double>("sample_weight", sample_weight, {n});
}

}  // namespace mfa::bindings
