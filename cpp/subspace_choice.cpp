// How many directions screening is to use with a model, found by trying them on samples that the model itself would give.
#include <algorithm>
#include <cmath>
#include <memory>
#include <utility>

#include "core/normal.hpp"
#include "core/screening.hpp"
#include "cpu/panel.hpp"
#include "subspace.hpp"

namespace mfa {
namespace {

// Samples that are tried.
constexpr std::size_t most_trials = 64;
// Time in units of one multiplication and addition of a matrix product, as measured.
constexpr double bound_cost = 25.0;      // of a bound, for every factor of every component
constexpr double survivor_cost = 1.6;    // of a term of a survivor's products, which are of single rows
constexpr double survivor_fixed = 2000;  // of a survivor
// Real samples are less typical of a model than its own, and leave more standing.
constexpr double real_samples = 1.5;
// Screening has to save this share of a full product to be worth its while.
constexpr double least_gain = 0.1;

// A sample of component k, as far as it can be told from the directions: its coordinates, and the squared length of the rest.
struct Trial {
  std::size_t component;
  double rest_square;
};

// Coordinates (trials, directions) of a sample of every component, or of as many as are tried.
std::vector<Trial> make_trials(const Model& model, const Directions& from, std::vector<double>& coordinates) {
  const std::size_t K = model.n_components();
  const std::size_t L = model.n_factors();
  const std::size_t d = model.n_features();
  const std::size_t R = from.count();
  const std::size_t n = std::min(K, most_trials);
  std::vector<Trial> trials(n);
  std::vector<double> z(L + 1);  // and 1, for the mean
  coordinates.assign(n * R, 0.0);
  for (std::size_t t = 0; t < n; ++t) {
    const std::size_t k = t * K / n;
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

// How many other components a trial leaves standing, on average.
double count_survivors(const Model& model, const Subspace& subspace, const std::vector<Trial>& trials,
                       const std::vector<double>& coordinates) {
  const std::size_t K = model.n_components();
  const std::size_t R = subspace.n_directions();
  const std::size_t stride = coordinates.size() / trials.size();
  const cpu::Panel<double>& panel = subspace.shadow().panels<double>().columns;
  cpu::ScreenTerms<double> terms = subspace.terms<double>(0.0);
  std::vector<double> product(panel.columns()), guess(K), upper(K);
  double survivors = 0.0;
  for (std::size_t t = 0; t < trials.size(); ++t) {
    const double* y = coordinates.data() + t * stride;
    double outside = trials[t].rest_square;
    for (std::size_t r = R; r < stride; ++r) outside += y[r] * y[r];
    terms.y_norm = 0.0;
    for (std::size_t r = 0; r < R; ++r) terms.y_norm += y[r] * y[r];
    terms.outside = std::sqrt(outside);
    panel.multiply(y, 1, product.data());
    model.loops().f64.screen(terms, product.data(), guess.data(), upper.data());
    // Under its own component a sample's distance is d on average.
    const double own = model.log_normalizers()[trials[t].component] - 0.5 * static_cast<double>(model.n_features());
    for (std::size_t k = 0; k < K; ++k)
      if (k != trials[t].component && !(upper[k] < own - core::negligible_nats)) survivors += 1.0;
  }
  return survivors / static_cast<double>(trials.size());
}

// Of as many of the directions as make scoring cheapest; null where it is cheapest without.
std::shared_ptr<const Subspace> find_cheapest(const Model& model, const std::shared_ptr<const Directions>& directions) {
  const std::size_t d = model.n_features();
  const std::size_t columns = model.n_components() * (model.n_factors() + 1);
  const std::size_t most = directions->count();
  std::vector<double> coordinates;
  const std::vector<Trial> trials = make_trials(model, *directions, coordinates);
  const double product = static_cast<double>(d * columns);
  const double per_survivor =
      survivor_cost * static_cast<double>(d * (model.n_factors() + 1)) + survivor_fixed;
  const auto cost = [&](std::size_t count, double survivors) {
    return static_cast<double>(count * (d + columns)) + bound_cost * static_cast<double>(columns) +
           (1.0 + real_samples * survivors) * per_survivor;
  };
  double least = (1.0 - least_gain) * product;
  std::shared_ptr<const Subspace> cheapest;
  // More directions cost more, and leave none standing at best.
  for (std::size_t count = 16; count <= most && cost(count, 0.0) < least; count += most > 64 ? 32 : 16) {
    auto subspace = std::make_shared<const Subspace>(model, directions, count);
    const double tried = cost(count, count_survivors(model, *subspace, trials, coordinates));
    if (tried < least) {
      least = tried;
      cheapest = std::move(subspace);
    }
  }
  return cheapest;
}

}  // namespace

Screening Subspace::choose(const Model& model, const Screening& near) {
  const std::size_t d = model.n_features();
  const std::size_t columns = model.n_components() * (model.n_factors() + 1);
  const std::size_t most = std::min({d < 2048 ? std::size_t{64} : std::size_t{128}, d / 4, columns / 3}) / 16 * 16;
  if (most == 0) return {};
  const Directions* known = near.directions.get();
  const bool similar = known != nullptr && known->count() == most && known->n_features() == d;
  const auto directions = std::make_shared<Directions>(model, most, similar ? known : nullptr);
  const bool same_number = directions->kept() && near.subspace != nullptr;
  auto subspace = same_number ? std::make_shared<const Subspace>(model, directions, near.subspace->n_directions())
                              : find_cheapest(model, directions);
  directions->forget_rows();
  return {directions, std::move(subspace)};
}

}  // namespace mfa
