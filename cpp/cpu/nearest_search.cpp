#include "cpu/nearest_search.hpp"

#include <algorithm>
#include <cmath>
#include <limits>

#include "core/reduce.hpp"

namespace mfa::cpu {
namespace {

constexpr double infinity = std::numeric_limits<double>::infinity();
// Components that one target is made to beat at once, at most; three have been seen to be enough.
constexpr std::size_t most_against = 8;
// A surface counts as reached at this part of the gap that there was at first.
constexpr double reached = 1e-9;

}  // namespace

NearestSearch::NearestSearch(std::unique_ptr<Frame> frame, Groups groups, Rule rule)
    : frame_(std::move(frame)), groups_(groups), rule_(rule) {}

void NearestSearch::run(const double* x, const double* product, std::size_t label, double known) {
  frame_->load(x, product);
  rho_ = 0.5 * known * known;
  has_point_ = false;
  n_problems_ = 0;
  start(label);
  if (targets_.empty()) {  // nothing is ever put in another class
    lower_bound_ = infinity;
    return;
  }
  close_gap(label);
  double least = infinity;
  for (const Target& target : targets_)
    if (!(target.value >= least)) least = target.value;  // not a number: nothing is known
  if (rule_ == Rule::sum) {
    // What has been found so far lies on the surface of the maximum rule.
    rho_ = 0.5 * known * known;
    solve_sum(label);
    least = tighten(label);
  }
  lower_bound_ = std::sqrt(2.0 * std::max(0.0, least));
}

void NearestSearch::start(std::size_t label) {
  const double* values = frame_->values();
  core::ArgMax own, other;
  for (std::size_t k = begin(label); k < begin(label + 1); ++k) own.add(values[k], k);
  best_own_ = own.index;
  targets_.clear();
  if (own.max == -infinity) return;
  const std::size_t K = begin(groups_.size() - 1);
  for (std::size_t t = 0; t < K; ++t) {
    if ((t >= begin(label) && t < begin(label + 1)) || values[t] == -infinity) continue;
    other.add(values[t], t);
    const PairBound bound = frame_->pair_bound(best_own_, t);
    targets_.push_back({t, bound.value, bound.multiplier, Target::State::bounded, {}, {}, nullptr, false, false});
  }
  scale_ = targets_.empty() ? 0.0 : std::abs(own.max - other.max);
}

// Of those that are not done with; null if there is none.
NearestSearch::Target* NearestSearch::nearest_target() {
  Target* nearest = nullptr;
  for (Target& target : targets_)
    if (target.state != Target::State::done && (nearest == nullptr || target.value < nearest->value)) nearest = &target;
  return nearest;
}

// The target that may be nearest is looked at until its point is an adversarial example, or nothing is left that could be
// nearer than the one that is known: theory.md, section 7. One whose bound rises no more is left as it is; the others may
// still hold a nearer point.
void NearestSearch::close_gap(std::size_t label) {
  while (Target* next = nearest_target()) {
    Target& target = *next;
    if (!(target.value < rho_)) return;
    if (target.state == Target::State::bounded) {
      if (target.value < 0.0) target.state = Target::State::done;  // with the sum rule: t alone is ahead of s
      else solve_pair(target);
      continue;
    }
    locate(target);
    frame_->image(trial_, image_);
    std::size_t worst = best_own_;
    if (beats_all(target.component, label, worst)) {
      keep(trial_, trial_inward_, worst, target.component, image_.square);
      target.state = Target::State::done;
      continue;
    }
    go_on_along(trial_, label);
    bool risen = false;
    if (std::find(target.against.begin(), target.against.end(), worst) == target.against.end() &&
        target.against.size() < most_against) {
      target.against.push_back(worst);
      target.lam.push_back(0.0);
      const double before = target.value;
      solve_set(target, rho_);
      target.state = Target::State::set;
      risen = target.value > before * (1.0 + 1e-12);
    }
    if (!risen) {
      look_around(target, label);
      target.state = Target::State::done;
    }
  }
}

void NearestSearch::solve_pair(Target& target) {
  const PairBound bound = frame_->pair(best_own_, target.component, rho_);
  ++n_problems_;
  target.state = Target::State::pair;
  target.against = {best_own_};
  target.lam = {bound.multiplier};
  target.attained = bound.attained;
  if (bound.value > target.value) {
    target.value = bound.value;
    target.multiplier = bound.multiplier;
  }
}

// The target's point and the direction to go on in, into trial_ and trial_inward_.
void NearestSearch::locate(Target& target) {
  if (target.state == Target::State::pair && target.attained) {
    frame_->pair_point(best_own_, target.component, target.lam[0], trial_);
    const double norm = std::sqrt(frame_->dot(trial_, trial_));
    trial_inward_ = trial_;
    for (double& value : trial_inward_) value /= norm;
    return;
  }
  if (target.dual == nullptr) solve_set(target, infinity);
  std::vector<double> local, direction;
  target.dual->point(local);
  target.dual->inward(local, direction);
  target.dual->to_frame(local, trial_);
  target.dual->to_frame(direction, trial_inward_);
}

void NearestSearch::solve_set(Target& target, double enough) {
  target.dual = frame_->dual(target.against, target.component);
  target.dual->maximize(target.lam, enough);
  ++n_problems_;
  target.lam.assign(target.dual->lam().begin(), target.dual->lam().end());
  if (target.dual->value() > target.value) {
    target.value = target.dual->value();
    target.multiplier = target.dual->multiplier();
  }
}

// Where the dual falls short, its point is not an adversarial example. One is sought where the surfaces of all components
// that the target is to beat meet, and those of the last one with any other.
void NearestSearch::look_around(const Target& target, std::size_t label) {
  const auto look = [&](std::span<const std::size_t> against) {
    const std::unique_ptr<FrameDual> dual = frame_->dual(against, target.component);
    const std::vector<double> start(against.size(), 0.0);
    dual->maximize(start, infinity);
    std::vector<double> local, direction;
    dual->point(local);
    if (!dual->settle(local)) return;
    dual->to_frame(local, trial_);
    frame_->image(trial_, image_);
    std::size_t worst;
    if (!(0.5 * image_.square < rho_) || !beats_all(target.component, label, worst)) return;
    dual->inward(local, direction);
    dual->to_frame(direction, trial_inward_);
    keep(trial_, trial_inward_, worst, target.component, image_.square);
  };
  look(target.against);
  for (std::size_t a = 0; a + 1 < target.against.size() && target.against.size() > 2; ++a) {
    const std::size_t two[] = {target.against[a], target.against.back()};
    look(two);
  }
}

// Whether t beats every component of the class where image_ leads, and the one that it comes last of.
bool NearestSearch::beats_all(std::size_t t, std::size_t label, std::size_t& worst) const {
  core::ArgMax own;
  for (std::size_t k = begin(label); k < begin(label + 1); ++k) own.add(score(k, 1.0), k);
  worst = own.index;
  return own.max - score(t, 1.0) <= reached * scale_;
}

void NearestSearch::keep(const Point& delta, const Point& inward, std::size_t source, std::size_t target,
                         double square) {
  delta_ = delta;
  inward_ = inward;
  source_ = source;
  target_ = target;
  rho_ = 0.5 * square;
  has_point_ = true;
}

// Keeps the first point beyond image_'s, on the same line, at which another class has the best component.
void NearestSearch::go_on_along(const Point& delta, std::size_t label) {
  double tau = 1.0;
  for (int step = 0; step < 20; ++step) {
    core::ArgMax own, other;
    for (const Target& target : targets_) other.add(score(target.component, tau), target.component);
    for (std::size_t k = begin(label); k < begin(label + 1); ++k) own.add(score(k, tau), k);
    const double gap = own.max - other.max;
    if (gap <= reached * scale_) {
      if (!(0.5 * tau * tau * image_.square < rho_)) return;
      const double norm = std::sqrt(image_.square);
      step_ = delta;
      for (double& value : step_) value *= tau;
      gradient_ = delta;
      for (double& value : gradient_) value /= norm;
      keep(step_, gradient_, own.index, other.index, tau * tau * image_.square);
      return;
    }
    // The gap between these two closes at the next root of c u^2 - b u + gap.
    const double c = image_.quadratic[own.index] - image_.quadratic[other.index];
    const double b = -(image_.linear[own.index] - image_.linear[other.index] + 2.0 * tau * c);
    const double root = b * b - 4.0 * c * gap;
    if (!(root >= 0.0)) return;
    const double denominator = b + std::sqrt(root);
    if (!(denominator > 0.0)) return;
    tau += 2.0 * gap / denominator;
    if (0.5 * tau * tau * image_.square >= rho_) return;
  }
}

}  // namespace mfa::cpu
