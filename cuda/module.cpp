// The extension's table of contents, with the names and meanings of cpp/bindings/module.cpp. Nothing here touches a driver
// before one of its functions is called.
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <limits>
#include <memory>
#include <optional>
#include <string>
#include <type_traits>
#include <utility>
#include <vector>

#include "arrays.hpp"
#include "attack.hpp"
#include "bindings/arrays.hpp"
#include "bindings/interrupts.hpp"
#include "blas.hpp"
#include "device_model.hpp"
#include "gradient.hpp"
#include "gram.hpp"
#include "nearest.hpp"
#include "sample.hpp"
#include "score.hpp"
#include "statistics.hpp"

namespace py = pybind11;
using namespace mfa;
using cuda::Allocate, cuda::AnyRows, cuda::AttackOutput, cuda::Call, cuda::CertificateOutput, cuda::DeviceArray;
using cuda::DeviceModel, cuda::Groups, cuda::LdGradOptions, cuda::NearestModel, cuda::NearestOptions, cuda::OnDevice;
using cuda::Precision, cuda::Reduced, cuda::Statistics, cuda::Stream;
using cuda::borrow, cuda::borrow_optional, cuda::borrow_output, cuda::borrow_rows, cuda::by_type, cuda::describe;
using cuda::device_of, cuda::type_name;
using Index = std::int64_t;

namespace {

std::optional<std::string> unavailable() {
  std::string reason = cuda::unavailable_reason();
  if (reason.empty()) reason = cuda::blas_unavailable_reason();
  return reason.empty() ? std::nullopt : std::optional(reason);
}

// Memory from Python's allocator, kept until the GIL is held again and this goes.
class PythonMemory {
 public:
  explicit PythonMemory(py::function allocate)
      : function_(std::move(allocate)), allocate_([this](std::size_t bytes) { return take(bytes); }) {}
  PythonMemory(const PythonMemory&) = delete;
  PythonMemory& operator=(const PythonMemory&) = delete;

  const Allocate& allocate() const { return allocate_; }
  std::vector<py::object> release() { return std::move(kept_); }

 private:
  void* take(std::size_t bytes) {
    const bindings::GilAcquire gil;
    kept_.push_back(function_(bytes));
    return describe("what allocate returns", kept_.back()).data;
  }

  py::function function_;
  std::vector<py::object> kept_;
  Allocate allocate_;
};

// What is made on the host and copied to a device.
template <class Content>
struct OnOneDevice {
  std::unique_ptr<Content> model;
  std::vector<py::object> memory;
  int device;
};
using PyModel = OnOneDevice<DeviceModel>;
using PyNearestModel = OnOneDevice<NearestModel>;

// Work is queued without the GIL, as a full queue makes the caller wait: the arrays stay alive meanwhile because the
// caller's frame holds references to them, and no Python object is touched but by the allocator, which takes the GIL.
template <class Queue>
void queue(const void* on, Index* bad_row, std::uintptr_t stream, const py::function& allocate, const Queue& work) {
  PythonMemory memory(allocate);
  const bindings::GilRelease release;
  const OnDevice device(device_of(on));
  work(Call{reinterpret_cast<Stream>(stream), memory.allocate(), bad_row});
}

// The same for what needs a model on the same device.
template <class Queue>
void queue(const PyModel& model, const void* on, Index* bad_row, std::uintptr_t stream, const py::function& allocate,
           const Queue& work) {
  if (const int device = device_of(on); device != model.device)
    throw py::value_error("the arrays lie on device " + std::to_string(device) + ", the model on device " +
                          std::to_string(model.device) + "; copy one of them");
  queue(on, bad_row, stream, allocate, work);
}

// Content(arguments..., stream, allocate).
template <class Content, class... Arguments>
std::unique_ptr<OnOneDevice<Content>> make_on_device(std::uintptr_t stream, const py::function& allocate,
                                                     const Arguments&... arguments) {
  PythonMemory memory(allocate);
  auto made = std::make_unique<OnOneDevice<Content>>();
  const Allocate on_device = [&](std::size_t bytes) {
    void* data = memory.allocate()(bytes);
    made->device = device_of(data);
    return data;
  };
  bindings::without_gil(
      [&] { made->model = std::make_unique<Content>(arguments..., reinterpret_cast<Stream>(stream), on_device); });
  made->memory = memory.release();
  return made;
}

std::unique_ptr<PyModel> make_model(const Model& model, std::uintptr_t stream, const py::function& allocate) {
  return make_on_device<DeviceModel>(stream, allocate, model);
}

std::unique_ptr<PyNearestModel> make_nearest_model(const Model& model, const Gram* gram, std::uintptr_t stream,
                                                   const py::function& allocate) {
  if ((gram == nullptr) != (model.noise() != Noise::spherical) || (gram != nullptr && &gram->model() != &model))
    throw py::value_error("gram must be that of the model, or None where its noise is not spherical");
  return make_on_device<NearestModel>(stream, allocate, model, gram);
}

Index* borrow_bad_row(const py::object& bad_row) { return borrow_output<Index>("bad_row", bad_row, {1}); }

void log_densities(const PyModel& model, const py::object& X, const py::object& out, const py::object& bad_row,
                   std::uintptr_t stream, const py::function& allocate) {
  const AnyRows rows = borrow_rows(X, model.model->n_features());
  Index* bad = borrow_bad_row(bad_row);
  by_type(rows, [&]<class S>(S) {
    auto* target = borrow_output<Precision<S>>("out", out, {rows.count, model.model->n_components()});
    queue(model, bad, bad, stream, allocate, [&](const Call& call) {
      cuda::log_densities(*model.model, rows.of<S>(), target, call);
    });
  });
}

void reduce(const PyModel& model, const py::object& X, const py::array& groups, bool exact, bool screening,
            const py::object& log_sum, const py::object& best_value, const py::object& best,
            const py::object& responsibilities, const py::object& factors, const py::object& bad_row,
            std::uintptr_t stream, const py::function& allocate) {
  const AnyRows rows = borrow_rows(X, model.model->n_features());
  const Groups offsets = bindings::borrow_groups(groups, model.model->n_components());
  const std::size_t n = rows.count;
  const std::size_t n_groups = offsets.size() - 1;
  Index* bad = borrow_bad_row(bad_row);
  by_type(rows, [&]<class S>(S) {
    using T = Precision<S>;
    const Reduced<T> out{
        borrow_optional<double>("log_sum", log_sum, {n, n_groups}),
        borrow_optional<double>("best_value", best_value, {n, n_groups}),
        borrow_optional<Index>("best", best, {n, n_groups}),
        borrow_optional<T>("responsibilities", responsibilities, {n, model.model->n_components()}),
        borrow_optional<double>("factors", factors, {n, model.model->n_factors()})};
    const double tolerance = exact ? cuda::score_tolerance<double> : cuda::score_tolerance<T>;
    queue(model, bad, bad, stream, allocate, [&](const Call& call) {
      cuda::reduce(*model.model, rows.of<S>(), offsets, tolerance, screening, out, call);
    });
  });
}

Statistics borrow_statistics(const py::tuple& arrays, std::size_t K, std::size_t L, std::size_t d) {
  if (arrays.size() != 5) throw py::value_error("statistics must be a tuple of 5 arrays");
  return {borrow_output<double>("counts", arrays[0], {K}), borrow_output<double>("factor_sums", arrays[1], {K, L}),
          borrow_output<double>("factor_moments", arrays[2], {K, L, L}),
          borrow_output<double>("cross", arrays[3], {K, L + 1, d}),
          borrow_output<double>("squares", arrays[4], {K, d})};
}

// Weights of n samples, or null where None stands for 1.
const double* borrow_weights(const py::object& sample_weight, std::size_t n) {
  return sample_weight.is_none() ? nullptr : borrow<double>("sample_weight", sample_weight, {n});
}

void expectation(const PyModel& model, const py::object& X, const py::tuple& statistics,
                 const py::object& log_likelihoods, const py::object& sample_weight, bool screening,
                 const py::object& bad_row, std::uintptr_t stream, const py::function& allocate) {
  const DeviceModel& m = *model.model;
  const AnyRows rows = borrow_rows(X, m.n_features());
  const Statistics out = borrow_statistics(statistics, m.n_components(), m.n_factors(), m.n_features());
  double* values = borrow_output<double>("log_likelihoods", log_likelihoods, {rows.count});
  const double* weights = borrow_weights(sample_weight, rows.count);
  Index* bad = borrow_bad_row(bad_row);
  by_type(rows, [&]<class S>(S) {
    queue(model, bad, bad, stream, allocate, [&](const Call& call) {
      cuda::expectation(m, rows.of<S>(), weights, screening, out, values, call);
    });
  });
}

void assigned(const py::object& X, const py::object& means, const py::object& labels, const py::object& factors,
              const py::tuple& statistics, const py::object& sample_weight, const py::object& bad_row,
              std::uintptr_t stream, const py::function& allocate) {
  const auto extents = [](const char* name, const py::object& object) {
    std::vector<std::size_t> shape = describe(name, object).shape;
    if (shape.size() != 2) throw py::value_error(std::string(name) + " must have 2 dimensions");
    return shape;
  };
  const std::size_t K = extents("means", means)[0];
  const std::size_t d = extents("means", means)[1];
  const std::size_t L = extents("factors", factors)[1];
  const AnyRows rows = borrow_rows(X, d);
  const double* mean = borrow<double>("means", means, {K, d});
  const Index* label = borrow<Index>("labels", labels, {rows.count});
  const double* z = borrow<double>("factors", factors, {rows.count, L});
  const double* weights = borrow_weights(sample_weight, rows.count);
  const Statistics out = borrow_statistics(statistics, K, L, d);
  Index* bad = borrow_bad_row(bad_row);
  by_type(rows, [&]<class S>(S) {
    queue(bad, bad, stream, allocate, [&](const Call& call) {
      cuda::assigned(rows.of<S>(), K, L, d, mean, label, z, weights, out, call);
    });
  });
}

// Calls call(T{}) with the type of an output of samples, and its number of rows.
template <class Body>
void by_output_type(const py::object& out, const Body& body) {
  const DeviceArray array = describe("out", out);
  if (array.shape.size() != 2) throw py::value_error("out must have 2 dimensions, got " + array.shape_text());
  if (array.type == type_name<float>) body(float{}, array.shape[0]);
  else body(double{}, array.shape[0]);
}

void sample(const PyModel& model, const py::array& weights, std::uint64_t seed, std::uint64_t start, bool noise,
            const py::object& out, const py::object& labels, std::uintptr_t stream, const py::function& allocate) {
  const double* shares = bindings::borrow<double>("weights", weights, {model.model->n_components()});
  by_output_type(out, [&]<class T>(T, std::size_t n) {
    T* samples = borrow_output<T>("out", out, {n, model.model->n_features()});
    Index* components = borrow_output<Index>("labels", labels, {n});
    if (n == 0) return;
    queue(model, samples, nullptr, stream, allocate, [&](const Call& call) {
      cuda::sample(*model.model, shares, seed, start, n, noise, samples, components, call);
    });
  });
}

void reconstruct(const PyModel& model, const py::object& labels, const py::object& factors, const py::object& out,
                 std::uintptr_t stream, const py::function& allocate) {
  by_output_type(out, [&]<class T>(T, std::size_t n) {
    T* target = borrow_output<T>("out", out, {n, model.model->n_features()});
    const Index* components = borrow<Index>("labels", labels, {n});
    const double* z = borrow<double>("factors", factors, {n, model.model->n_factors()});
    if (n == 0) return;
    queue(model, target, nullptr, stream, allocate, [&](const Call& call) {
      cuda::reconstruct(*model.model, n, components, z, target, call);
    });
  });
}

void require_groups(std::size_t n_groups) {
  if (n_groups < 2) throw py::value_error("an attack needs two groups or more");
}

template <class T>
AttackOutput<T> borrow_attack(const py::tuple& out, const py::object& sources, const py::object& targets, std::size_t n,
                              std::size_t d) {
  if (out.size() != 4) throw py::value_error("out must be a tuple of 4 arrays");
  return {borrow_output<T>("X_adv", out[0], {n, d}),
          borrow_output<double>("l2", out[1], {n}),
          reinterpret_cast<std::uint8_t*>(borrow_output<bool>("success", out[2], {n})),
          borrow_output<Index>("n_steps", out[3], {n}),
          borrow_output<Index>("source", sources, {n}),
          borrow_output<Index>("target", targets, {n})};
}

using Clip = std::pair<std::optional<double>, std::optional<double>>;

void ld_grad(const PyModel& model, const py::object& X, const py::array& groups, const py::array& log_priors,
             const py::object& labels, bool sum_rule, bool screening, std::size_t steps, double overshoot,
             const Clip& clip, const std::optional<std::size_t>& source, const std::optional<std::size_t>& target,
             const py::tuple& out, const py::object& sources, const py::object& targets, const py::object& bad_row,
             std::uintptr_t stream, const py::function& allocate) {
  constexpr double infinity = std::numeric_limits<double>::infinity();
  const DeviceModel& m = *model.model;
  const AnyRows rows = borrow_rows(X, m.n_features());
  const std::size_t n = rows.count;
  const Groups offsets = bindings::borrow_groups(groups, m.n_components());
  const std::size_t n_groups = offsets.size() - 1;
  require_groups(n_groups);
  const double* priors = bindings::borrow<double>("log_priors", log_priors, {n_groups});
  const Index* label = borrow<Index>("labels", labels, {n});
  const LdGradOptions options{steps,
                              overshoot,
                              clip.first.value_or(-infinity),
                              clip.second.value_or(infinity),
                              sum_rule ? cuda::Rule::sum : cuda::Rule::max,
                              screening,
                              source,
                              target};
  Index* bad = borrow_bad_row(bad_row);
  by_type(rows, [&]<class S>(S) {
    using T = Precision<S>;
    const auto output = borrow_attack<T>(out, sources, targets, n, m.n_features());
    queue(model, bad, bad, stream, allocate, [&](const Call& call) {
      cuda::ld_grad(m, rows.of<S>(), offsets, priors, label, options, output, call);
    });
  });
}

void nearest(const PyModel& model, const PyNearestModel& parts, const py::object& X, const py::array& groups,
             const py::array& log_priors, const py::object& labels, bool sum_rule, bool screening, double rtol,
             const py::tuple& out, const py::object& sources, const py::object& targets, const py::object& lower_bound,
             const py::object& certified, const py::object& bad_row, std::uintptr_t stream,
             const py::function& allocate) {
  const DeviceModel& m = *model.model;
  if (!parts.model->is_of(m.view()) || parts.device != model.device)
    throw py::value_error("parts must be those of the model, on the same device");
  const AnyRows rows = borrow_rows(X, m.n_features());
  const std::size_t n = rows.count;
  const Groups offsets = bindings::borrow_groups(groups, m.n_components());
  require_groups(offsets.size() - 1);
  const double* priors = bindings::borrow<double>("log_priors", log_priors, {offsets.size() - 1});
  const Index* label = borrow<Index>("labels", labels, {n});
  const NearestOptions options{sum_rule ? cuda::Rule::sum : cuda::Rule::max, screening, rtol};
  const CertificateOutput certificates{
      borrow_output<double>("lower_bound", lower_bound, {n}),
      reinterpret_cast<std::uint8_t*>(borrow_output<bool>("certified", certified, {n}))};
  Index* bad = borrow_bad_row(bad_row);
  by_type(rows, [&]<class S>(S) {
    const auto output = borrow_attack<Precision<S>>(out, sources, targets, n, m.n_features());
    queue(model, bad, bad, stream, allocate, [&](const Call& call) {
      cuda::nearest(m, *parts.model, rows.of<S>(), offsets, priors, label, options, output, certificates, call);
    });
  });
}

void gradient(const PyModel& model, const py::object& X, const py::array& groups, const py::object& vectors,
              bool sum_rule, bool screening, const py::object& out, const py::object& bad_row, std::uintptr_t stream,
              const py::function& allocate) {
  const DeviceModel& m = *model.model;
  const AnyRows rows = borrow_rows(X, m.n_features());
  const Groups offsets = bindings::borrow_groups(groups, m.n_components());
  const double* v = borrow<double>("vectors", vectors, {rows.count, offsets.size() - 1});
  Index* bad = borrow_bad_row(bad_row);
  by_type(rows, [&]<class S>(S) {
    auto* target = borrow_output<Precision<S>>("out", out, {rows.count, m.n_features()});
    queue(model, bad, bad, stream, allocate, [&](const Call& call) {
      cuda::gradient(m, rows.of<S>(), offsets, sum_rule ? cuda::Rule::sum : cuda::Rule::max, screening, v, target,
                     call);
    });
  });
}

}  // namespace

PYBIND11_MODULE(MFA_CUDA_MODULE, m, py::mod_gil_not_used()) {
  m.doc() = "CUDA kernels. Arrays come in shape and type; work is queued on the caller's stream.";
  bindings::raise_interrupts();
  py::module_::import("mfa_fast._core");  // whose models are copied
  std::vector<std::string> folders;
  for (const auto folder : py::module_::import("sys").attr("path"))
    if (py::isinstance<py::str>(folder)) folders.push_back(folder.cast<std::string>());
  cuda::set_package_folders(std::move(folders));

  m.def("unavailable", &unavailable, "Why CUDA cannot be used here; None where it can be.");
  m.def("devices", &cuda::device_names, "Names of the devices.");
  py::class_<PyModel>(m, "Model", "A packed model's copy on the current device.")
      .def(py::init(&make_model), py::arg("model"), py::kw_only(), py::arg("stream"), py::arg("allocate"))
      .def_property_readonly("n_components", [](const PyModel& model) { return model.model->n_components(); })
      .def_property_readonly("n_factors", [](const PyModel& model) { return model.model->n_factors(); })
      .def_property_readonly("n_features", [](const PyModel& model) { return model.model->n_features(); })
      .def_property_readonly("n_directions", [](const PyModel& model) { return model.model->screen().n_directions; })
      .def_property_readonly("glances", [](const PyModel& model) { return model.model->glance().n_directions > 0; });

  py::class_<PyNearestModel>(m, "NearestModel", "What nearest needs beside a packed model's copy, on the same device.")
      .def(py::init(&make_nearest_model), py::arg("model"), py::arg("gram").none(true), py::kw_only(),
           py::arg("stream"), py::arg("allocate"));

  m.def("log_densities", &log_densities, "Log-densities under every component, with the log-weights.",
        py::arg("model"), py::arg("X"), py::arg("out"), py::kw_only(), py::arg("bad_row"), py::arg("stream"),
        py::arg("allocate"));
  m.def("reduce", &reduce, "Log-sum-exp, best component, responsibilities and factors per group of components.",
        py::arg("model"), py::arg("X"), py::arg("groups").noconvert(), py::kw_only(), py::arg("exact"),
        py::arg("screening"), py::arg("log_sum") = py::none(), py::arg("best_value") = py::none(),
        py::arg("best") = py::none(), py::arg("responsibilities") = py::none(), py::arg("factors") = py::none(),
        py::arg("bad_row"), py::arg("stream"), py::arg("allocate"));
  m.def("expectation", &expectation, "Adds the sufficient statistics of EM.", py::arg("model"), py::arg("X"),
        py::arg("statistics"), py::arg("log_likelihoods"), py::kw_only(), py::arg("sample_weight") = py::none(),
        py::arg("screening"), py::arg("bad_row"), py::arg("stream"), py::arg("allocate"));
  m.def("assigned", &assigned, "Adds the statistics of samples whose components and factors are known.", py::arg("X"),
        py::arg("means"), py::arg("labels"), py::arg("factors"), py::arg("statistics"), py::kw_only(),
        py::arg("sample_weight") = py::none(), py::arg("bad_row"), py::arg("stream"), py::arg("allocate"));
  m.def("sample", &sample, "Samples start, start + 1, ... of a seed.", py::arg("model"), py::kw_only(),
        py::arg("weights").noconvert(), py::arg("seed"), py::arg("start"), py::arg("noise"), py::arg("out"),
        py::arg("labels"), py::arg("stream"), py::arg("allocate"));
  m.def("reconstruct", &reconstruct, "Samples of given components and factors, without noise.", py::arg("model"),
        py::arg("labels"), py::arg("factors"), py::arg("out"), py::kw_only(), py::arg("stream"), py::arg("allocate"));
  m.def("ld_grad", &ld_grad, "LD-Grad on the Bayes classifier of the groups.", py::arg("model"), py::arg("X"),
        py::kw_only(), py::arg("groups").noconvert(), py::arg("log_priors").noconvert(), py::arg("labels"),
        py::arg("sum_rule"), py::arg("screening"), py::arg("steps"), py::arg("overshoot"), py::arg("clip"),
        py::arg("source"), py::arg("target"), py::arg("out"), py::arg("sources"), py::arg("targets"),
        py::arg("bad_row"), py::arg("stream"), py::arg("allocate"));
  m.def("nearest", &nearest, "Nearest adversarial examples, from an attack's result, with lower bounds.",
        py::arg("model"), py::arg("parts"), py::arg("X"), py::kw_only(), py::arg("groups").noconvert(),
        py::arg("log_priors").noconvert(), py::arg("labels"), py::arg("sum_rule"), py::arg("screening"),
        py::arg("rtol"), py::arg("out"), py::arg("sources"), py::arg("targets"), py::arg("lower_bound"),
        py::arg("certified"), py::arg("bad_row"), py::arg("stream"), py::arg("allocate"));
  m.def("gradient", &gradient, "Vectors times the Jacobian of the groups' scores.", py::arg("model"), py::arg("X"),
        py::arg("groups").noconvert(), py::arg("vectors"), py::kw_only(), py::arg("sum_rule"), py::arg("screening"),
        py::arg("out"), py::arg("bad_row"), py::arg("stream"), py::arg("allocate"));
}
