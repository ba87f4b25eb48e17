#include "nearest.hpp"

#include "diagonal.hpp"
#include "gram.hpp"

namespace mfa::cuda {
namespace {

// Lays out or copies, according to whether its arena has memory.
class Upload {
 public:
  Upload(Stream stream, void* memory) : stream_(stream), copies_(memory != nullptr), arena_(memory) {}

  const double* operator()(const double* from, std::size_t count) {
    double* to = arena_.take<double>(count);
    if (copies_ && count > 0) copy_to_device(stream_, to, from, count * sizeof(double));
    return to;
  }
  std::size_t bytes() const { return arena_.used(); }

 private:
  Stream stream_;
  bool copies_;
  Arena arena_;
};

void upload(core::GramView& to, const core::GramView& from, Upload& copy) {
  to = from;
  to.weights = copy(from.weights, from.n_components);
  to.products = copy(from.products, from.n_columns() * from.n_columns());
  to.probe_direction = copy(from.probe_direction, from.n_features);
}

void upload(core::DiagonalView& to, const core::DiagonalView& from, Upload& copy) {
  to = from;
  const std::size_t entries = from.n_components * from.n_features;
  to.means = copy(from.means, entries);
  to.weights = copy(from.weights, entries);
  to.columns = copy(from.columns, entries * from.n_factors);
  to.largest = copy(from.largest, from.n_components);
}

template <class View>
void upload(View& to, const View& from, Stream stream, const Allocate& allocate) {
  Upload measure(stream, nullptr);
  upload(to, from, measure);
  Upload copy(stream, allocate(measure.bytes()));
  upload(to, from, copy);
}

}  // namespace

NearestModel::NearestModel(const Model& model, const Gram* gram, Stream stream, const Allocate& allocate)
    : is_spherical_(gram != nullptr) {
  if (gram != nullptr) upload(gram_, gram->view(), stream, allocate);
  else upload(diagonal_, Diagonal(model).view(), stream, allocate);
}

bool NearestModel::is_of(const ModelView& model) const {
  const auto fits = [&](const auto& view) {
    return view.n_components == model.n_components && view.n_factors == model.n_factors &&
           view.n_features == model.n_features;
  };
  return is_spherical_ == (model.inverse_noise == nullptr) && (is_spherical_ ? fits(gram_) : fits(diagonal_));
}

core::GramView NearestModel::gram(const ModelView& model) const {
  core::GramView view = gram_;
  view.log_normalizers = model.log_normalizers;
  view.factors = model.columns;
  view.means = model.means;
  view.center = model.center;
  return view;
}

core::DiagonalView NearestModel::diagonal(const ModelView& model) const {
  core::DiagonalView view = diagonal_;
  view.log_normalizers = model.log_normalizers;
  return view;
}

}  // namespace mfa::cuda
