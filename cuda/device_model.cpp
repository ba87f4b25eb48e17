#include "device_model.hpp"

#include <algorithm>
#include <cmath>
#include <limits>
#include <memory>
#include <utility>
#include <vector>

#include "columns.hpp"
#include "core/gaussian.hpp"
#include "core/screening.hpp"
#include "cpu/panel.hpp"
#include "glance.hpp"
#include "short_floats.hpp"
#include "subspace.hpp"

namespace mfa::cuda {

// R directions U as tensor cores take them, and the part of a coordinate's error that is theirs, as a factor of |x|.
struct RoundedBasis {
  std::size_t n_directions;
  std::vector<FourHalves> parts;
  double error;
};

namespace {

// (L, K) -> (K, L)
std::vector<double> by_component(const double* from, std::size_t L, std::size_t K) {
  std::vector<double> to(K * L);
  for (std::size_t l = 0; l < L; ++l)
    for (std::size_t k = 0; k < K; ++k) to[k * L + l] = from[l * K + k];
  return to;
}

// Computes  U (R, d) rounded to halves, and a bound on the norm |E| of what that changes: the root of the largest sum of a row
//           of |E E^T|.
// Cost      a few operations for every number, and half of a product (R, d) x (d, R).
// Source    docs/theory.md, (D1).
std::shared_ptr<const RoundedBasis> round_basis(const Model& model, const Subspace& subspace) {
  constexpr std::size_t at_once = 2 * tile_directions;  // those whose numbers lie together
  const std::size_t R = subspace.n_directions();
  const std::size_t d = model.n_features();
  const std::size_t direction_tiles = R / tile_directions;
  const std::size_t groups = R / at_once;
  auto made = std::make_shared<RoundedBasis>();
  RoundedBasis& basis = *made;
  basis.n_directions = R;
  basis.parts.resize(ceil_div(d, basis_features) * direction_tiles * warp_size);
  const cpu::AlignedBuffer<double> off(R * d);
  std::vector<cpu::Panel<double>> columns(groups);
  const std::size_t worth = cpu::threads_for(1e-2 * static_cast<double>(R * d), model.n_threads());
  cpu::parallel_for(groups, worth, [&] {
    return [&, rounded = std::vector<std::uint16_t>(at_once * ceil_div(d, basis_features) * basis_features)](
               std::size_t group) mutable {
      const std::size_t stride = rounded.size() / at_once;  // those too many are zero
      double* const group_off = off.data() + group * at_once * d;
      for (std::size_t r = 0; r < at_once; ++r) {  // along memory, number after number, which compilers make vectors of
        const double* const direction = subspace.direction(group * at_once + r);
        for (std::size_t j = 0; j < d; ++j) {
          const Halves half = round_to_halves(static_cast<float>(direction[j]), 0.0f);
          rounded[r * stride + j] = static_cast<std::uint16_t>(half);
          group_off[r * d + j] = direction[j] - static_cast<double>(lower(half));
        }
      }
      columns[group] = cpu::Panel<double>(model.loops().f64, d, at_once);
      columns[group].set_columns(group_off, at_once);
      for (std::size_t first = 0; first < d; first += basis_features)
        for (std::size_t part = 0; part < 2 * warp_size; ++part) {
          const std::size_t column = part % warp_size / 4;
          const std::size_t tile = part / warp_size;
          // A lane has the sums of two columns, 2 c and the next: those of two tiles are four directions in a line.
          const std::size_t r = column / 2 * 4 + tile * 2 + column % 2;
          const std::uint16_t* const numbers = rounded.data() + r * stride + first + part % 4 * 4;
          FourHalves& to = basis.parts[(first / basis_features * direction_tiles + 2 * group) * warp_size + part];
          for (std::size_t pair = 0; pair < 2; ++pair)
            to.pairs[pair] = numbers[2 * pair] | static_cast<Halves>(numbers[2 * pair + 1]) << 16;
        }
    };
  });

  std::vector<double> products(groups * R * at_once);  // of a group with those before it and its own
  cpu::parallel_for(groups, worth, [&] {
    return [&](std::size_t task) {
      const std::size_t group = groups - 1 - task;  // the longest first
      columns[group].multiply(off.data(), (group + 1) * at_once, products.data() + group * R * at_once);
    };
  });
  std::vector<double> sums(R);
  for (std::size_t group = 0; group < groups; ++group)
    for (std::size_t r = 0; r < (group + 1) * at_once; ++r)
      for (std::size_t c = 0; c < at_once; ++c) {
        const double size = std::abs(products[(group * R + r) * at_once + c]);
        sums[r] += size;
        if (r < group * at_once) sums[group * at_once + c] += size;
      }
  basis.error = std::sqrt(*std::max_element(sums.begin(), sums.end()));
  return made;
}

// What was made of as many of these directions for a model that had them before is taken again.
std::shared_ptr<const RoundedBasis> rounded_basis(const Model& model, const Subspace& subspace) {
  const auto make = [&] { return round_basis(model, subspace); };
  const auto& kept = subspace.directions().basis().rounded.get(make);
  return kept->n_directions == subspace.n_directions() ? kept : make();
}

// Computes  numbers (n) times a power of two as sums of two halves, the high one in the lower half of a word; `rounded` are these
//           sums. Returns what that changes of the numbers, squared and summed up.
double round_to_two_halves(const double* numbers, std::size_t n, double scale, Halves* halves, double* rounded) {
  for (std::size_t j = 0; j < n; ++j) {
    const double exact = numbers[j] * scale;
    const Halves high = round_to_halves(static_cast<float>(exact), 0.0f);
    const Halves low = round_to_halves(static_cast<float>(exact - static_cast<double>(lower(high))), 0.0f);
    halves[j] = high | low << 16;
    rounded[j] = static_cast<double>(lower(high)) + static_cast<double>(lower(low));
  }
  double off = 0.0;
  for (std::size_t j = 0; j < n; ++j) {
    const double by = rounded[j] / scale - numbers[j];
    off += by * by;
  }
  return off;
}

// The power of two that rows are multiplied by before they are rounded to halves, which go from 6e-8 to 65504: a usual row's
// length becomes 32 to 64.
double usual_scale(const Model& model, const Subspace& subspace) {
  const std::size_t K = model.n_components();
  std::vector<double> lengths(K);
  for (std::size_t k = 0; k < K; ++k)
    lengths[k] = std::hypot(subspace.mean_length(k), subspace.loading_length(k),
                            std::sqrt(model.largest_noise(k) * static_cast<double>(model.n_features())));
  const auto middle = lengths.begin() + static_cast<std::ptrdiff_t>(K / 2);
  std::nth_element(lengths.begin(), middle, lengths.end());
  constexpr int most = 60;  // so that its square is a float
  return std::ldexp(1.0, std::clamp(5 - std::ilogb(std::max(*middle, std::numeric_limits<double>::min())), -most, most));
}

}  // namespace

// Gathers what is to lie on the device, in one piece of memory there.
class DeviceModel::Upload {
 public:
  // Numbers that stay where they are until all are copied.
  template <class T>
  void operator()(const T*& to, const T* from, std::size_t count) {
    const std::size_t begin = take<T>(count);
    copies_.push_back([&to, from, count, begin](Stream stream, char* memory) {
      copy_to_device(stream, memory + begin, from, count * sizeof(T));
      to = reinterpret_cast<const T*>(memory + begin);
    });
  }
  // Numbers that are kept until then.
  template <class T>
  void operator()(const T*& to, const std::shared_ptr<const std::vector<T>>& from) {
    (*this)(to, from->data(), from->size());
    kept_.push_back(from);
  }
  template <class T>
  void operator()(const T*& to, std::vector<T>&& from) {
    (*this)(to, std::make_shared<const std::vector<T>>(std::move(from)));
  }
  // Room for numbers that are made there.
  void leave_room(double*& to, std::size_t count) {
    const std::size_t begin = take<double>(count);
    copies_.push_back([&to, begin](Stream, char* memory) { to = reinterpret_cast<double*>(memory + begin); });
  }

  void finish(Stream stream, const Allocate& allocate) {
    auto* memory = static_cast<char*>(allocate(bytes_));
    for (const auto& copy : copies_) copy(stream, memory);
  }

 private:
  template <class T>
  std::size_t take(std::size_t count) {
    constexpr std::size_t alignment = 256;
    const std::size_t begin = bytes_;
    bytes_ = ceil_div(begin + count * sizeof(T), alignment) * alignment;
    return begin;
  }

  std::size_t bytes_ = 0;
  std::vector<std::function<void(Stream, char*)>> copies_;
  std::vector<std::shared_ptr<const void>> kept_;
};

DeviceModel::DeviceModel(const Model& model, Stream stream, const Allocate& allocate) {
  Upload upload;
  double *columns = nullptr, *weighted_means = nullptr;
  upload_model(model, upload);
  upload.leave_room(columns, model.n_components() * model.n_factors() * model.n_features());
  upload.leave_room(weighted_means, model.n_components() * model.n_features());
  if (const Subspace* subspace = model.subspace(Processor::cuda)) {
    upload_screen(model, *subspace, upload, screen_);
    if (model.noise() == Noise::spherical) upload_moves(model, *subspace, upload, screen_);
  }
  if (const Glance* glance = model.glance(Processor::cuda)) {
    upload_screen(glance->part(), glance->subspace(), upload, glance_);
    glance_.piece_distance = Excerpt::piece * Excerpt::every;
  }
  upload.finish(stream, allocate);
  make_columns(stream, view_, columns, weighted_means);
  view_.columns = columns;
  view_.weighted_means = weighted_means;
}

void DeviceModel::upload_model(const Model& model, Upload& upload) {
  const std::size_t K = model.n_components();
  const std::size_t L = model.n_factors();
  const std::size_t d = model.n_features();
  const bool spherical = model.noise() == Noise::spherical;
  const double* noise_variance = model.noise_variance(0);
  std::vector<double> noise_variances(spherical ? K : 0);
  for (std::size_t k = 0; k < noise_variances.size(); ++k) noise_variances[k] = noise_variance[k * d];

  // Parameters of all components lie in a line.
  const ComponentView first = model.component(0);
  view_.n_components = K;
  view_.n_factors = L;
  view_.n_features = d;
  view_.least_noise_std = model.least_noise_std();
  view_.center_length = std::sqrt(core::squared_norm(d, model.center<double>()));
  upload(view_.center, model.center<double>(), d);
  upload(view_.means, first.mean, K * d);
  upload(view_.loadings, first.loadings, K * L * d);
  if (!spherical) upload(view_.inverse_noise, first.inverse_noise, K * d);
  upload(view_.inverse_scalars, model.inverse_noise_scalars(), K);
  if (spherical) upload(view_.noise_variance, std::move(noise_variances));
  else upload(view_.noise_variance, noise_variance, K * d);
  upload(view_.cholesky, first.cholesky, K * L * L);
  upload(view_.covariances, model.posterior_covariance(0), K * L * L);
  upload(view_.log_normalizers, model.log_normalizers(), K);
  upload(view_.model_errors, model.model_errors(), K);
  upload(view_.projected_means, by_component(model.projected_means(), L, K));
  upload(view_.mean_norms, model.mean_norms(), K);
}

void DeviceModel::upload_screen(const Model& model, const Subspace& subspace, Upload& upload, ScreenView& view) {
  const std::size_t K = model.n_components();
  const std::size_t L = model.n_factors();
  const std::size_t d = model.n_features();
  const std::size_t R = subspace.n_directions();
  const Model& shadow = subspace.shadow();

  const std::size_t tiles = ceil_div(L + 1, tile_columns);
  const std::size_t direction_tiles = R / tile_directions;

  const double one = usual_scale(model, subspace);
  std::vector<ColumnPart> columns(K * tiles * direction_tiles / 2 * warp_size);
  std::vector<ColumnTerms> column_terms(K * tiles * tile_columns);
  std::vector<ComponentTerms> component_terms(K);
  const double epsilon = core::tensor_product_unit(R);
  const cpu::ScreenTerms<float> terms = subspace.terms<float>(epsilon);
  const double* const shadow_columns = shadow.difference<double>(0).columns;  // those of all components lie in a line
  constexpr double margin = 4.0 * std::numeric_limits<float>::epsilon();
  model.for_each_component(20 * (L + 1) * R, [&] {
    return [&, halves = std::vector<Halves>((L + 1) * R),  // high and low
            rounded = std::vector<double>((L + 1) * R)](std::size_t k) mutable {
      const ComponentView component = shadow.component(k);
      const double noise = 1.0 / component.inverse_noise_scalar;
      // What makes columns fit for halves: they are no longer than one by the noise's root.
      const double column_scale = std::ldexp(1.0, std::ilogb(std::sqrt(noise)));
      const double columns_off =
          round_to_two_halves(shadow_columns + k * L * R, L * R, column_scale, halves.data(), rounded.data());
      const double* const mean = rounded.data() + L * R;
      const double mean_off = round_to_two_halves(component.mean, R, one, halves.data() + L * R, rounded.data() + L * R);
      for (std::size_t l = 0; l < L; ++l)
        column_terms[k * tiles * tile_columns + l] = {static_cast<float>(core::dot(rounded.data() + l * R, mean, R)),
                                                      terms.spreads_by_factor[l * K + k]};
      component_terms[k] = {
          .mean_norm = static_cast<float>(core::squared_norm(R, mean)),
          .model_error = terms.model_errors[k],
          .inverse_noise = static_cast<float>(component.inverse_noise_scalar / (one * one)),
          .inverse_scale = static_cast<float>(1.0 / (one * one * column_scale * column_scale)),
          .mean_left = terms.means_left[k],
          .spread = terms.spreads[k],
          .inverse_noise_root = terms.inverse_noise_roots[k],
          .inverse_weight = terms.inverse_weights[k],
          .spread_root = static_cast<float>(std::sqrt(static_cast<double>(terms.spreads[k])) * (1.0 + margin)),
          .shift = static_cast<float>(std::sqrt(mean_off) * (1.0 + margin)),
          .column_error = static_cast<float>(core::rounded_columns_error(std::sqrt(columns_off * noise))),
          .log_normalizer = terms.log_normalizers[k]};
      for (std::size_t p = 0; p < tiles * direction_tiles / 2 * warp_size; ++p) {
        const std::size_t lane = p % warp_size;
        const std::size_t r = p / warp_size % (direction_tiles / 2) * tensor_depth + lane % 4 * 4;
        const std::size_t l = p / warp_size / (direction_tiles / 2) * tile_columns + lane / 4;
        if (l > L) continue;
        ColumnPart& part = columns[k * tiles * direction_tiles / 2 * warp_size + p];
        for (std::size_t pair = 0; pair < 2; ++pair) {
          const Halves first = halves[l * R + r + 2 * pair], second = halves[l * R + r + 2 * pair + 1];
          part.high.pairs[pair] = (first & 0xffffu) | second << 16;
          part.low.pairs[pair] = first >> 16 | (second & 0xffff0000u);
        }
      }
    };
  });

  view.n_directions = R;
  view.n_features = d;
  view.component_tiles = tiles;
  view.epsilon = terms.epsilon;
  view.one = static_cast<float>(one);
  view.length_of_one = 1.0 / one;
  const auto basis = rounded_basis(model, subspace);
  view.basis_error = basis->error;
  upload(view.center, model.center<float>(), d);
  if (const float* scale = model.scale<float>()) {
    std::vector<float> scales(scale, scale + d);
    for (float& number : scales) number *= view.one;
    upload(view.scale, std::move(scales));
  }
  upload(view.basis, std::shared_ptr<const std::vector<FourHalves>>(basis, &basis->parts));
  upload(view.columns, std::move(columns));
  upload(view.column_terms, std::move(column_terms));
  upload(view.terms, std::move(component_terms));
}

void DeviceModel::upload_moves(const Model& model, const Subspace& subspace, Upload& upload, ScreenView& view) {
  const std::size_t K = model.n_components();
  const std::size_t L = model.n_factors();
  const std::size_t R = subspace.n_directions();
  std::vector<double> means(K * R), loadings(K * L * R), mean_lengths(K), loading_lengths(K);
  for (std::size_t k = 0; k < K; ++k) {
    std::copy_n(subspace.directions().inside(k, L), R, means.data() + k * R);
    for (std::size_t l = 0; l < L; ++l)
      std::copy_n(subspace.directions().inside(k, l), R, loadings.data() + (k * L + l) * R);
    mean_lengths[k] = subspace.mean_length(k);
    loading_lengths[k] = subspace.loading_length(k);
  }
  upload(view.means, std::move(means));
  upload(view.loadings, std::move(loadings));
  upload(view.mean_lengths, std::move(mean_lengths));
  upload(view.loading_lengths, std::move(loading_lengths));
}

}  // namespace mfa::cuda
