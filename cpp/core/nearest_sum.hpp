// The sum rule: a class's score is the log-sum-exp of its components. A part of nearest_search.hpp, which includes it.
#pragma once

#include <cmath>
#include <cstddef>

#include "core/bracket.hpp"
#include "core/nearest_search.hpp"
#include "core/rule.hpp"

namespace mfa::core {
inline namespace MFA_ISA {

// Of a class's scores, over kappa, at tau on the line of image_.
template <class Frame>
MFA_HD double NearestSearch<Frame>::log_sum(std::size_t g, double tau) const {
  const double kappa = frame_.kappa();
  const std::size_t begin = classes_.begin(g);
  return team_.log_sum(classes_.size(g), [&](std::size_t i) { return score(begin + i, tau) / kappa; });
}

// The best of the other classes, there.
template <class Frame>
MFA_HD ArgMax NearestSearch<Frame>::best_rival(std::size_t label, double tau) const {
  ArgMax rival;
  for (std::size_t g = 0; g < classes_.count; ++g)
    if (g != label) rival.add(log_sum(g, tau), g);
  return rival;
}

// Posterior probabilities of the components within the sample's class, and, negative, within its best rival, where
// image_ leads; returns kappa times the gap between the two.
template <class Frame>
MFA_HD double NearestSearch<Frame>::shares(std::size_t label, double* out) {
  const double kappa = frame_.kappa();
  const ArgMax rival = best_rival(label, 1.0);
  const double own = log_sum(label, 1.0);
  constexpr double negligible = 1e-14;
  team_.each(classes_.n_components(), [&](std::size_t k) { out[k] = 0.0; });
  const auto fill = [&](std::size_t g, double total, double sign) {
    const std::size_t begin = classes_.begin(g);
    team_.each(classes_.size(g), [&](std::size_t i) {
      const double share = std::exp(score(begin + i, 1.0) / kappa - total);
      if (share > negligible) out[begin + i] = sign * share;
    });
  };
  fill(label, own, 1.0);
  fill(rival.index, rival.max, -1.0);
  return kappa * (own - rival.max);
}

// Where several components of the class are equally good, the surface of the sum rule lies hardly beyond that of the maximum
// rule, but turns sharply; going on inward reaches it.
template <class Frame>
MFA_HD void NearestSearch<Frame>::reach_sum(std::size_t label) {
  const auto gap = [&](double beyond) {
    team_.each(frame_.size(), [&](std::size_t i) { step_[i] = delta_[i] + beyond * inward_[i]; });
    frame_.image(step_, image_);
    return shares(label, shares_);
  };
  const double length = std::sqrt(frame_.dot(delta_, delta_));
  const double before = gap(0.0);
  if (before > 0.0) {
    double low = 0.0, above = before, high = 1e-9 * length, below;
    while ((below = gap(high)) > 0.0 && high < length) {
      low = high;
      above = below;
      high *= 8.0;
    }
    if (below > 0.0) return;
    gap(bracketed_root(low, above, high, below, gap));
  }
  if (0.5 * image_.square < rho_) keep(step_, inward_, source_, target_, image_.square);
}

// The nearest point under the sum rule is sought from that under the maximum rule; where it is not proved to be the nearest,
// from the points of other targets as well.
template <class Frame>
MFA_HD void NearestSearch<Frame>::solve_sum(std::size_t label) {
  if (has_point_) {
    has_point_ = false;
    reach_sum(label);
    copy(delta_, trial_);
  } else {
    team_.each(frame_.size(), [&](std::size_t i) { trial_[i] = 0.0; });
  }
  polish(label);
  if (has_point_ && sum_bound() >= rho_ * (1.0 - 1e-7)) return;
  constexpr int most_starts = 8;
  for (int start = 0; start < most_starts; ++start) {
    const std::size_t next = nearest_target([](const NearestTarget& t) { return t.visited != 0; });
    if (next == none) return;
    NearestTarget target = targets_[next];
    target.visited = 1;
    if (target.state == State::bounded && target.value >= 0.0) solve_pair(next, target);
    if (target.n == 0) {
      target.n = 1;
      target.against[0] = best_own_;
      target.lam[0] = 0.0;
    }
    locate(next, target);
    store(next, target);
    polish(label);
  }
}

// From trial_, by the iteration of Hasofer and Lind, delta <- g (g.delta - f) / |g|^2, with a line search: (35).
template <class Frame>
MFA_HD void NearestSearch<Frame>::polish(std::size_t label) {
  const std::size_t n = frame_.size();
  const std::size_t K = classes_.n_components();
  frame_.image(trial_, image_);
  double f = shares(label, shares_);
  double square = image_.square;
  const double first = std::abs(f) < scale_ ? scale_ : std::abs(f);
  for (int iteration = 0; iteration < 60; ++iteration) {
    frame_.gradient(trial_, shares_, gradient_);
    const double norm2 = frame_.dot(gradient_, gradient_);
    if (!(norm2 > 0.0)) return;
    const double norm = std::sqrt(norm2);
    const std::size_t own = team_.best(K, [&](std::size_t k) { return shares_[k]; }).index;
    const std::size_t other = team_.best(K, [&](std::size_t k) { return -shares_[k]; }).index;
    if (f <= 1e-11 * first && 0.5 * square < rho_) {
      team_.each(n, [&](std::size_t i) { trial_inward_[i] = gradient_[i] / -norm; });
      keep(trial_, trial_inward_, own, other, square);
    }
    const double along = frame_.dot(gradient_, trial_);
    team_.each(n, [&](std::size_t i) { step_[i] = gradient_[i] * (along - f) / norm2 - trial_[i]; });
    const double step2 = frame_.dot(step_, step_);
    const double length = std::sqrt(0.0 < step2 ? step2 : 0.0);
    if (length <= 1e-10 * std::sqrt(square) && std::abs(f) <= 1e-12 * first) return;
    // A merit function that the step lowers: |delta|^2 / 2 + c |f| with c above the multiplier.
    const double c = 2.0 * std::sqrt(square) / norm + length / norm;
    const double before = 0.5 * square + c * std::abs(f);
    copy(trial_, from_);
    bool moved = false;
    for (double part = 1.0; part > 1e-6 && !moved; part *= 0.5) {
      team_.each(n, [&](std::size_t i) { trial_[i] = from_[i] + part * step_[i]; });
      frame_.image(trial_, image_);
      f = shares(label, shares_);
      square = image_.square;
      moved = 0.5 * square + c * std::abs(f) < before;
    }
    if (!moved) return;
  }
}

// (34) of the classes that are not the sample's: none of them is reached before it.
template <class Frame>
MFA_HD double NearestSearch<Frame>::sum_bound() const {
  double least = infinity();
  std::size_t next = 0;
  for (std::size_t g = 0; g < classes_.count; ++g) {
    const std::size_t first = next;
    while (next < n_targets_ && order_[next] < classes_.begin(g + 1)) ++next;
    const double bound = sum_rule_bound(
        team_, next - first, [&](std::size_t i) { return targets_[first + i].value; },
        [&](std::size_t i) { return targets_[first + i].multiplier; }, frame_.kappa());
    least = bound < least ? bound : least;
  }
  return least;
}

// Of the targets that (34) is made of, the duals are taken where they say most of that sum, and against all components of the
// class at once, by their posterior probabilities: (33). At which rho they say most decides how far the bound rises; it is
// sought between the bound and the distance that is known.
template <class Frame>
MFA_HD double NearestSearch<Frame>::tighten(std::size_t label) {
  double low = sum_bound();
  double high = rho_;
  if (!(high < infinity())) return low;
  double rho = high;
  for (int round = 0; round < 8 && low < high * (1.0 - 1e-7); ++round) {
    for (std::size_t i = 0; i < n_targets_; ++i) {
      NearestTarget target = targets_[i];
      if (!(target.value < infinity() &&
            (target.value - rho) / (frame_.kappa() * target.multiplier) < negligible_nats))
        continue;
      take_shares(target, label, rho);
      store(i, target);
    }
    const double bound = sum_bound();
    if (bound < rho * (1.0 - 1e-7)) high = rho;
    low = low < bound ? bound : low;
    const double middle = 0.5 * (std::sqrt(0.0 < low ? low : 0.0) + std::sqrt(high));
    rho = middle * middle;
  }
  return low;
}

// The components of the class that count for its sum by posterior_, into share_of_; the most probable ones where there is
// no room for all, which lets the bound stay a little lower.
template <class Frame>
MFA_HD std::size_t NearestSearch<Frame>::list_shares(std::size_t label) {
  const std::size_t begin = classes_.begin(label);
  const std::size_t size = classes_.size(label);
  const auto counts = [&](std::size_t i) { return posterior_[begin + i] > 1e-6; };
  std::size_t n = team_.list(size, counts, most_shares_, share_of_);
  if (n < most_shares_ || team_.sum(size, 0.0, [&](std::size_t i) { return counts(i) ? 1.0 : 0.0; }) <=
                              static_cast<double>(n)) {
    team_.each(n, [&](std::size_t a) {
      share_of_[a] += begin;
      alpha_[a] = posterior_[share_of_[a]];
    });
    return n;
  }
  for (n = 0; n < most_shares_; ++n) {
    const ArgMax next = best_of(label, [&](std::size_t k) { return posterior_[k]; });
    team_.once([&] {
      share_of_[n] = next.index;
      alpha_[n] = next.max;
      posterior_[next.index] = 0.0;
    });
  }
  return n;
}

// The dual of one target that says most about |delta|^2 / 2 = rho. Its shares are the posterior probabilities where its own
// point leads; at first, at that distance on the way to the point that is known.
template <class Frame>
MFA_HD void NearestSearch<Frame>::take_shares(NearestTarget& target, std::size_t label, double rho) {
  const double kappa = frame_.kappa();
  const double part = has_point_ ? std::sqrt(2.0 * rho / frame_.dot(delta_, delta_)) : 0.0;
  team_.each(frame_.size(), [&](std::size_t i) { trial_[i] = has_point_ ? part * delta_[i] : 0.0; });
  for (int pass = 0; pass < 2; ++pass) {
    frame_.image(trial_, image_);
    shares(label, posterior_);
    const std::size_t n = list_shares(label);
    const double sum = team_.sum(n, 0.0, [&](std::size_t a) { return alpha_[a]; });
    team_.each(n, [&](std::size_t a) { alpha_[a] /= sum; });
    const double entropy = team_.sum(n, 0.0, [&](std::size_t a) { return -(alpha_[a] * std::log(alpha_[a])); });
    make_dual(share_of_, n, target.component);
    dual_.maximize_share(alpha_, rho);
    ++n_problems_;
    if (!(dual_.multiplier() > 0.0)) return;
    const double value = dual_.value() + dual_.multiplier() * kappa * entropy;
    if ((value - rho) / dual_.multiplier() > (target.value - rho) / target.multiplier) {
      target.value = value;
      target.multiplier = dual_.multiplier();
    }
    const auto mark = team_.mark();
    double* local = team_.template take<double>(dual_.size());
    dual_.point(local);
    dual_.to_frame(local, trial_);
    team_.release(mark);
  }
}

}  // namespace MFA_ISA
}  // namespace mfa::core
