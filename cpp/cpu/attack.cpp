#include "cpu/attack.hpp"

#include <algorithm>
#include <cmath>
#include <limits>
#include <span>
#include <tuple>
#include <utility>
#include <vector>

#include "core/quadric.hpp"
#include "core/reduce.hpp"
#include "core/screening.hpp"
#include "cpu/parallel.hpp"

namespace mfa::cpu {
namespace {

// The two components that a step is taken between, counted over all classes, and how far the source's class leads.
struct Pair {
  std::size_t source, target;
  std::size_t source_class, target_class;
  double gap;
  double size;  // of the scores that the gap is the difference of
};

template <class T>
class LdGrad {
  using Place = typename BlockScorer<T>::Place;
  // What the gradient of a row is made of: a component's, times its share, negative for the class that is to be left.
  struct Term {
    std::size_t row, component;  // the row counted among those that take a step together
    double share;
    std::size_t factors;         // where its factors stand
  };
  // The gradient in the subspace, and what the rounding of a step along it is measured by.
  struct Shift {
    std::vector<double> coordinates;  // (R)
    double feedback, size;
  };

 public:
  LdGrad(const Model& model, const Rows& rows, Groups groups, const double* log_priors, const LdGradOptions& options,
         const AttackOutput<T>& out, std::size_t max_rows)
      : model_(model),
        groups_(groups),
        log_priors_(log_priors),
        options_(options),
        scorer_(model, max_rows, options.screening),
        active_(model.loops(), rows, options.step, out, max_rows),
        pairs_(max_rows),
        row_(model.n_features()),
        zeros_(model.n_features(), 0.0),
        factors_(refined_rows * model.n_factors()),
        products_(refined_rows * (model.n_factors() + 1)),
        scratch_(lanes_scratch(refined_rows, model.n_factors())) {
    if (model.noise() != Noise::spherical || options.step.clip_low || options.step.clip_high) return;
    if (scorer_.subspace() == nullptr) return;
    places_.resize(max_rows);
    center_length_ = std::sqrt(typed<T>(model.loops()).squared_distance(model.center<T>(), nullptr, model.n_features()));
  }

  BadRow attack(std::size_t first, std::size_t count, const std::int64_t* labels, const PairOutput& pairs) {
    active_.load(first, count);
    std::fill_n(pairs.source + first, count, -1);
    std::fill_n(pairs.target + first, count, -1);
    for (std::size_t step = 0; !active_.empty(); ++step) {
      check_interruption();  // a block may take any number of steps
      if (const BadRow bad = score(step)) return active_.index(*bad);
      close_.clear();
      for (std::size_t i = 0; i < active_.size(); ++i) {
        pairs_[i] = choose(i, static_cast<std::size_t>(labels[active_.index(i)]));
        if (core::is_small_gap(pairs_[i].gap, pairs_[i].size)) close_.push_back(i);
      }
      if (!close_.empty()) scorer_.sharpen(close_, groups_, score_tolerance<double>);
      for (const std::size_t i : close_) pairs_[i] = choose(i, static_cast<std::size_t>(labels[active_.index(i)]));
      // Where no rival has a chance at all (a prior or a weight of 0), there is nowhere to go.
      const auto goes_on = [&](std::size_t i) {
        return leads(pairs_[i]) && std::isfinite(pairs_[i].gap) && step < options_.step.steps;
      };
      standing_.clear();
      for (std::size_t i = 0; i < active_.size(); ++i) {
        const std::size_t at = active_.index(i);
        if (!goes_on(i)) continue;
        standing_.push_back(i);
        if (step == 0 && !places_.empty()) scorer_.read_place(i, places_[i]);
        pairs.source[at] = static_cast<std::int64_t>(pairs_[i].source) - groups_[pairs_[i].source_class];
        pairs.target[at] = static_cast<std::int64_t>(pairs_[i].target) - groups_[pairs_[i].target_class];
      }
      // Neighbours then meet the same components.
      std::sort(standing_.begin(), standing_.end(), [&](std::size_t a, std::size_t b) {
        return std::tuple(pairs_[a].source, pairs_[a].target, a) < std::tuple(pairs_[b].source, pairs_[b].target, b);
      });
      const std::size_t at_once = std::max(gradient_numbers / model_.n_features(), refined_rows);
      for (std::size_t s = 0; s < standing_.size(); s += at_once)
        take_steps(standing_.data() + s, std::min(at_once, standing_.size() - s));
      for (std::size_t i = active_.size(); i-- > 0;)
        if (!goes_on(i)) finish(i);
    }
    return {};
  }

 private:
  // Where the coordinates of a step can be had from the coordinates of the parameters, rows are screened by those that
  // have been moved along: moved rows are not multiplied with the subspace again.
  BadRow score(std::size_t step) {
    scorer_.load(active_.view(), 0, active_.size());
    if (step == 0 || places_.empty()) return scorer_.score_groups(groups_, core::gap_tolerance);
    for (std::size_t i = 0; i < active_.size(); ++i) scorer_.place(i, places_[i]);
    return scorer_.score_placed_groups(groups_, core::gap_tolerance);
  }

  void finish(std::size_t i) {
    active_.finish(i, !leads(pairs_[i]));
    if (!places_.empty()) std::swap(places_[i], places_[active_.size()]);
  }

  // Gradients that are held at once, in numbers: in the second-level cache.
  static constexpr std::size_t gradient_numbers = std::size_t{1} << 15;

  struct ClassScore {
    double score;
    std::size_t best;  // over all classes
  };

  // By the components that row i has been scored under: the others' densities count as 0.
  ClassScore class_score(std::size_t i, std::span<const std::size_t> scored, std::size_t g) const {
    const bool sums = options_.rule == Rule::sum;
    const auto [best, sum] = reduce_group(scorer_.values(i), scored, extent_of(groups_, g), sums);
    return {log_priors_[g] + (sums ? sum.value() : best.max), best.index};
  }

  Pair choose(std::size_t i, std::size_t label) {
    const std::span<const std::size_t> scored = scorer_.scored(i);
    const ClassScore own = class_score(i, scored, label);
    core::ArgMax rival;
    std::size_t rival_best = 0;
    for (std::size_t g = 0; g + 1 < groups_.size(); ++g) {
      if (g == label) continue;
      const ClassScore other = class_score(i, scored, g);
      if (rival.empty || other.score > rival.max) rival_best = other.best;
      rival.add(other.score, g);
    }
    Pair pair{own.best, rival_best, label, rival.index, own.score - rival.max,
              std::abs(own.score) + std::abs(rival.max)};
    if (options_.source) pair.source = extent_of(groups_, label).begin + *options_.source;
    if (options_.target) pair.target = extent_of(groups_, rival.index).begin + *options_.target;
    return pair;
  }

  static bool leads(const Pair& pair) { return core::leads(pair.gap, pair.source_class, pair.target_class); }

  // Steps of some rows at once, so that all that is done with a component is done for several rows.
  void take_steps(const std::size_t* rows, std::size_t count) {
    const std::size_t d = model_.n_features();
    gradients_.resize(std::max(gradients_.size(), count * d));
    begun_.assign(count, 0);
    curvatures_.assign(count, 0.0);
    terms_.clear();
    term_factors_.clear();
    for (std::size_t r = 0; r < count; ++r) {
      const Pair& pair = pairs_[rows[r]];
      if (options_.rule == Rule::max || is_fixed()) {
        add_term(r, rows[r], pair.source, -1.0);
        add_term(r, rows[r], pair.target, 1.0);
      } else {
        add_shares(r, rows[r], pair.source_class, -1.0);
        add_shares(r, rows[r], pair.target_class, 1.0);
      }
    }
    std::stable_sort(terms_.begin(), terms_.end(),
                     [](const Term& a, const Term& b) { return a.component < b.component; });
    for_each_component([&](const Term* terms, std::size_t n) { add_gradients(rows, terms, n); });
    for_each_component([&](const Term* terms, std::size_t n) { add_curvatures(terms, n); });
    if (!places_.empty()) add_shifts(rows, count);
    for (std::size_t r = 0; r < count; ++r) {
      if (begun_[r] == 0) continue;  // there is no way to go: no component has a share in it
      const double* gradient = gradients_.data() + r * d;
      const double b = model_.loops().f64.squared_distance(gradient, nullptr, d);
      const double gap = step_gap(rows[r]);
      if (!(b > 0.0) || !std::isfinite(gap)) continue;  // the two components are one and the same, or one has weight 0
      const double a = active_.step(rows[r], core::step_to_zero(gap, b, curvatures_[r]), gradient, std::sqrt(b));
      if (!places_.empty()) move(rows[r], a, shifts_[r]);
    }
  }

  // The coordinates of the gradients, theory.md (14a).
  void add_shifts(const std::size_t* rows, std::size_t count) {
    const Subspace& subspace = *scorer_.subspace();
    shifts_.resize(std::max(shifts_.size(), count));
    for (std::size_t r = 0; r < count; ++r) {
      shifts_[r].coordinates.assign(subspace.n_directions(), 0.0);
      shifts_[r].feedback = shifts_[r].size = 0.0;
    }
    for_each_component([&](const Term* terms, std::size_t n) {
      const std::size_t k = terms[0].component;
      const double* y[refined_rows];
      double shares[refined_rows];
      const bool begins[refined_rows] = {};
      double* out[refined_rows];
      for (std::size_t t = 0; t < n; ++t) {
        const Place& at = places_[rows[terms[t].row]];
        const double* z = term_factors_.data() + terms[t].factors;
        Shift& shift = shifts_[terms[t].row];
        y[t] = at.coordinates.data();
        shares[t] = terms[t].share;
        out[t] = shift.coordinates.data();
        subspace.to_shadow_factors(k, z, factors_.data() + t * model_.n_factors());
        shift.feedback += terms[t].share * model_.inverse_noise_scalars()[k];
        shift.size += std::abs(terms[t].share) * subspace.precision_product_size(k, std::sqrt(at.norm), z);
      }
      model_.loops().f64.add_precision_products(y, n, subspace.shadow().component(k), factors_.data(), shares, begins, out);
    });
  }

  // The place of a row that has taken the step x - a g.
  void move(std::size_t i, double a, const Shift& shift) {
    Place& at = places_[i];
    double square = 0.0;
    for (std::size_t j = 0; j < at.coordinates.size(); ++j) {
      at.coordinates[j] -= a * shift.coordinates[j];
      square += at.coordinates[j] * at.coordinates[j];
    }
    at.norm = typed<T>(model_.loops()).squared_distance(active_.row(i), model_.center<T>(), model_.n_features());
    at.error = core::moved_coordinate_error(at.error, a * std::abs(shift.feedback), center_length_ + std::sqrt(at.norm),
                                            std::sqrt(square), a * shift.size, model_.n_factors(),
                                            std::numeric_limits<T>::epsilon());
  }

  // Calls visit(terms, count) for terms of one component, as many as are computed at once.
  template <class Visit>
  void for_each_component(const Visit& visit) const {
    std::size_t end;
    for (std::size_t begin = 0; begin < terms_.size(); begin = end) {
      for (end = begin; end < terms_.size() && end - begin < refined_rows &&
                        terms_[end].component == terms_[begin].component;)
        ++end;
      visit(terms_.data() + begin, end - begin);
    }
  }

  // The scorer has found the factors of row i where it looked at the component; a component that is held fixed may be
  // one that it left out.
  void add_term(std::size_t r, std::size_t i, std::size_t k, double share) {
    const std::size_t n = model_.n_factors();
    terms_.push_back({r, k, share, term_factors_.size()});
    term_factors_.resize(term_factors_.size() + n);
    double* z = term_factors_.data() + terms_.back().factors;
    if (is_fixed()) {
      load_row(i);
      mahalanobis(model_.component(k));
      std::copy_n(z_.data(), n, z);
    } else {
      scorer_.factors(i, k, z);
    }
  }

  void add_gradients(const std::size_t* rows, const Term* terms, std::size_t count) {
    const std::size_t n = model_.n_factors();
    const T* x[refined_rows];
    double shares[refined_rows];
    bool begins[refined_rows];
    double* out[refined_rows];
    for (std::size_t t = 0; t < count; ++t) {
      begins[t] = begun_[terms[t].row] == 0;
      begun_[terms[t].row] = 1;
      x[t] = active_.row(rows[terms[t].row]);
      shares[t] = terms[t].share;
      out[t] = gradients_.data() + terms[t].row * model_.n_features();
      std::copy_n(term_factors_.data() + terms[t].factors, n, factors_.data() + t * n);
    }
    typed<T>(model_.loops())
        .add_precision_products(x, count, model_.component(terms[0].component), factors_.data(), shares, begins, out);
  }

  // curvature += share g^T S_k^-1 g / 2, in difference form: good to rounding of |g|^2_D, which is enough for the length of
  // a step.
  void add_curvatures(const Term* terms, std::size_t count) {
    const std::size_t n = model_.n_factors();
    const std::size_t k = terms[0].component;
    const double* x[refined_rows];
    for (std::size_t t = 0; t < count; ++t) x[t] = gradients_.data() + terms[t].row * model_.n_features();
    DifferenceView<double> centered = model_.difference<double>(k);
    centered.mean = zeros_.data();
    model_.loops().f64.difference_form(x, count, centered, scratch_.data(), products_.data());
    for (std::size_t t = 0; t < count; ++t) {
      const double* product = products_.data() + t * (n + 1);
      const double square = product[n] * model_.inverse_noise_scalars()[k];
      curvatures_[terms[t].row] +=
          0.5 * terms[t].share * core::difference_form(square, 0.0, core::squared_norm(n, product));
    }
  }

  bool is_fixed() const { return options_.source || options_.target; }

  // A class's log-sum-exp has the gradient of its components, each by its posterior probability.
  void add_shares(std::size_t r, std::size_t i, std::size_t g, double sign) {
    const double* values = scorer_.values(i);
    const std::span<const std::size_t> scored = scorer_.scored(i);
    const Extent group = extent_of(groups_, g);
    const core::LogSumExp sum = reduce_group(values, scored, group, true).sum;
    for (const std::size_t k : scored)
      if (group.holds(k))
        if (const double share = sum.share(values[k]); share > core::negligible_share)
          add_term(r, i, k, sign * share);
  }

  // The gap that the step of row i is to close: between the classes, or between the two components the caller holds fixed.
  double step_gap(std::size_t i) {
    const Pair& pair = pairs_[i];
    if (!is_fixed()) return pair.gap;
    load_row(i);
    return std::max(0.0, log_priors_[pair.source_class] + component_value(pair.source) -
                             log_priors_[pair.target_class] - component_value(pair.target));
  }

  double component_value(std::size_t k) {
    return core::log_density(model_.log_normalizers()[k], mahalanobis(model_.component(k)));
  }

  void load_row(std::size_t i) { std::copy_n(active_.row(i), model_.n_features(), row_.data()); }

  // q of row_ about a component; the factors are left in z_.
  double mahalanobis(const ComponentView& component) {
    const double* x = row_.data();
    z_.assign(component.n_factors, 0.0);
    factor_gradient_.resize(component.n_factors);
    double q;
    refine_factors(model_.loops().f64, &x, 1, component, z_.data(), scratch_.data(), factor_gradient_.data(), &q);
    return q;
  }

  const Model& model_;
  Groups groups_;
  const double* log_priors_;
  const LdGradOptions& options_;
  BlockScorer<T> scorer_;
  ActiveRows<T> active_;
  std::vector<Place> places_;             // (rows); empty where all rows go through the whole of screening in every step
  std::vector<Shift> shifts_;             // (rows at once)
  double center_length_ = 0.0;
  std::vector<Pair> pairs_;               // (rows)
  std::vector<std::size_t> standing_;     // rows that take a step
  std::vector<std::size_t> close_;        // rows near the surface between the classes
  std::vector<Term> terms_;
  std::vector<double> gradients_;         // (rows at once, d)
  std::vector<std::uint8_t> begun_;       // (rows at once): whether there is anything in its gradient
  std::vector<double> curvatures_;        // (rows at once)
  std::vector<double> term_factors_;      // (terms, L)
  std::vector<double> row_, zeros_;       // (d)
  std::vector<double> factors_, products_;  // (refined_rows, L), (refined_rows, L + 1)
  std::vector<double> z_, factor_gradient_, scratch_;
};

}  // namespace

template <class T>
BadRow ld_grad(const Model& model, const Rows& rows, Groups groups, const double* log_priors,
               const std::int64_t* labels, const LdGradOptions& options, const AttackOutput<T>& out,
               const PairOutput& pairs, std::size_t n_threads) {
  LdGradOptions own = options;
  own.step.least = core::on_surface * model.least_noise_std();
  return for_each_block(rows.n_rows, n_threads, [&](std::size_t height) {
    return [&, attack = LdGrad<T>(model, rows, groups, log_priors, own, out, height)](
               std::size_t first, std::size_t count) mutable { return attack.attack(first, count, labels, pairs); };
  });
}

template BadRow ld_grad(const Model&, const Rows&, Groups, const double*, const std::int64_t*, const LdGradOptions&,
                        const AttackOutput<float>&, const PairOutput&, std::size_t);
template BadRow ld_grad(const Model&, const Rows&, Groups, const double*, const std::int64_t*, const LdGradOptions&,
                        const AttackOutput<double>&, const PairOutput&, std::size_t);

}  // namespace mfa::cpu
