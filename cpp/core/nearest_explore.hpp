// What is tried where no certificate was found: the surface seen along rays from the sample, and the shortest way down from
// where they end (docs/theory.md, section 7). A part of nearest_search.hpp, which includes it.
#pragma once

#include <cmath>
#include <cstddef>
#include <cstdint>

#include "core/bracket.hpp"
#include "core/nearest_search.hpp"
#include "core/philox.hpp"

namespace mfa::core {
inline namespace MFA_ISA {

// Computes  a point of another class that is nearer than `farthest`, if rays and descents from their ends find one, where none is
//           nearer than `bound`.
// Shapes    as run.
// Cost      an image for every ray; for each of at most six times fifteen steps of descents two or three, and as many gradients
//           as surfaces are active.
// Numerics  what cancels in a frame's coordinates is left out; a point is kept only if a little further on is in another
//           class as well, and it is verified by whoever asked.
// Source    Hasofer & Lind 1974 for the descent; Hildreth 1957 for its quadratic problem.
template <class Frame>
MFA_HD void NearestSearch<Frame>::explore(std::size_t label, double farthest, double bound) {
  constexpr int most_descents = 6;
  rho_ = 0.5 * farthest * farthest;
  has_point_ = false;
  start(label);
  const std::size_t K = classes_.n_components();
  // In the memory of the dual, which is not needed here.
  team_.release(for_dual_);
  dual_of_ = none;
  ends_ = team_.template take<RayEnd>(K);
  team_.each(K, [&](std::size_t k) { ends_[k] = {infinity(), 0.0, 0, 0, 0, 0}; });
  choose_components();
  for (std::size_t ray = 0; ray < n_rays(); ++ray) {
    if (!aim(ray)) continue;
    frame_.image(trial_, image_);
    const double length = std::sqrt(image_.square);
    const bool known = is_known(trial_, image_.square);
    if (ray < K) team_.once([&] { posterior_[ray] = known ? 1.0 / length : 0.0; });
    if (!known) continue;
    look_along(label, ray, 1.0, bound);
    team_.each(K, [&](std::size_t k) { image_.linear[k] *= -1.0; });
    team_.each(frame_.size(), [&](std::size_t i) { trial_[i] *= -1.0; });
    look_along(label, ray, -1.0, bound);
  }
  for (int descent = 0; descent < most_descents; ++descent) {
    const ArgMax best = team_.best(K, [&](std::size_t k) {
      return ends_[k].visited ? -infinity() : -ends_[k].value;
    });
    if (best.max == -infinity()) return;
    const RayEnd end = ends_[best.index];
    team_.each(K, [&](std::size_t k) {
      if (ends_[k].ray == end.ray && ends_[k].at == end.at) ends_[k].visited = 1;
    });
    aim(end.ray);
    scale(end.at, trial_);
    descend(label, end.source, end.target, bound);
  }
}

// The components that score best at the sample get a ray each, and share in mixed ones. posterior_ is 0 for all others; for
// these the length of their gradient will be known, by which they are divided.
template <class Frame>
MFA_HD void NearestSearch<Frame>::choose_components() {
  constexpr std::size_t most_components = 32;
  const double* values = frame_.values();
  team_.each(classes_.n_components(), [&](std::size_t k) { posterior_[k] = 0.0; });
  for (std::size_t n = 0; n < most_components; ++n) {
    const ArgMax next = team_.best(classes_.n_components(), [&](std::size_t k) {
      return posterior_[k] != 0.0 ? -infinity() : values[k];
    });
    if (next.max == -infinity()) return;
    team_.once([&] { posterior_[next.index] = 1.0; });
  }
}

// Rays are components' gradients, random sums of these, and in few dimensions random sums of the coordinates, each divided by
// its length, which lead everywhere; in many dimensions no number of rays does.
template <class Frame>
MFA_HD std::size_t NearestSearch<Frame>::n_rays() const {
  constexpr std::size_t few_dimensions = 8;
  const std::size_t by_gradients = classes_.n_components() + gradient_rays;
  return frame_.n_features() <= few_dimensions ? by_gradients + coordinate_rays : by_gradients;
}

// The direction of a ray, into trial_; false where it is that of a component that was not chosen.
template <class Frame>
MFA_HD bool NearestSearch<Frame>::aim(std::size_t ray) {
  const std::size_t K = classes_.n_components();
  if (ray < K && posterior_[ray] == 0.0) return false;
  team_.may_end();
  const RoundKeys keys(0);
  const auto random = [&](std::size_t i) {
    const Words words = philox4x32({static_cast<std::uint32_t>(i), static_cast<std::uint32_t>(ray - K), 0, 0}, keys);
    return 2.0 * uniform52(words.w0, words.w1) - 1.0;
  };
  if (ray >= K + gradient_rays) {
    team_.each(frame_.size(), [&](std::size_t i) {
      const double square = frame_.coordinate_square(i);
      trial_[i] = square > 0.0 ? random(i) / std::sqrt(square) : 0.0;
    });
    return true;
  }
  team_.each(K, [&](std::size_t k) {
    if (ray < K) shares_[k] = k == ray ? 1.0 : 0.0;
    else shares_[k] = posterior_[k] * random(k);
  });
  team_.each(frame_.size(), [&](std::size_t i) { step_[i] = 0.0; });
  frame_.gradient(step_, shares_, trial_);
  return true;
}

// Whether coordinates do not cancel so far that what is left is rounding; `square` is that of the displacement they make.
template <class Frame>
MFA_HD bool NearestSearch<Frame>::is_known(const double* delta, double square) const {
  return square > 1e-8 * team_.sum(frame_.size(), 0.0, [&](std::size_t i) {
    return delta[i] * delta[i] * frame_.coordinate_square(i);
  });
}

// Keeps where the ray along trial_ ends if that is nearer than what is known, and notes it for its two components; rays
// that are a little longer are noted as well.
template <class Frame>
MFA_HD void NearestSearch<Frame>::look_along(std::size_t label, std::size_t ray, double sign, double bound) {
  const double square = image_.square;
  const Crossing crossing = cross(label, bound, 1.5 * std::sqrt(2.0 * rho_));
  if (!(crossing.at < infinity())) return;
  if (gap(label, crossing.at * (1.0 + a_little)) <= 0.0)
    keep_along(trial_, crossing.at, square, crossing.source, crossing.target);
  const RayEnd end{0.5 * crossing.at * crossing.at * square, sign * crossing.at, ray, crossing.source, crossing.target, 0};
  const std::size_t both[] = {end.source, end.target};
  for (const std::size_t k : both)
    team_.once([&] {
      if (end.value < ends_[k].value) ends_[k] = end;
    });
}

// Where the displacement of image_, prolonged, leads to another class for the first time, which it does not before `from`; in
// units of the displacement, and infinite unless it is before `to`.
template <class Frame>
MFA_HD auto NearestSearch<Frame>::cross(std::size_t label, double from, double to) const -> Crossing {
  const double length = std::sqrt(image_.square);
  // Where nothing is known, noise is what lengths are measured by.
  const double noise = std::sqrt(frame_.kappa());
  const double farthest = to < infinity() ? to : 1e3 * (from < noise ? noise : from);
  const Crossing end = sum_rule_ ? cross_sum(label, from / length, farthest / length) : cross_max(label, to / length);
  return end.at > 0.0 && end.at < to / length ? end : Crossing{infinity(), 0, 0};
}

// By how much the class is ahead at tau on the line of image_; not positive in another class.
template <class Frame>
MFA_HD double NearestSearch<Frame>::gap(std::size_t label, double tau) const {
  if (sum_rule_) return log_sum(label, tau) - best_rival(label, tau).max;
  return best_of(label, [&](std::size_t k) { return score(k, tau); }).max -
         team_.best(n_targets_, [&](std::size_t i) { return score(order_[i], tau); }).max;
}

// From one best component to the next: until one of the targets passes the one that is best, nothing is in another class.
template <class Frame>
MFA_HD auto NearestSearch<Frame>::cross_max(std::size_t label, double to) const -> Crossing {
  constexpr int most_hops = 50;
  ArgMax own = best_of(label, [&](std::size_t k) { return score(k, 0.0); });
  double tau = 0.0;
  for (int hop = 0; hop < most_hops; ++hop) {
    const ArgMax next = team_.best(n_targets_, [&](std::size_t i) { return -passes(own.index, order_[i], tau); });
    tau = -next.max;
    if (!(tau < to)) break;
    const std::size_t before = own.index;
    own = best_of(label, [&](std::size_t k) { return score(k, tau); });
    if (own.index == before) return {tau, own.index, order_[next.index]};
  }
  return {infinity(), 0, 0};
}

// By steps that grow as the distance does, and then to the root of the gap between the classes.
template <class Frame>
MFA_HD auto NearestSearch<Frame>::cross_sum(std::size_t label, double from, double to) const -> Crossing {
  constexpr int n_steps = 32;
  from = 1e-3 * to < from ? from : 1e-3 * to;
  double last = 0.0, above = gap(label, 0.0);
  for (int step = 0; step <= n_steps; ++step) {
    const double tau = from * std::pow(to / from, static_cast<double>(step) / n_steps);
    const double here = gap(label, tau);
    if (!(here <= 0.0)) {
      last = tau;
      above = here;
      continue;
    }
    const double at = bracketed_root(last, above, tau, here, [&](double t) { return gap(label, t); });
    const auto best = [&](std::size_t g) { return best_of(g, [&](std::size_t k) { return score(k, at); }).index; };
    return {at, best(label), best(best_rival(label, at).index)};
  }
  return {infinity(), 0, 0};
}

// From the point trial_, at which a ray ended, to the nearest point on the planes that the surfaces of its active pairs are
// there: the end of the ray through it is the next point if it is nearer, and else, where another component of the class is
// in the way, says of a surface that is to be active too.
template <class Frame>
MFA_HD void NearestSearch<Frame>::descend(std::size_t label, std::size_t source, std::size_t target, double bound) {
  constexpr int most_iterations = 15;
  double weights[most_active];
  std::size_t active[most_active] = {source};
  std::size_t n = 1;
  double square = frame_.dot(trial_, trial_), part = 1.0;
  for (int iteration = 0; iteration < most_iterations && part > 0.01; ++iteration) {
    if (!lay_planes(label, active, n, target, square, weights)) return;
    const auto nearest = [&](std::size_t i) {
      return -(weights[0] * gradient_[i] + (n > 1 ? weights[1] * trial_inward_[i] : 0.0) +
               (n > 2 ? weights[2] * from_[i] : 0.0));
    };
    team_.each(frame_.size(), [&](std::size_t i) { step_[i] = trial_[i] + part * (nearest(i) - trial_[i]); });
    frame_.image(step_, image_);
    if (!is_known(step_, image_.square)) return;
    const Crossing end = cross(label, bound, 2.0 * std::sqrt(square));
    const double reached_square = end.at * end.at * image_.square;
    bool is_new = !sum_rule_ && end.at < infinity();
    for (std::size_t a = 0; a < n; ++a) is_new = is_new && active[a] != end.source;
    if (reached_square < square * (1.0 - 1e-9)) {
      team_.each(frame_.size(), [&](std::size_t i) { trial_[i] = end.at * step_[i]; });
      square = reached_square;
      part = 2.0 * part < 1.0 ? 2.0 * part : 1.0;
      if (end.target != target || (is_new && n == most_active)) {
        n = 0;
        is_new = true;
      }
      target = end.target;
      if (is_new) active[n++] = end.source;
    } else if (is_new && end.target == target && n < most_active) {
      active[n++] = end.source;
    } else {
      part *= 0.5;
    }
  }
}

// The planes that the f_s of a target (with the sum rule, the gap between the classes) are where they are linear as at
// trial_, and the nearest point on or behind all of them: minus the sum of their gradients, which lie in gradient_,
// trial_inward_ and from_, by `weights`. Keeps trial_ if nothing nearer is known, and what is a little behind all planes is in
// another class. False where a gradient is lost in rounding.
template <class Frame>
MFA_HD bool NearestSearch<Frame>::lay_planes(std::size_t label, const std::size_t* active, std::size_t n,
                                             std::size_t target, double square, double* weights) {
  double* const slopes[most_active] = {gradient_, trial_inward_, from_};
  double products[most_active * most_active], offsets[most_active], behind[most_active];
  team_.may_end();
  frame_.image(trial_, image_);
  for (std::size_t a = 0; a < n; ++a) {
    double f;
    if (sum_rule_) {
      f = shares(label, shares_);
    } else {
      f = score(active[a], 1.0) - score(target, 1.0);
      team_.each(classes_.n_components(), [&](std::size_t k) {
        shares_[k] = k == active[a] ? 1.0 : k == target ? -1.0 : 0.0;
      });
    }
    frame_.gradient(trial_, shares_, slopes[a]);
    offsets[a] = f - frame_.dot(slopes[a], trial_);
    for (std::size_t b = 0; b <= a; ++b)
      products[a * n + b] = products[b * n + a] = frame_.dot(slopes[b], slopes[a]);
    if (!is_known(slopes[a], products[a * n + a])) return false;
  }
  // The dual, one weight after the other (Hildreth).
  for (std::size_t a = 0; a < n; ++a) weights[a] = 0.0;
  for (int sweep = 0; sweep < 100; ++sweep)
    for (std::size_t a = 0; a < n; ++a) {
      double left = offsets[a];
      for (std::size_t b = 0; b < n; ++b) left -= weights[b] * products[a * n + b];
      const double wanted = weights[a] + left / products[a * n + a];
      weights[a] = 0.0 < wanted ? wanted : 0.0;
    }
  if (!(0.5 * square < rho_)) return true;
  for (std::size_t a = 0; a < n; ++a) behind[a] = std::sqrt(products[a * n + a]);
  solve_semidefinite(n, products, behind);
  const double length = std::sqrt(square);
  const auto inward = [&](std::size_t i) {
    double sum = 0.0;
    for (std::size_t a = 0; a < n; ++a) sum -= behind[a] * slopes[a][i];
    return sum;
  };
  team_.each(frame_.size(), [&](std::size_t i) { step_[i] = trial_[i] + a_little * length * inward(i); });
  frame_.image(step_, image_);
  if (!(gap(label, 1.0) <= 0.0)) return true;
  team_.each(frame_.size(), [&](std::size_t i) { step_[i] = inward(i); });
  keep(trial_, step_, active[n - 1], target, square);
  return true;
}

}  // namespace MFA_ISA
}  // namespace mfa::core
