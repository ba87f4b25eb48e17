// How many directions screening is to use with a model, and whether it is to look at a part of the features first; found by
// trying them on samples that the model itself would give.
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <memory>
#include <optional>
#include <utility>
#include <vector>

#include "core/normal.hpp"
#include "core/rule.hpp"
#include "core/screening.hpp"
#include "cpu/panel.hpp"
#include "glance.hpp"
#include "subspace.hpp"

namespace mfa {
namespace {

// Samples that are tried.
constexpr std::size_t most_trials = 64;
// Real samples are less typical of a model than its own, and leave more standing.
constexpr double real_samples = 1.5;
// Screening has to save this share of what a row costs without it.
constexpr double least_gain = 0.1;

// A CPU scores some hundred rows while it looks for directions, and a device a million or more: it is better off with what it
// has. Kept for ten iterations of EM on digits, they made evaluation there take a twentieth longer.
constexpr Keeping cpu_keeping{1.1, 4}, cuda_keeping{2.0, 16};

// What it costs to score a row, as measured: without screening; bounds from `count` directions of `read` features; and
// `evaluated` components, evaluated one by one. `epsilon` is the rounding unit of the bounds, where it is not too small to leave
// any more standing.
//
// On a CPU, in multiplications and additions of a matrix product.
struct CpuCosts {
  static constexpr double bound = 25.0;  // for every factor of every component
  static constexpr double fixed_evaluation = 2000.0;

  double d, K, L;
  double evaluation;  // of a term of a product of a single row

  double columns() const { return K * (L + 1.0); }
  double without() const { return d * columns(); }
  double bounds(std::size_t count, double read) const {
    return static_cast<double>(count) * (read + columns()) + bound * columns();
  }
  double evaluating(double evaluated) const { return evaluated * (evaluation * d * (L + 1.0) + fixed_evaluation); }
  double epsilon(std::size_t) const { return 0.0; }
};

// On a CUDA device, in nanoseconds of an H200. A row is read for its coordinates, which are made meanwhile, and again for every
// component.
struct CudaCosts {
  static constexpr double product = 4e-5;        // of a number and a column
  static constexpr double passing = 2e-3;        // of a product, written and read
  static constexpr double entry = 1e-2;          // of what is kept of a component
  static constexpr double reading = 1.2e-3;      // of a number
  static constexpr double coordinate = 1e-5;     // of a number and a direction
  static constexpr double bound = 5.5e-3;        // of eight columns,
  static constexpr double bound_along = 1.3e-4;  // and of each direction of theirs
  static constexpr double evaluation = 1.2e-3;   // of a number

  double d, K, L;

  double without() const {
    const double columns = K * (L + 1.0);
    return d * (3.0 * reading + product * columns) + passing * columns + entry * K;
  }
  double bounds(std::size_t count, double read) const {
    const auto directions = static_cast<double>(count);
    const double tiles = K * std::ceil((L + 1.0) / 8.0);
    return read * std::max(reading, coordinate * directions) + tiles * (bound + bound_along * directions);
  }
  double evaluating(double evaluated) const { return evaluated * evaluation * d; }
  double epsilon(std::size_t count) const { return core::tensor_product_unit(count); }
};

// A sample of component k, as far as it can be told from the directions: its coordinates, and the squared length of the rest.
struct Trial {
  std::size_t component;
  double rest_square;
};

// Components that samples are of: their weights are not 0.
std::vector<std::size_t> with_weight(const Model& model) {
  std::vector<std::size_t> components;
  for (std::size_t k = 0; k < model.n_components(); ++k)
    if (std::isfinite(model.log_weight(k))) components.push_back(k);
  return components;
}

// Coordinates (trials, directions) of a sample of each of these components, or of as many as are tried.
std::vector<Trial> make_trials(const Model& model, const std::vector<std::size_t>& components, const Directions& from,
                               std::vector<double>& coordinates) {
  const std::size_t L = model.n_factors();
  const std::size_t d = model.n_features();
  const std::size_t R = from.count();
  const std::size_t n = std::min(components.size(), most_trials);
  std::vector<Trial> trials(n);
  std::vector<double> z(L + 1);  // and 1, for the mean
  coordinates.assign(n * R, 0.0);
  for (std::size_t t = 0; t < n; ++t) {
    const std::size_t k = components[t * components.size() / n];
    model.loops().sample_factors(0, t, L, z.data());
    z[L] = 1.0;
    const double noise = model.mean_noise(k);
    double* y = coordinates.data() + t * R;
    double square = 0.0, inside = 0.0;
    for (std::size_t l = 0; l <= L; ++l) {
      for (std::size_t r = 0; r < R; ++r) y[r] += z[l] * from.inside(k, l)[r];
      for (std::size_t m = 0; m <= L; ++m) square += z[l] * z[m] * from.product(k, l, m);
    }
    for (std::size_t r = 0; r < R; ++r) inside += y[r] * y[r];
    for (std::size_t r = 0; r < R; r += 2) {
      const core::Words w = core::draw(0, t, core::Stream::noise, static_cast<std::uint32_t>(r));
      const core::NormalPair<double> pair = core::normal_pair(w.w0, w.w1, w.w2, w.w3);
      y[r] += std::sqrt(noise) * pair.a;
      if (r + 1 < R) y[r + 1] += std::sqrt(noise) * pair.b;
    }
    trials[t] = {k, core::positive(square - inside) + noise * static_cast<double>(d - std::min(d, R))};
  }
  return trials;
}

// Calls visit(component, guess, upper) for every trial: its own component, guesses (K) at all log-densities and bounds on them.
template <class Visit>
void try_out(const Subspace& subspace, double epsilon, const std::vector<Trial>& trials,
             const std::vector<double>& coordinates, const Visit& visit) {
  const std::size_t K = subspace.shadow().n_components();
  const std::size_t R = subspace.n_directions();
  // None where no component has a weight.
  const std::size_t stride = coordinates.size() / std::max<std::size_t>(trials.size(), 1);
  const cpu::Panel<double>& panel = subspace.shadow().panels<double>().columns;
  cpu::ScreenTerms<double> terms = subspace.terms<double>(epsilon);
  std::vector<double> leading(trials.size() * R), products(trials.size() * panel.columns()), guess(K), upper(K);
  for (std::size_t t = 0; t < trials.size(); ++t) std::copy_n(coordinates.data() + t * stride, R, leading.data() + t * R);
  panel.multiply(leading.data(), trials.size(), products.data());
  for (std::size_t t = 0; t < trials.size(); ++t) {
    const double* y = coordinates.data() + t * stride;
    double outside = trials[t].rest_square;
    for (std::size_t r = R; r < stride; ++r) outside += y[r] * y[r];
    terms.y_norm = 0.0;
    for (std::size_t r = 0; r < R; ++r) terms.y_norm += y[r] * y[r];
    terms.outside = std::sqrt(outside);
    subspace.shadow().loops().f64.screen(terms, products.data() + t * panel.columns(), guess.data(), upper.data());
    visit(trials[t].component, guess.data(), upper.data());
  }
}

// What a sample's log-density is under its own component, on average.
double usual_value(const Model& model, std::size_t k) {
  return model.log_normalizers()[k] - 0.5 * static_cast<double>(model.n_features());
}

// How many components a trial leaves standing besides those that are tried first, the likeliest of every group; on average.
double count_survivors(const Model& model, const Subspace& subspace, double epsilon, const std::vector<Trial>& trials,
                       const std::vector<double>& coordinates) {
  double survivors = 0.0;
  try_out(subspace, epsilon, trials, coordinates, [&](std::size_t own, const double* guess, const double* upper) {
    // Under the best of another group a sample's distance is taken to be what it is if what is outside the subspace is
    // perpendicular: that lies as far below the guess as the bound lies above it.
    for (std::size_t g = 0; g + 1 < model.groups().size(); ++g) {
      const auto begin = static_cast<std::size_t>(model.groups()[g]), end = static_cast<std::size_t>(model.groups()[g + 1]);
      std::size_t first = begin;
      for (std::size_t k = begin; k < end; ++k)
        if (k == own || (first != own && guess[k] > guess[first])) first = k;
      const double floor = first == own ? usual_value(model, own) : 2.0 * guess[first] - upper[first];
      for (std::size_t k = begin; k < end; ++k)
        if (k != first && !(upper[k] < floor - core::negligible_nats)) survivors += 1.0;
    }
  });
  return survivors / static_cast<double>(trials.size());
}

// The share of trials that are left open: in which another component is guessed, or left standing.
double share_left_open(const Model& model, const Subspace& subspace, double epsilon, const std::vector<Trial>& trials,
                       const std::vector<double>& coordinates) {
  const std::size_t K = model.n_components();
  double open = 0.0;
  try_out(subspace, epsilon, trials, coordinates, [&](std::size_t own, const double* guess, const double* upper) {
    const double least = usual_value(model, own) - core::negligible_nats;
    const auto rules_out = [&](std::size_t k) { return k == own || (guess[k] < guess[own] && upper[k] < least); };
    std::size_t k = 0;
    while (k < K && rules_out(k)) ++k;
    if (k < K) open += 1.0;
  });
  return open / static_cast<double>(trials.size());
}

// The same of samples in all features.
double share_left_open(const Model& model, const Subspace& subspace) {
  std::vector<double> coordinates;
  const std::vector<Trial> trials = make_trials(model, with_weight(model), subspace.directions(), coordinates);
  return share_left_open(model, subspace, 0.0, trials, coordinates);
}

// Of as many of the directions as make scoring cheapest; null where it is cheapest without.
template <class Costs>
std::shared_ptr<const Subspace> find_cheapest(const Model& model, const Costs& costs,
                                              const std::shared_ptr<const Directions>& directions) {
  const std::size_t most = directions->count();
  const auto d = static_cast<double>(model.n_features());
  const double groups = static_cast<double>(model.groups().size() - 1);
  std::vector<double> coordinates;
  const std::vector<Trial> trials = make_trials(model, with_weight(model), *directions, coordinates);
  double least = (1.0 - least_gain) * costs.without();
  std::shared_ptr<const Subspace> cheapest;
  // More directions cost more, and leave none standing at best.
  for (const std::size_t count : direction_counts) {
    const double bounds = costs.bounds(count, d);
    if (count > most || bounds + costs.evaluating(groups) >= least) break;
    auto subspace = std::make_shared<const Subspace>(model, directions, count, model.log_normalizers());
    const double survivors = count_survivors(model, *subspace, costs.epsilon(count), trials, coordinates);
    const double tried = bounds + costs.evaluating(groups + real_samples * survivors);
    if (tried < least) {
      least = tried;
      cheapest = std::move(subspace);
    }
  }
  return cheapest;
}

// The same of a glance, where `subspace` is what comes after it for the rows that it leaves open.
template <class Costs>
std::shared_ptr<const Glance> find_cheapest_glance(const Model& model, const Costs& costs, const Subspace& subspace,
                                                   const std::shared_ptr<const Model>& part,
                                                   const std::shared_ptr<const Directions>& directions) {
  std::vector<double> coordinates;
  const std::vector<Trial> trials = make_trials(*part, with_weight(model), *directions, coordinates);
  // At best.
  const double without = costs.bounds(subspace.n_directions(), static_cast<double>(model.n_features())) + costs.evaluating(1.0);
  double least = (1.0 - least_gain) * without;
  std::shared_ptr<const Glance> cheapest;
  for (const std::size_t count : direction_counts) {
    const double looking = costs.bounds(count, static_cast<double>(part->n_features())) + costs.evaluating(1.0);
    if (count > directions->count() || looking >= least) break;
    auto glance = std::make_shared<const Glance>(model, part, directions, count);
    const double open = share_left_open(model, glance->subspace(), costs.epsilon(count), trials, coordinates);
    const double tried = looking + real_samples * open * without;
    if (tried < least) {
      least = tried;
      cheapest = std::move(glance);
    }
  }
  return cheapest;
}

// Calls choose(costs) with those of the processor.
template <class Choose>
auto by_costs(const Model& model, Processor processor, const Choose& choose) {
  const auto d = static_cast<double>(model.n_features()), K = static_cast<double>(model.n_components()),
             L = static_cast<double>(model.n_factors());
  if (processor == Processor::cuda) return choose(CudaCosts{d, K, L});
  // Single rows wait for memory, which vectors of 64 bytes do not make any faster.
  const bool wide = model.loops().f32.width == 16;
  return choose(CpuCosts{d, K, L, wide ? 3.0 : 1.6});
}

// The model of the excerpt's features. Its weights are of no use: bounds are made with the whole model's constants.
std::shared_ptr<const Model> take_part(const Model& model, const Excerpt& excerpt) {
  const std::size_t K = model.n_components();
  const std::size_t L = model.n_factors();
  const ComponentView first = model.component(0);  // those of all components lie in a line
  const std::vector<double> weights(K, 1.0), means = excerpt.take(first.mean, K), loadings = excerpt.take(first.loadings, K * L),
                            noise = excerpt.take(model.noise_variance(0), K), center = excerpt.take(model.center<double>(), 1);
  const Parameters parameters{K, L, excerpt.size(), weights.data(), means.data(), loadings.data(), noise.data(), center.data()};
  return std::make_shared<const Model>(parameters, model.loops(), nullptr, model.n_threads());
}

}  // namespace

std::shared_ptr<const Directions> Subspace::find_directions(const Model& model, Processor processor, const Directions* near) {
  const std::size_t d = model.n_features();
  const std::size_t columns = model.n_components() * (model.n_factors() + 1);
  // A CPU's rows that are short are evaluated for less than many directions cost.
  const std::size_t enough = processor == Processor::cpu && d < 2048 ? 64 : 128;
  const std::size_t most = std::min({enough, d / 4, columns / 3});
  std::size_t count = 0;
  for (const std::size_t one : direction_counts)
    if (one <= most) count = one;
  if (count == 0) return nullptr;
  const bool similar = near != nullptr && near->count() == count && near->n_features() == d;
  return std::make_shared<const Directions>(model, count, processor == Processor::cpu ? cpu_keeping : cuda_keeping,
                                            similar ? near : nullptr);
}

std::shared_ptr<const Subspace> Subspace::choose(const Model& model, Processor processor,
                                                 const std::shared_ptr<const Directions>& directions,
                                                 const std::optional<std::shared_ptr<const Subspace>>& near) {
  if (directions->kept() && near.has_value()) {
    if (*near == nullptr) return nullptr;
    return std::make_shared<const Subspace>(model, directions, (*near)->n_directions(), model.log_normalizers());
  }
  return by_costs(model, processor, [&](const auto& costs) { return find_cheapest(model, costs, directions); });
}

std::shared_ptr<const Glance> Glance::choose(const Model& model, Processor processor, const Subspace& subspace,
                                             const std::optional<std::shared_ptr<const Glance>>& near) {
  // What all features leave open a part of them will, and where that is much it cannot pay.
  constexpr double most_open = 0.2;
  const Excerpt excerpt{model.n_features()};
  if (model.n_components() == 1 || 4 * excerpt.size() > model.n_features()) return nullptr;
  const bool kept = near.has_value() && subspace.directions().kept();
  if (kept && *near == nullptr) return nullptr;
  if (!kept && share_left_open(model, subspace) > most_open) return nullptr;
  const Directions* const near_directions = near.value_or(nullptr) == nullptr ? nullptr : &(*near)->subspace().directions();
  const auto part = take_part(model, excerpt);
  const auto directions = Subspace::find_directions(*part, processor, near_directions);
  if (directions == nullptr) return nullptr;
  if (kept && directions->kept())
    return std::make_shared<const Glance>(model, part, directions, (*near)->subspace().n_directions());
  return by_costs(model, processor,
                  [&](const auto& costs) { return find_cheapest_glance(model, costs, subspace, part, directions); });
}

}  // namespace mfa
