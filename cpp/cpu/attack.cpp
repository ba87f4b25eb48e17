#include "cpu/attack.hpp"

#include <algorithm>
#include <cmath>
#include <vector>

#include "core/quadric.hpp"
#include "core/reduce.hpp"

namespace mfa::cpu {
namespace {

// The two components that a step is taken between, counted over all classes, and how far the source's class leads.
struct Pair {
  std::size_t source, target;
  std::size_t source_class, target_class;
  double gap;
};

template <class T>
class LdGrad {
  // What the gradient is made of: a component's, times its share, negative for the class that is to be left.
  struct Term {
    std::size_t component;
    double share;
  };

 public:
  LdGrad(const Model& model, const Rows& rows, Groups groups, const double* log_priors, const LdGradOptions& options,
         const AttackOutput<T>& out, std::size_t max_rows)
      : model_(model),
        groups_(groups),
        log_priors_(log_priors),
        options_(options),
        scorer_(model, max_rows, options.screening),
        active_(rows, options.step, out, max_rows),
        row_(model.n_features()),
        gradient_(model.n_features()),
        scratch_(residual_scratch(1, model.n_factors())) {}

  BadRow attack(std::size_t first, std::size_t count, const std::int64_t* labels, const PairOutput& pairs) {
    active_.load(first, count);
    std::fill_n(pairs.source + first, count, -1);
    std::fill_n(pairs.target + first, count, -1);
    for (std::size_t step = 0; !active_.empty(); ++step) {
      if (!scorer_.load(active_.view(), 0, active_.size())) return active_.index(scorer_.bad_row());
      scorer_.score_groups(groups_, score_tolerance<double>);
      for (std::size_t i = active_.size(); i-- > 0;) {
        const std::size_t at = active_.index(i);
        const Pair pair = choose(i, static_cast<std::size_t>(labels[at]));
        const bool flipped = !leads(pair);
        if (flipped || step == options_.step.steps) {
          active_.finish(i, flipped);
          continue;
        }
        take_step(i, pair);
        pairs.source[at] = static_cast<std::int64_t>(pair.source) - groups_[pair.source_class];
        pairs.target[at] = static_cast<std::int64_t>(pair.target) - groups_[pair.target_class];
      }
    }
    return {};
  }

 private:
  struct ClassScore {
    double score;
    std::size_t best;  // over all classes
  };

  ClassScore class_score(std::size_t i, std::size_t g) const {
    const double* values = scorer_.values(i);
    core::LogSumExp sum;
    core::ArgMax best;
    for (std::int64_t k = groups_[g]; k < groups_[g + 1]; ++k) {
      sum.add(values[k]);
      best.add(values[k], static_cast<std::size_t>(k));
    }
    return {log_priors_[g] + (options_.rule == Rule::max ? best.max : sum.value()), best.index};
  }

  Pair choose(std::size_t i, std::size_t label) const {
    const ClassScore own = class_score(i, label);
    core::ArgMax rival;
    std::size_t rival_best = 0;
    for (std::size_t g = 0; g + 1 < groups_.size(); ++g) {
      if (g == label) continue;
      const ClassScore other = class_score(i, g);
      if (rival.empty || other.score > rival.max) rival_best = other.best;
      rival.add(other.score, g);
    }
    Pair pair{own.best, rival_best, label, rival.index, own.score - rival.max};
    if (options_.source) pair.source = static_cast<std::size_t>(groups_[label]) + *options_.source;
    if (options_.target) pair.target = static_cast<std::size_t>(groups_[rival.index]) + *options_.target;
    return pair;
  }

  // A tie goes to the class with the lower index, as in predict.
  static bool leads(const Pair& pair) {
    return pair.gap > 0.0 || (pair.gap == 0.0 && pair.source_class < pair.target_class);
  }

  void take_step(std::size_t i, const Pair& pair) {
    std::copy_n(active_.row(i), model_.n_features(), row_.data());
    std::fill(gradient_.begin(), gradient_.end(), 0.0);
    terms_.clear();
    if (options_.rule == Rule::max || is_fixed()) {
      terms_ = {{pair.source, -1.0}, {pair.target, 1.0}};
    } else {
      add_shares(i, pair.source_class, -1.0);
      add_shares(i, pair.target_class, 1.0);
    }
    for (const Term& term : terms_) add_gradient(i, term.component, term.share);

    double b = 0.0;
    for (const double g : gradient_) b += g * g;
    if (!(b > 0.0)) return;  // the two components are one and the same
    double c = 0.0;
    for (const Term& term : terms_) c += 0.5 * term.share * precision_form(term.component);
    active_.step(i, core::step_to_zero(step_gap(pair), b, c), gradient_.data(), std::sqrt(b));
  }

  bool is_fixed() const { return options_.source || options_.target; }

  // A class's log-sum-exp has the gradient of its components, each by its posterior probability.
  void add_shares(std::size_t i, std::size_t g, double sign) {
    const double* values = scorer_.values(i);
    core::LogSumExp sum;
    for (std::int64_t k = groups_[g]; k < groups_[g + 1]; ++k) sum.add(values[k]);
    constexpr double negligible = 1e-6;  // of the direction: it changes nothing that the next step would not mend
    for (std::int64_t k = groups_[g]; k < groups_[g + 1]; ++k) {
      const double share = std::exp(values[k] - sum.value());
      if (share > negligible) terms_.push_back({static_cast<std::size_t>(k), sign * share});
    }
  }

  // The gap that the step is to close: between the classes, or between the two components the caller holds fixed.
  double step_gap(const Pair& pair) {
    if (!is_fixed()) return pair.gap;
    return std::max(0.0, log_priors_[pair.source_class] + component_value(pair.source) -
                             log_priors_[pair.target_class] - component_value(pair.target));
  }

  double component_value(std::size_t k) {
    return core::log_density(model_.log_normalizers()[k], mahalanobis(row_.data(), model_.component(k), 2));
  }

  // The scorer has found the factors of row i where it looked at the component; a component that is held fixed may be
  // one that it left out.
  void add_gradient(std::size_t i, std::size_t k, double sign) {
    const ComponentView component = model_.component(k);
    if (is_fixed()) {
      mahalanobis(row_.data(), component, 2);
    } else {
      z_.resize(component.n_factors);
      scorer_.factors(i, k, z_.data());
    }
    model_.loops().add_precision_product(row_.data(), component, z_.data(), sign, gradient_.data());
  }

  // g^T S_k^-1 g
  double precision_form(std::size_t k) {
    ComponentView centered = model_.component(k);
    centered.mean = nullptr;
    return mahalanobis(gradient_.data(), centered, 1);
  }

  // q of a vector about a component; the factors are left in z_. One pass gives it to rounding of |x|^2_D, a second one
  // to rounding of q.
  double mahalanobis(const double* x, const ComponentView& component, int passes) {
    const std::size_t n = component.n_factors;
    z_.assign(n, 0.0);
    factor_gradient_.resize(n);
    double q = 0.0;
    for (int pass = 0; pass < passes; ++pass) {
      double at_z;
      model_.loops().f64.residual_form(&x, 1, component, z_.data(), scratch_.data(), &at_z, factor_gradient_.data());
      q = at_z - core::complete_residual_form(n, component.cholesky, z_.data(), factor_gradient_.data());
    }
    return q;
  }

  const Model& model_;
  Groups groups_;
  const double* log_priors_;
  const LdGradOptions& options_;
  BlockScorer<T> scorer_;
  ActiveRows<T> active_;
  std::vector<Term> terms_;
  std::vector<double> row_, gradient_;        // (d)
  std::vector<double> z_, factor_gradient_;   // (L)
  std::vector<double> scratch_;
};

}  // namespace

template <class T>
BadRow ld_grad(const Model& model, const Rows& rows, Groups groups, const double* log_priors,
               const std::int64_t* labels, const LdGradOptions& options, const AttackOutput<T>& out,
               const PairOutput& pairs, const Execution& execution) {
  return for_each_block(rows.n_rows, execution, [&](std::size_t height) {
    return [&, attack = LdGrad<T>(model, rows, groups, log_priors, options, out, height)](
               std::size_t first, std::size_t count) mutable { return attack.attack(first, count, labels, pairs); };
  });
}

template BadRow ld_grad(const Model&, const Rows&, Groups, const double*, const std::int64_t*, const LdGradOptions&,
                        const AttackOutput<float>&, const PairOutput&, const Execution&);
template BadRow ld_grad(const Model&, const Rows&, Groups, const double*, const std::int64_t*, const LdGradOptions&,
                        const AttackOutput<double>&, const PairOutput&, const Execution&);

}  // namespace mfa::cpu
