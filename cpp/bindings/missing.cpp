#include "bindings/missing.hpp"

#include <pybind11/stl.h>

#include <cstdint>
#include <string>
#include <vector>

#include "bindings/arrays.hpp"
#include "bindings/calls.hpp"
#include "cpu/missing.hpp"
#include "cpu/missing_statistics.hpp"

namespace mfa::bindings {
namespace {

void patterns(const py::array& X, const py::object& out, std::size_t n_threads) {
  if (X.ndim() != 2) throw py::value_error("X must have 2 dimensions, got " + shape_of(X));
  const cpu::Rows rows = borrow_rows(X, static_cast<std::size_t>(X.shape(1)));
  Index* pattern = borrow_output<Index>("out", out, {rows.n_rows});
  without_gil([&] { cpu::find_patterns(rows, pattern, n_threads); });
}

cpu::Patterns borrow_patterns(const py::tuple& arrays, const cpu::Rows& rows) {
  if (arrays.size() != 2) throw py::value_error("patterns must be a tuple of 2 arrays");
  const auto size = [&](std::size_t i) { return static_cast<std::size_t>(py::len(arrays[i])); };
  const Index* members = borrow<Index>("rows", arrays[0], {size(0)});
  const Index* starts = borrow<Index>("starts", arrays[1], {size(1)});
  if (size(1) == 0) throw py::value_error("starts must not be empty");
  bool rising = starts[0] == 0 && starts[size(1) - 1] == static_cast<Index>(size(0));
  for (std::size_t p = 0; p + 1 < size(1); ++p) rising = rising && starts[p] <= starts[p + 1];
  if (!rising) throw py::value_error("starts must rise from 0 to the number of rows");
  std::vector<bool> seen(rows.n_rows);
  for (std::size_t i = 0; i < size(0); ++i) {
    if (members[i] < 0 || members[i] >= static_cast<Index>(rows.n_rows))
      throw py::value_error("rows must be rows of X, got " + std::to_string(members[i]));
    // Two threads would write its results.
    const auto row = static_cast<std::size_t>(members[i]);
    if (seen[row]) throw py::value_error("rows must be distinct, got " + std::to_string(members[i]) + " twice");
    seen[row] = true;
  }
  return {members, {starts, size(1)}};
}

cpu::BadRow marginal_log_densities(const Model& model, const py::array& X, const py::tuple& patterns_of_rows,
                                   const py::object& out, std::size_t n_threads) {
  const cpu::Rows rows = borrow_rows(X, model.n_features());
  const cpu::Patterns by_pattern = borrow_patterns(patterns_of_rows, rows);
  return by_type(X, [&]<class T>(T) {
    T* target = borrow_output<T>("out", out, {rows.n_rows, model.n_components()});
    return without_gil([&] { return cpu::marginal_log_densities(model, rows, by_pattern, target, n_threads); });
  });
}

cpu::BadRow marginal_reduce(const Model& model, const py::array& X, const py::tuple& patterns_of_rows,
                            const py::array& groups, const py::object& log_sum, const py::object& best_value,
                            const py::object& best, const py::object& responsibilities, const py::object& factors,
                            std::size_t n_threads) {
  const cpu::Rows rows = borrow_rows(X, model.n_features());
  const cpu::Patterns by_pattern = borrow_patterns(patterns_of_rows, rows);
  const cpu::Groups offsets = borrow_groups(groups, model.n_components());
  return by_type(X, [&]<class T>(T) {
    const auto out = borrow_reduced<T>(model, rows.n_rows, offsets, log_sum, best_value, best, responsibilities, factors);
    return without_gil([&] { return cpu::marginal_reduce(model, rows, by_pattern, offsets, out, n_threads); });
  });
}

cpu::BadRow marginal_expectation(const Model& model, const py::array& X, const py::tuple& patterns_of_rows,
                                 const py::tuple& statistics, const py::object& log_likelihoods,
                                 const py::object& sample_weight, std::size_t n_threads) {
  const cpu::Rows rows = borrow_rows(X, model.n_features());
  const cpu::Patterns by_pattern = borrow_patterns(patterns_of_rows, rows);
  const cpu::Statistics out =
      borrow_statistics(statistics, model.n_components(), model.n_factors(), model.n_features());
  double* values = borrow_output<double>("log_likelihoods", log_likelihoods, {rows.n_rows});
  const double* weights = borrow_sample_weight(sample_weight, rows.n_rows);
  return without_gil([&] { return cpu::marginal_expectation(model, rows, by_pattern, weights, out, values, n_threads); });
}

cpu::BadRow conditional(const Model& model, const py::array& X, const py::tuple& patterns_of_rows,
                        const py::object& mean, const py::object& variance, const py::object& responsibilities,
                        const py::object& factors, std::size_t n_threads) {
  const cpu::Rows rows = borrow_rows(X, model.n_features());
  const cpu::Patterns by_pattern = borrow_patterns(patterns_of_rows, rows);
  const std::size_t n = rows.n_rows, d = model.n_features(), K = model.n_components();
  return by_type(X, [&]<class T>(T) {
    const cpu::Conditional<T> out{borrow_optional<T>("mean", mean, {n, d}),
                                  borrow_optional<T>("variance", variance, {n, d}),
                                  borrow_optional<T>("responsibilities", responsibilities, {n, K}),
                                  borrow_optional<double>("factors", factors, {n, K, model.n_factors()})};
    return without_gil([&] { return cpu::conditional(model, rows, by_pattern, out, n_threads); });
  });
}

cpu::BadRow conditional_sample(const Model& model, const py::array& X, const py::tuple& patterns_of_rows,
                               std::uint64_t seed, const py::array& out, std::size_t n_threads) {
  const cpu::Rows rows = borrow_rows(X, model.n_features());
  const cpu::Patterns by_pattern = borrow_patterns(patterns_of_rows, rows);
  if (out.ndim() != 3) throw py::value_error("out must have 3 dimensions, got " + shape_of(out));
  const auto draws = static_cast<std::size_t>(out.shape(0));
  return by_type(X, [&]<class T>(T) {
    T* target = borrow_output<T>("out", out, {draws, rows.n_rows, model.n_features()});
    return without_gil([&] { return cpu::conditional_sample(model, rows, by_pattern, seed, draws, target, n_threads); });
  });
}

}  // namespace

void bind_missing(py::module_& m) {
  m.def("patterns", &patterns, "Which entries of a row are NaN, as a number per pattern: 0 for none of them, -1 for all.",
        py::arg("X").noconvert(), py::arg("out"), py::kw_only(), py::arg("n_threads"));
  m.def("marginal_log_densities", &marginal_log_densities, "log_densities by the observed features.", py::arg("model"),
        py::arg("X").noconvert(), py::arg("patterns"), py::arg("out"), py::kw_only(), py::arg("n_threads"));
  m.def("marginal_reduce", &marginal_reduce, "reduce by the observed features.", py::arg("model"),
        py::arg("X").noconvert(), py::arg("patterns"), py::arg("groups").noconvert(), py::kw_only(),
        py::arg("log_sum") = py::none(), py::arg("best_value") = py::none(), py::arg("best") = py::none(),
        py::arg("responsibilities") = py::none(), py::arg("factors") = py::none(), py::arg("n_threads"));
  m.def("marginal_expectation", &marginal_expectation, "Adds the sufficient statistics of EM, by the observed features.",
        py::arg("model"), py::arg("X").noconvert(), py::arg("patterns"), py::arg("statistics"),
        py::arg("log_likelihoods"), py::kw_only(), py::arg("sample_weight") = py::none(), py::arg("n_threads"));
  m.def("conditional", &conditional, "Mean and variance of the missing features given the observed ones.",
        py::arg("model"), py::arg("X").noconvert(), py::arg("patterns"), py::kw_only(), py::arg("mean") = py::none(),
        py::arg("variance") = py::none(), py::arg("responsibilities") = py::none(), py::arg("factors") = py::none(),
        py::arg("n_threads"));
  m.def("conditional_sample", &conditional_sample, "Draws of the missing features given the observed ones.",
        py::arg("model"), py::arg("X").noconvert(), py::arg("patterns"), py::kw_only(), py::arg("seed"),
        py::arg("out").noconvert(), py::arg("n_threads"));
}

}  // namespace mfa::bindings
