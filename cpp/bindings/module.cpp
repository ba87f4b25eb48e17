// The extension's table of contents: arguments are checked under the GIL, it is released for one call, and that is all.
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "bindings/arrays.hpp"
#include "bindings/calls.hpp"
#include "bindings/missing.hpp"
#include "cpu/attack.hpp"
#include "cpu/classify.hpp"
#include "cpu/gradient.hpp"
#include "cpu/isa.hpp"
#include "cpu/nearest.hpp"
#include "cpu/once.hpp"
#include "cpu/regression.hpp"
#include "cpu/sample.hpp"
#include "cpu/score.hpp"
#include "cpu/statistics.hpp"
#include "cpu/svm.hpp"
#include "gram.hpp"
#include "model.hpp"

namespace py = pybind11;
using namespace mfa;
using namespace mfa::bindings;

namespace {

std::unique_ptr<Model> make_model(const py::array& weights, const py::array& means, const py::array& loadings,
                                  const py::array& noise_variance, const Model* near, std::size_t n_threads,
                                  const std::optional<py::array>& groups) {
  if (loadings.ndim() != 3) throw py::value_error("loadings must have 3 dimensions, got " + shape_of(loadings));
  const auto extent = [&](int axis) { return static_cast<std::size_t>(loadings.shape(axis)); };
  const std::size_t K = extent(0), L = extent(1), d = extent(2);
  if (K == 0 || d == 0) throw py::value_error("loadings must have components and features, got " + shape_of(loadings));
  Parameters parameters{K, L, d,
                        borrow<double>("weights", weights, {K}),
                        borrow<double>("means", means, {K, d}),
                        borrow<double>("loadings", loadings, {K, L, d}),
                        borrow<double>("noise_variance", noise_variance, {K, d})};
  if (groups) parameters.groups = borrow_groups(*groups, K);
  auto model = without_gil([&] { return std::make_unique<Model>(parameters, cpu::current_loops(), near, n_threads); });
  if (!model->is_finite())
    throw py::value_error(
        "means, loadings and noise_variance are too far apart in size to be computed with in float64; "
        "scale the data, or raise the noise variance");
  return model;
}

// Labels that kernels use as indices.
const Index* borrow_labels(const py::array& labels, std::size_t n, std::size_t n_labels) {
  const Index* data = borrow<Index>("labels", labels, {n});
  for (std::size_t i = 0; i < n; ++i)
    if (data[i] < 0 || data[i] >= static_cast<Index>(n_labels))
      throw py::value_error("labels must lie in [0, " + std::to_string(n_labels) + "), got " + std::to_string(data[i]));
  return data;
}

cpu::BadRow log_densities(const Model& model, const py::array& X, const py::object& out, std::size_t n_threads) {
  const cpu::Rows rows = borrow_rows(X, model.n_features());
  return by_type(X, [&]<class T>(T) {
    T* target = borrow_output<T>("out", out, {rows.n_rows, model.n_components()});
    return without_gil([&] { return cpu::log_densities(model, rows, cpu::score_tolerance<T>, target, n_threads); });
  });
}

cpu::BadRow reduce(const Model& model, const py::array& X, const py::array& groups, bool exact, bool screening,
                   const py::object& log_sum, const py::object& best_value, const py::object& best,
                   const py::object& responsibilities, const py::object& factors, std::size_t n_threads) {
  const cpu::Rows rows = borrow_rows(X, model.n_features());
  const cpu::Groups offsets = borrow_groups(groups, model.n_components());
  return by_type(X, [&]<class T>(T) {
    const auto out = borrow_reduced<T>(model, rows.n_rows, offsets, log_sum, best_value, best, responsibilities, factors);
    const double tolerance = exact ? cpu::score_tolerance<double> : cpu::score_tolerance<T>;
    return without_gil([&] { return cpu::reduce(model, rows, offsets, tolerance, screening, out, n_threads); });
  });
}

cpu::BadRow expectation(const Model& model, const py::array& X, const py::tuple& statistics,
                        const py::object& log_likelihoods, const py::object& sample_weight, bool screening,
                        std::size_t n_threads) {
  const cpu::Rows rows = borrow_rows(X, model.n_features());
  const double* weights = borrow_sample_weight(sample_weight, rows.n_rows);
  const cpu::Statistics out =
      borrow_statistics(statistics, model.n_components(), model.n_factors(), model.n_features());
  double* values = borrow_output<double>("log_likelihoods", log_likelihoods, {rows.n_rows});
  return by_type(X, [&]<class T>(T) {
    return without_gil([&] { return cpu::expectation<T>(model, rows, weights, screening, out, values, n_threads); });
  });
}

void assigned(const py::array& X, const py::array& means, const py::array& labels, const py::array& factors,
              const py::tuple& statistics, const py::object& sample_weight, std::size_t n_threads) {
  if (means.ndim() != 2 || factors.ndim() != 2) throw py::value_error("means and factors must have 2 dimensions");
  const auto K = static_cast<std::size_t>(means.shape(0));
  const auto d = static_cast<std::size_t>(means.shape(1));
  const auto L = static_cast<std::size_t>(factors.shape(1));
  const cpu::Rows rows = borrow_rows(X, d);
  const double* weights = borrow_sample_weight(sample_weight, rows.n_rows);
  const double* mean = borrow<double>("means", means, {K, d});
  const Index* label = borrow_labels(labels, rows.n_rows, K);
  const double* z = borrow<double>("factors", factors, {rows.n_rows, L});
  const cpu::Statistics out = borrow_statistics(statistics, K, L, d);
  by_type(X, [&]<class T>(T) {
    without_gil([&] { cpu::assigned<T>(cpu::current_loops(), rows, weights, K, L, mean, label, z, out, n_threads); });
  });
}

void regress(const py::array& whitening, const py::array& cross, const py::tuple& out, std::size_t n_threads) {
  if (cross.ndim() != 3 || cross.shape(1) == 0)
    throw py::value_error("cross must have 3 dimensions, and a row for the means in the second, got " + shape_of(cross));
  if (out.size() != 4) throw py::value_error("out must be a tuple of 4 arrays");
  const auto K = static_cast<std::size_t>(cross.shape(0));
  const auto n = static_cast<std::size_t>(cross.shape(1));
  const auto d = static_cast<std::size_t>(cross.shape(2));
  const cpu::Regression of{borrow<double>("whitening", whitening, {K, n, n}), borrow<double>("cross", cross, {K, n, d})};
  const cpu::RegressionOutput to{
      borrow_output<double>("loadings", out[0], {K, n - 1, d}), borrow_output<double>("shifts", out[1], {K, d}),
      borrow_output<double>("explained", out[2], {K, d}), borrow_output<double>("modelled", out[3], {K, d})};
  without_gil([&] { cpu::regress(cpu::current_loops(), K, n - 1, d, of, to, n_threads); });
}

double add_in_order(double total, const py::array& values, const py::object& sample_weight) {
  const auto n = static_cast<std::size_t>(values.size());
  const double* value = borrow<double>("values", values, {n});
  const double* weights = borrow_sample_weight(sample_weight, n);
  return without_gil([&] { return cpu::add_in_order(total, value, weights, n); });
}

void sample(const Model& model, const py::array& weights, std::uint64_t seed, std::uint64_t start, bool noise,
            const py::array& out, const py::array& labels, std::size_t n_threads) {
  if (out.ndim() != 2) throw py::value_error("out must have 2 dimensions, got " + shape_of(out));
  const auto n = static_cast<std::size_t>(out.shape(0));
  const double* shares = borrow<double>("weights", weights, {model.n_components()});
  Index* components = borrow_output<Index>("labels", labels, {n});
  by_type(out, [&]<class T>(T) {
    T* samples = borrow_output<T>("out", out, {n, model.n_features()});
    without_gil([&] { cpu::sample(model, shares, seed, start, n, noise, samples, components, n_threads); });
  });
}

void reconstruct(const Model& model, const py::array& labels, const py::array& factors, const py::array& out,
                 std::size_t n_threads) {
  if (out.ndim() != 2) throw py::value_error("out must have 2 dimensions, got " + shape_of(out));
  const auto n = static_cast<std::size_t>(out.shape(0));
  const Index* components = borrow_labels(labels, n, model.n_components());
  const double* z = borrow<double>("factors", factors, {n, model.n_factors()});
  by_type(out, [&]<class T>(T) {
    T* target = borrow_output<T>("out", out, {n, model.n_features()});
    without_gil([&] { cpu::reconstruct(model, n, components, z, target, n_threads); });
  });
}

using Clip = std::pair<std::optional<double>, std::optional<double>>;

cpu::StepOptions step_options(std::size_t steps, double overshoot, const Clip& clip) {
  return {steps, overshoot, clip.first, clip.second};
}

template <class T>
cpu::AttackOutput<T> borrow_attack(const py::tuple& arrays, std::size_t n, std::size_t d) {
  if (arrays.size() != 4) throw py::value_error("out must be a tuple of 4 arrays");
  return {borrow_output<T>("X_adv", arrays[0], {n, d}), borrow_output<double>("l2", arrays[1], {n}),
          borrow_output<bool>("success", arrays[2], {n}), borrow_output<Index>("n_steps", arrays[3], {n})};
}

cpu::BadRow ld_grad(const Model& model, const py::array& X, const py::array& groups, const py::array& log_priors,
                    const py::array& labels, bool sum_rule, bool screening, std::size_t steps, double overshoot, const Clip& clip,
                    const std::optional<std::size_t>& source, const std::optional<std::size_t>& target,
                    const py::tuple& out, const py::object& sources, const py::object& targets,
                    std::size_t n_threads) {
  const cpu::Rows rows = borrow_rows(X, model.n_features());
  const std::size_t n = rows.n_rows;
  const cpu::Groups offsets = borrow_groups(groups, model.n_components());
  const std::size_t n_groups = offsets.size() - 1;
  if (n_groups < 2) throw py::value_error("an attack needs two groups or more");
  const double* priors = borrow<double>("log_priors", log_priors, {n_groups});
  const Index* label = borrow_labels(labels, n, n_groups);
  if (source || target) {
    if (n_groups != 2) throw py::value_error("source and target are for two groups");
    const auto size = [&](Index g) { return static_cast<std::size_t>(offsets[g + 1] - offsets[g]); };
    for (std::size_t i = 0; i < n; ++i)
      if (source.value_or(0) >= size(label[i]) || target.value_or(0) >= size(1 - label[i]))
        throw py::value_error("source and target must be components of the row's group and of the other one");
  }
  const cpu::LdGradOptions options{step_options(steps, overshoot, clip), sum_rule ? cpu::Rule::sum : cpu::Rule::max,
                                   screening, source, target};
  const cpu::PairOutput pairs{borrow_output<Index>("source", sources, {n}),
                              borrow_output<Index>("target", targets, {n})};
  return by_type(X, [&]<class T>(T) {
    const auto output = borrow_attack<T>(out, n, rows.n_features);
    return without_gil(
        [&] { return cpu::ld_grad<T>(model, rows, offsets, priors, label, options, output, pairs, n_threads); });
  });
}

cpu::BadRow classify(const Model& model, const py::array& X, const py::array& groups, const py::array& log_priors,
                     bool sum_rule, bool screening, const py::array& out, std::size_t n_threads) {
  const cpu::Rows rows = borrow_rows(X, model.n_features());
  const cpu::Groups offsets = borrow_groups(groups, model.n_components());
  const double* priors = borrow<double>("log_priors", log_priors, {offsets.size() - 1});
  const cpu::Rule rule = sum_rule ? cpu::Rule::sum : cpu::Rule::max;
  Index* labels = borrow_output<Index>("out", out, {rows.n_rows});
  return by_type(X, [&]<class T>(T) {
    return without_gil([&] { return cpu::classify<T>(model, rows, offsets, priors, rule, screening, labels, n_threads); });
  });
}

cpu::BadRow gradient(const Model& model, const py::array& X, const py::array& groups, const py::array& vectors,
                     bool sum_rule, bool screening, const py::object& out, std::size_t n_threads) {
  const cpu::Rows rows = borrow_rows(X, model.n_features());
  const cpu::Groups offsets = borrow_groups(groups, model.n_components());
  const double* vector = borrow<double>("vectors", vectors, {rows.n_rows, offsets.size() - 1});
  const cpu::Rule rule = sum_rule ? cpu::Rule::sum : cpu::Rule::max;
  return by_type(X, [&]<class T>(T) {
    T* target = borrow_output<T>("out", out, {rows.n_rows, model.n_features()});
    return without_gil([&] { return cpu::gradient(model, rows, offsets, rule, screening, vector, target, n_threads); });
  });
}

// Null where the noise is not spherical.
std::unique_ptr<Gram> make_gram(const Model& model, std::size_t n_threads) {
  if (model.noise() != Noise::spherical) return nullptr;
  return without_gil([&] { return std::make_unique<Gram>(model, n_threads); });
}

cpu::BadRow nearest(const Model& model, const Gram* gram, const py::array& X, const py::array& groups,
                    const py::array& log_priors, const py::array& labels, bool sum_rule, bool screening, double rtol,
                    const py::tuple& out, const py::object& sources, const py::object& targets,
                    const py::object& lower_bound, const py::object& certified, std::size_t n_threads) {
  if ((gram == nullptr) != (model.noise() != Noise::spherical) || (gram != nullptr && &gram->model() != &model))
    throw py::value_error("gram must be that of the model, or None where its noise is not spherical");
  const cpu::Rows rows = borrow_rows(X, model.n_features());
  const std::size_t n = rows.n_rows;
  const cpu::Groups offsets = borrow_groups(groups, model.n_components());
  const std::size_t n_groups = offsets.size() - 1;
  if (n_groups < 2) throw py::value_error("an attack needs two groups or more");
  const double* priors = borrow<double>("log_priors", log_priors, {n_groups});
  const Index* label = borrow_labels(labels, n, n_groups);
  const cpu::NearestOptions options{sum_rule ? cpu::Rule::sum : cpu::Rule::max, screening, rtol};
  const cpu::PairOutput pairs{borrow_output<Index>("source", sources, {n}),
                              borrow_output<Index>("target", targets, {n})};
  const cpu::CertificateOutput certificates{borrow_output<double>("lower_bound", lower_bound, {n}),
                                            borrow_output<bool>("certified", certified, {n})};
  return by_type(X, [&]<class T>(T) {
    const auto output = borrow_attack<T>(out, n, rows.n_features);
    return without_gil([&] {
      return cpu::nearest<T>(model, gram, rows, offsets, priors, label, options, output, pairs, certificates, n_threads);
    });
  });
}

cpu::Scaling borrow_scaling(const py::array& shift, const py::array& scale, std::size_t d) {
  return {borrow<double>("shift", shift, {d}), borrow<double>("scale", scale, {d})};
}

cpu::BadRow ld_grad_linear(const py::array& weights, double intercept, double reach, const py::array& shift,
                           const py::array& scale, const py::array& X, const py::array& labels, std::size_t steps,
                           double overshoot, const Clip& clip, const py::tuple& out, std::size_t n_threads) {
  const auto d = static_cast<std::size_t>(weights.size());
  const cpu::LinearMachine machine{borrow<double>("weights", weights, {d}), intercept, reach};
  const cpu::Scaling scaling = borrow_scaling(shift, scale, d);
  const cpu::Rows rows = borrow_rows(X, d);
  const Index* label = borrow_labels(labels, rows.n_rows, 2);
  const cpu::StepOptions options = step_options(steps, overshoot, clip);
  return by_type(X, [&]<class T>(T) {
    const auto output = borrow_attack<T>(out, rows.n_rows, d);
    return without_gil([&] {
      return cpu::ld_grad<T>(machine, cpu::current_loops(), scaling, rows, label, options, output, n_threads);
    });
  });
}

cpu::BadRow ld_grad_rbf(const py::array& support_vectors, const py::array& coefficients, double intercept,
                        double gamma, const py::array& shift, const py::array& scale, const py::array& X,
                        const py::array& labels, std::size_t steps, double overshoot, const Clip& clip,
                        const py::tuple& out, std::size_t n_threads) {
  if (support_vectors.ndim() != 2) throw py::value_error("support_vectors must have 2 dimensions");
  const auto n_vectors = static_cast<std::size_t>(support_vectors.shape(0));
  const auto d = static_cast<std::size_t>(support_vectors.shape(1));
  const cpu::RbfMachine machine{borrow<double>("support_vectors", support_vectors, {n_vectors, d}),
                                borrow<double>("coefficients", coefficients, {n_vectors}), n_vectors, intercept, gamma};
  const cpu::Scaling scaling = borrow_scaling(shift, scale, d);
  const cpu::Rows rows = borrow_rows(X, d);
  const Index* label = borrow_labels(labels, rows.n_rows, 2);
  const cpu::StepOptions options = step_options(steps, overshoot, clip);
  return by_type(X, [&]<class T>(T) {
    const auto output = borrow_attack<T>(out, rows.n_rows, d);
    return without_gil([&] {
      return cpu::ld_grad<T>(machine, cpu::current_loops(), scaling, rows, label, options, output, n_threads);
    });
  });
}

std::vector<std::string> available_isas() {
  std::vector<std::string> names;
  for (const cpu::Loops* loops : cpu::available_loops()) names.emplace_back(loops->name);
  return names;
}

}  // namespace

PYBIND11_MODULE(_core, m, py::mod_gil_not_used()) {
  m.doc() = "Compiled kernels. Arrays come in shape and type; what kernels report of X is a row that is not finite.";
  raise_interrupts();

  py::class_<Model>(m, "Model", "Parameters packed for the kernels; immutable, and safe to use from many threads.")
      .def(py::init(&make_model), py::arg("weights"), py::arg("means"), py::arg("loadings"), py::arg("noise_variance"),
           py::kw_only(), py::arg("near") = py::none(), py::arg("n_threads") = 1, py::arg("groups") = py::none())
      .def_property_readonly("n_components", &Model::n_components)
      .def_property_readonly("n_factors", &Model::n_factors)
      .def_property_readonly("n_features", &Model::n_features)
      .def_property_readonly("isa", [](const Model& model) { return model.loops().name; })
      .def_property_readonly("glances", [](const Model& model) { return model.glance(Processor::cpu) != nullptr; });

  m.def("log_densities", &log_densities, "Log-densities under every component, with the log-weights.",
        py::arg("model"), py::arg("X").noconvert(), py::arg("out"), py::kw_only(), py::arg("n_threads"));
  m.def("reduce", &reduce, "Log-sum-exp, best component, responsibilities and factors per group of components.",
        py::arg("model"), py::arg("X").noconvert(), py::arg("groups").noconvert(), py::kw_only(), py::arg("exact"),
        py::arg("screening"),
        py::arg("log_sum") = py::none(), py::arg("best_value") = py::none(), py::arg("best") = py::none(),
        py::arg("responsibilities") = py::none(), py::arg("factors") = py::none(), py::arg("n_threads"));
  m.def("expectation", &expectation, "Adds the sufficient statistics of EM.", py::arg("model"),
        py::arg("X").noconvert(), py::arg("statistics"), py::arg("log_likelihoods"), py::kw_only(),
        py::arg("sample_weight") = py::none(), py::arg("screening"), py::arg("n_threads"));
  m.def("assigned", &assigned, "Adds the statistics of samples whose components and factors are known.",
        py::arg("X").noconvert(), py::arg("means").noconvert(), py::arg("labels").noconvert(),
        py::arg("factors").noconvert(), py::arg("statistics"), py::kw_only(), py::arg("sample_weight") = py::none(),
        py::arg("n_threads"));
  m.def("regress", &regress, "What an M-step does for every feature of every component.", py::arg("whitening").noconvert(),
        py::arg("cross").noconvert(), py::kw_only(), py::arg("out"), py::arg("n_threads"));
  m.def("add_in_order", &add_in_order, "The total and, added to it one by one, the values.", py::arg("total"),
        py::arg("values").noconvert(), py::arg("sample_weight") = py::none());
  m.def("sample", &sample, "Samples start, start + 1, ... of a seed.", py::arg("model"), py::kw_only(),
        py::arg("weights").noconvert(), py::arg("seed"), py::arg("start"), py::arg("noise"), py::arg("out").noconvert(),
        py::arg("labels").noconvert(), py::arg("n_threads"));
  m.def("reconstruct", &reconstruct, "Samples of given components and factors, without noise.", py::arg("model"),
        py::arg("labels").noconvert(), py::arg("factors").noconvert(), py::arg("out").noconvert(), py::kw_only(),
        py::arg("n_threads"));
  m.def("ld_grad", &ld_grad, "LD-Grad on the Bayes classifier of the groups.", py::arg("model"),
        py::arg("X").noconvert(), py::kw_only(), py::arg("groups").noconvert(), py::arg("log_priors").noconvert(),
        py::arg("labels").noconvert(), py::arg("sum_rule"), py::arg("screening"), py::arg("steps"),
        py::arg("overshoot"), py::arg("clip"), py::arg("source"), py::arg("target"), py::arg("out"), py::arg("sources"),
        py::arg("targets"), py::arg("n_threads"));
  m.def("classify", &classify, "The group of the highest log prior and score of each sample.", py::arg("model"),
        py::arg("X").noconvert(), py::arg("groups").noconvert(), py::arg("log_priors").noconvert(), py::kw_only(),
        py::arg("sum_rule"), py::arg("screening"), py::arg("out").noconvert(), py::arg("n_threads"));
  m.def("gradient", &gradient, "Vectors times the Jacobian of the groups' scores.", py::arg("model"),
        py::arg("X").noconvert(), py::arg("groups").noconvert(), py::arg("vectors").noconvert(), py::kw_only(),
        py::arg("sum_rule"), py::arg("screening"), py::arg("out").noconvert(), py::arg("n_threads"));
  py::class_<Gram>(m, "Gram", "Inner products of a model's parameters; immutable to see, safe to use from many threads.");
  // Not kept alive by it: they are kept in a weak dictionary by the model, which would then never go.
  m.def("gram", &make_gram, "Those of a model with spherical noise, else None. Of no use without the model.",
        py::arg("model"), py::kw_only(), py::arg("n_threads"));
  m.def("nearest", &nearest, "Nearest adversarial examples, from an attack's result, with lower bounds.",
        py::arg("model"), py::arg("gram").none(true), py::arg("X").noconvert(), py::kw_only(),
        py::arg("groups").noconvert(), py::arg("log_priors").noconvert(), py::arg("labels").noconvert(),
        py::arg("sum_rule"), py::arg("screening"), py::arg("rtol"), py::arg("out"), py::arg("sources"),
        py::arg("targets"), py::arg("lower_bound"), py::arg("certified"), py::arg("n_threads"));
  m.def("ld_grad_linear", &ld_grad_linear, "LD-Grad on a linear machine behind a scaling.", py::kw_only(),
        py::arg("weights").noconvert(), py::arg("intercept"), py::arg("reach"), py::arg("shift").noconvert(),
        py::arg("scale").noconvert(), py::arg("X").noconvert(), py::arg("labels").noconvert(), py::arg("steps"),
        py::arg("overshoot"), py::arg("clip"), py::arg("out"), py::arg("n_threads"));
  m.def("ld_grad_rbf", &ld_grad_rbf, "LD-Grad on an RBF machine behind a scaling.", py::kw_only(),
        py::arg("support_vectors").noconvert(), py::arg("coefficients").noconvert(), py::arg("intercept"),
        py::arg("gamma"), py::arg("shift").noconvert(), py::arg("scale").noconvert(), py::arg("X").noconvert(),
        py::arg("labels").noconvert(), py::arg("steps"), py::arg("overshoot"), py::arg("clip"), py::arg("out"),
        py::arg("n_threads"));

  bind_missing(m);

  m.def("after_fork", [] { ++cpu::n_forks; }, "To be called in a process that has been forked off.");
  m.def("available_isas", &available_isas, "Instruction sets of this machine, least first.");
  m.def("isa", [] { return cpu::current_loops().name; }, "The one that new models are packed for.");
  m.def("set_isa", [](const std::string& name) { cpu::force_loops(name); }, "Takes another one, for tests.",
        py::arg("name"));
}
