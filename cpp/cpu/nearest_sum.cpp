// The sum rule: a class's score is the log-sum-exp of its components.
#include <algorithm>
#include <cmath>
#include <limits>

#include "core/kernel_machine.hpp"
#include "core/reduce.hpp"
#include "core/screening.hpp"
#include "core/trust_region.hpp"
#include "cpu/nearest_search.hpp"

namespace mfa::cpu {
namespace {

constexpr double infinity = std::numeric_limits<double>::infinity();

}  // namespace

// Posterior probabilities of the components within the sample's class, and, negative, within its best rival, where
// image_ leads; returns kappa times the gap between the two.
double NearestSearch::shares(std::size_t label, std::vector<double>& out) const {
  const double kappa = frame_->kappa();
  const auto log_sum = [&](std::size_t g) {
    core::LogSumExp sum;
    for (std::size_t k = begin(g); k < begin(g + 1); ++k) sum.add(score(k, 1.0) / kappa);
    return sum.value();
  };
  core::ArgMax rival;
  for (std::size_t g = 0; g + 1 < groups_.size(); ++g)
    if (g != label) rival.add(log_sum(g), g);
  const double own = log_sum(label);
  out.assign(begin(groups_.size() - 1), 0.0);
  constexpr double negligible = 1e-14;
  const auto fill = [&](std::size_t g, double total, double sign) {
    for (std::size_t k = begin(g); k < begin(g + 1); ++k) {
      const double share = std::exp(score(k, 1.0) / kappa - total);
      if (share > negligible) out[k] = sign * share;
    }
  };
  fill(label, own, 1.0);
  fill(rival.index, rival.max, -1.0);
  return kappa * (own - rival.max);
}

// Where several components of the class are equally good, the surface of the sum rule lies hardly beyond that of the maximum
// rule, but turns sharply; going on inward reaches it.
void NearestSearch::reach_sum(std::size_t label) {
  const auto gap = [&](double beyond) {
    step_ = delta_;
    for (std::size_t i = 0; i < step_.size(); ++i) step_[i] += beyond * inward_[i];
    frame_->image(step_, image_);
    return shares(label, shares_);
  };
  const double length = std::sqrt(frame_->dot(delta_, delta_));
  const double before = gap(0.0);
  double beyond = 0.0;
  if (before > 0.0) {
    double low = 0.0, above = before, high = 1e-9 * length, below;
    while ((below = gap(high)) > 0.0 && high < length) {
      low = high;
      above = below;
      high *= 8.0;
    }
    if (below > 0.0) return;
    beyond = core::bracketed_root(low, above, high, below, gap);
    gap(beyond);
  }
  if (!(0.5 * image_.square < rho_)) return;
  keep(Point(step_), Point(inward_), source_, target_, image_.square);
}

// The nearest point under the sum rule is sought from that under the maximum rule; where it is not proved to be the nearest,
// from the points of other targets as well.
void NearestSearch::solve_sum(std::size_t label) {
  if (has_point_) {
    has_point_ = false;
    reach_sum(label);
    trial_ = delta_;
  } else {
    trial_.assign(frame_->size(), 0.0);
  }
  polish(label);
  if (has_point_ && sum_bound() >= rho_ * (1.0 - 1e-7)) return;
  constexpr int most_starts = 8;
  for (int start = 0; start < most_starts; ++start) {
    Target* next = nullptr;
    for (Target& target : targets_)
      if (!target.visited && target.value < rho_ && (next == nullptr || target.value < next->value)) next = &target;
    if (next == nullptr) return;
    next->visited = true;
    if (next->state == Target::State::bounded && next->value >= 0.0) solve_pair(*next);
    if (next->against.empty()) {
      const std::vector<double> one{0.0};
      next->against = {best_own_};
      next->lam = one;
    }
    locate(*next);
    polish(label);
  }
}

// From trial_, by the iteration of Hasofer and Lind, delta <- g (g.delta - f) / |g|^2, with a line search: (35).
void NearestSearch::polish(std::size_t label) {
  frame_->image(trial_, image_);
  double f = shares(label, shares_);
  double square = image_.square;
  const double first = std::max(std::abs(f), scale_);
  for (int iteration = 0; iteration < 60; ++iteration) {
    frame_->gradient(trial_, shares_, gradient_);
    const double norm2 = frame_->dot(gradient_, gradient_);
    if (!(norm2 > 0.0)) return;
    const double norm = std::sqrt(norm2);
    const auto own = static_cast<std::size_t>(std::max_element(shares_.begin(), shares_.end()) - shares_.begin());
    const auto other = static_cast<std::size_t>(std::min_element(shares_.begin(), shares_.end()) - shares_.begin());
    if (f <= 1e-11 * first && 0.5 * square < rho_) {
      trial_inward_ = gradient_;
      for (double& value : trial_inward_) value /= -norm;
      keep(trial_, trial_inward_, own, other, square);
    }
    const double along = frame_->dot(gradient_, trial_);
    step_ = gradient_;
    for (std::size_t i = 0; i < step_.size(); ++i) step_[i] = step_[i] * (along - f) / norm2 - trial_[i];
    const double length = std::sqrt(std::max(0.0, frame_->dot(step_, step_)));
    if (length <= 1e-10 * std::sqrt(square) && std::abs(f) <= 1e-12 * first) return;
    // A merit function that the step lowers: |delta|^2 / 2 + c |f| with c above the multiplier.
    const double c = 2.0 * std::sqrt(square) / norm + length / norm;
    const double before = 0.5 * square + c * std::abs(f);
    const Point from = trial_;
    bool moved = false;
    for (double part = 1.0; part > 1e-6 && !moved; part *= 0.5) {
      for (std::size_t i = 0; i < from.size(); ++i) trial_[i] = from[i] + part * step_[i];
      frame_->image(trial_, image_);
      f = shares(label, shares_);
      square = image_.square;
      moved = 0.5 * square + c * std::abs(f) < before;
    }
    if (!moved) return;
  }
}

// (34) of the classes that are not the sample's: none of them is reached before it.
double NearestSearch::sum_bound() const {
  double least = infinity;
  std::vector<double> values, multipliers;
  std::size_t next = 0;
  for (std::size_t g = 0; g + 1 < groups_.size(); ++g) {
    values.clear();
    multipliers.clear();
    for (; next < targets_.size() && targets_[next].component < begin(g + 1); ++next) {
      values.push_back(targets_[next].value);
      multipliers.push_back(targets_[next].multiplier);
    }
    least = std::min(least, core::sum_rule_bound(values.size(), values.data(), multipliers.data(), frame_->kappa()));
  }
  return least;
}

// Of the targets that (34) is made of, the duals are taken where they say most of that sum, and against all components of the
// class at once, by their posterior probabilities: (33). At which rho they say most decides how far the bound rises; it is
// sought between the bound and the distance that is known.
double NearestSearch::tighten(std::size_t label) {
  double low = sum_bound();
  double high = rho_;
  if (!(high < infinity)) return low;
  double rho = high;
  for (int round = 0; round < 8 && low < high * (1.0 - 1e-7); ++round) {
    for (Target& target : targets_)
      if (target.value < infinity && (target.value - rho) / (frame_->kappa() * target.multiplier) < core::negligible_nats)
        take_shares(target, label, rho);
    const double bound = sum_bound();
    if (bound < rho * (1.0 - 1e-7)) high = rho;
    low = std::max(low, bound);
    const double middle = 0.5 * (std::sqrt(std::max(0.0, low)) + std::sqrt(high));
    rho = middle * middle;
  }
  return low;
}

// The dual of one target that says most about |delta|^2 / 2 = rho. Its shares are the posterior probabilities where its own
// point leads; at first, at that distance on the way to the point that is known.
void NearestSearch::take_shares(Target& target, std::size_t label, double rho) {
  const double kappa = frame_->kappa();
  std::vector<std::size_t> against;
  std::vector<double> alpha, local, posterior;
  trial_.assign(frame_->size(), 0.0);
  if (has_point_) {
    const double part = std::sqrt(2.0 * rho / frame_->dot(delta_, delta_));
    for (std::size_t i = 0; i < trial_.size(); ++i) trial_[i] = part * delta_[i];
  }
  for (int pass = 0; pass < 2; ++pass) {
    frame_->image(trial_, image_);
    shares(label, posterior);
    against.clear();
    alpha.clear();
    double sum = 0.0, entropy = 0.0;
    for (std::size_t k = begin(label); k < begin(label + 1); ++k)
      if (posterior[k] > 1e-6) {
        against.push_back(k);
        alpha.push_back(posterior[k]);
        sum += posterior[k];
      }
    for (double& share : alpha) {
      share /= sum;
      entropy -= share * std::log(share);
    }
    const std::unique_ptr<FrameDual> dual = frame_->dual(against, target.component);
    dual->maximize_share(alpha, rho);
    ++n_problems_;
    if (!(dual->multiplier() > 0.0)) return;
    const double value = dual->value() + dual->multiplier() * kappa * entropy;
    if ((value - rho) / dual->multiplier() > (target.value - rho) / target.multiplier) {
      target.value = value;
      target.multiplier = dual->multiplier();
    }
    dual->point(local);
    dual->to_frame(local, trial_);
  }
}

}  // namespace mfa::cpu
