// The nearest adversarial example of one sample, and how near one can be at most (docs/theory.md, section 7).
#pragma once

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <limits>

#include "core/nearest_dual.hpp"
#include "core/quadric.hpp"
#include "core/reduce.hpp"
#include "core/trust_region.hpp"
#include "core/views.hpp"

namespace mfa::core {
inline namespace MFA_ISA {

// A component of another class, and what is known of where it beats all of the sample's own.
struct NearestTarget {
  enum class State : std::int64_t { bounded, pair, set, done };

  std::size_t component;
  double value;       // |delta|^2 / 2 is at least this; with the sum rule, see sum_rule_bound
  double multiplier;  // the sum of the multipliers it comes from
  State state;
  std::size_t n;  // components that it is made to beat
  std::size_t against[most_against];
  double lam[most_against];
  std::int64_t attained;  // whether the frame knows the point of its pair
  std::int64_t solved;    // whether the dual of `against` is at its largest at lam
  std::int64_t visited;   // by solve_sum
};

// Points are looked at by the scores that `predict` goes by: one that is not yet on the other side goes so many times as far
// beyond the surface as before, at most so often; what exploring finds, from which a ray leads straight on, less often.
inline constexpr double farther_beyond = 8.0;
inline constexpr int most_attempts = 9;
inline constexpr int most_explored_attempts = 3;

// How far that is at first, for a point `length` away from x; `epsilon` is that of the type in which it is returned.
MFA_HD inline double first_beyond(double length, double x_norm, double epsilon) {
  const double rounding = epsilon * rounded_size(length, x_norm) / 16.0;
  return rounding < 1e-10 * length ? 1e-10 * length : rounding;
}

// Whether a point at the distance l2 is the nearest, to rtol and to what rounding moves it, by a lower bound on the distance.
MFA_HD inline bool is_certified(double l2, double lower_bound, double rtol, double x_norm, double epsilon) {
  return l2 - lower_bound <= rtol * l2 + 2.0 * epsilon * rounded_size(l2, x_norm);
}

// Whether to explore: one that is nearer may be so by a ten-thousandth.
MFA_HD inline bool is_worth_exploring(bool certified, double l2, double lower_bound) {
  return !certified && lower_bound < (1.0 - 1e-4) * l2;
}

// Frame: a model as the sample sees it, gram_frame.hpp or diagonal_frame.hpp, that has been loaded with it. A frame that says
// knows_pairs has
//   PairBound pair(s, t, enough, attained)   (27): the maximum of the dual, or a value that is `enough`
//   void pair_point(s, t, multiplier, delta) the point of a multiplier that `pair` attained
// and for others pairs are sets of one.
template <class Frame>
class NearestSearch {
  using Team = typename Frame::Team;
  using State = NearestTarget::State;

 public:
  MFA_HD NearestSearch(Frame& frame, const GroupView& classes, std::size_t most_in_class, bool sum_rule)
      : frame_(frame),
        team_(frame.team()),
        classes_(classes),
        most_shares_(shares_at_once(most_in_class)),
        sum_rule_(sum_rule),
        dual_(frame) {
    const std::size_t K = classes.n_components();
    targets_ = team_.template take<NearestTarget>(K);
    order_ = team_.template take<std::size_t>(K);
    for (double** point : {&delta_, &inward_, &trial_, &trial_inward_, &step_, &gradient_, &from_})
      *point = team_.template take<double>(frame.size());
    image_.linear = team_.template take<double>(K);
    image_.quadratic = team_.template take<double>(K);
    shares_ = team_.template take<double>(K);
    posterior_ = team_.template take<double>(K);
    alpha_ = team_.template take<double>(most_shares_);
    share_of_ = team_.template take<std::size_t>(most_shares_);
    for_dual_ = team_.mark();
  }
  // Doubles that a search takes with its dual: of that many coordinates, in classes of most_in_class components at most.
  // `of_dual(n)` is what a dual of n components takes.
  template <class OfDual>
  MFA_HD static std::size_t scratch(std::size_t n_components, std::size_t size, std::size_t most_in_class,
                                    const OfDual& of_dual) {
    const std::size_t shares = shares_at_once(most_in_class);
    const std::size_t against = most_in_class < most_against ? most_in_class : most_against;
    // Searches have a dual or the ends of rays.
    const std::size_t dual = of_dual(shares < against ? against : shares);
    const std::size_t ends = n_components * sizeof(RayEnd) / sizeof(double);
    return n_components * (sizeof(NearestTarget) / sizeof(double) + 5) + 7 * size + 2 * shares + (dual < ends ? ends : dual);
  }

  // What a search has found.
  MFA_HD double lower_bound() const { return lower_bound_; }
  MFA_HD bool has_point() const { return has_point_; }
  // Where the sample goes, as far as the surface; and a direction in which it leaves the surface behind.
  MFA_HD const double* delta() const { return delta_; }
  MFA_HD const double* inward() const { return inward_; }
  MFA_HD std::size_t source() const { return source_; }
  MFA_HD std::size_t target() const { return target_; }
  MFA_HD std::size_t n_problems() const { return n_problems_; }

  // Its class, in which the classifier puts the sample, and the distance of an adversarial example that is known, or
  // infinity.
  MFA_HD void run(std::size_t label, double known) {
    rho_ = 0.5 * known * known;
    has_point_ = false;
    n_problems_ = 0;
    dual_of_ = none;
    start(label);
    if (n_targets_ == 0) {  // nothing is ever put in another class
      lower_bound_ = infinity();
      return;
    }
    close_gap(label);
    // One that is not a number says nothing.
    double least = -team_.best(n_targets_, [&](std::size_t i) {
      return targets_[i].value > -infinity() ? -targets_[i].value : infinity();
    }).max;
    if (sum_rule_) {
      // What has been found so far lies on the surface of the maximum rule.
      rho_ = 0.5 * known * known;
      solve_sum(label);
      least = tighten(label);
    }
    lower_bound_ = std::sqrt(2.0 * (0.0 < least ? least : 0.0));
  }

  // Another search, for a point that is nearer than the one that is known: nearest_explore.hpp. It has no bounds of its own.
  MFA_HD void explore(std::size_t label, double farthest, double bound);

 private:
  // Where a ray leaves the class, between which component of it and which of another.
  struct Crossing {
    double at;
    std::size_t source, target;
  };
  // The nearest end of a ray between a component and another one.
  struct RayEnd {
    double value;  // half the squared distance
    double at;     // on the ray, which also leads backwards
    std::size_t ray;
    std::size_t source, target;
    std::int64_t visited;  // by a descent
  };

  static constexpr std::size_t none = static_cast<std::size_t>(-1);
  // A surface counts as reached at this part of the gap that there was at first.
  static constexpr double reached = 1e-9;

  MFA_HD static constexpr double infinity() { return std::numeric_limits<double>::infinity(); }
  MFA_HD static std::size_t shares_at_once(std::size_t most_in_class) {
    return most_in_class < Team::most_shares ? most_in_class : Team::most_shares;
  }

  MFA_HD double score(std::size_t k, double tau) const {
    return frame_.values()[k] + tau * (image_.linear[k] + tau * image_.quadratic[k]);
  }
  // The best component of a class.
  template <class Score>
  MFA_HD ArgMax best_of(std::size_t g, const Score& score_of) const {
    ArgMax best = team_.best(classes_.size(g), [&](std::size_t i) { return score_of(classes_.begin(g) + i); });
    best.index += classes_.begin(g);
    return best;
  }
  MFA_HD void copy(const double* from, double* to) const {
    team_.each(frame_.size(), [&](std::size_t i) { to[i] = from[i]; });
  }
  MFA_HD void scale(double factor, double* point) const {
    team_.each(frame_.size(), [&](std::size_t i) { point[i] *= factor; });
  }
  // Every member has a copy of what it looks at; one of them writes it back.
  MFA_HD void store(std::size_t i, const NearestTarget& target) const {
    team_.once([&] { targets_[i] = target; });
  }

  MFA_HD void start(std::size_t label) {
    const double* values = frame_.values();
    const ArgMax own = best_of(label, [&](std::size_t k) { return values[k]; });
    best_own_ = own.index;
    n_targets_ = 0;
    if (own.max == -infinity()) return;
    const std::size_t begin = classes_.begin(label), end = classes_.begin(label + 1);
    n_targets_ = team_.list(classes_.n_components(), [&](std::size_t k) {
      return (k < begin || k >= end) && values[k] != -infinity();
    }, classes_.n_components(), order_);
    team_.each(n_targets_, [&](std::size_t i) {
      NearestTarget& target = targets_[i];
      target.component = order_[i];
      target.state = State::bounded;
      target.n = 0;
      target.attained = target.solved = target.visited = 0;
    });
    frame_.pair_bounds(best_own_, n_targets_, [&](std::size_t i) { return order_[i]; },
                       [&](std::size_t i, const PairBound& bound) {
                         targets_[i].value = bound.value;
                         targets_[i].multiplier = bound.multiplier;
                       });
    if (n_targets_ == 0) scale_ = 0.0;
    else scale_ = std::abs(own.max - team_.best(n_targets_, [&](std::size_t i) { return values[order_[i]]; }).max);
  }

  // The one of the least bound of those that are left by `skips`; none if there is none below the limit.
  template <class Skips>
  MFA_HD std::size_t nearest_target(const Skips& skips) const {
    const ArgMax best = team_.best(n_targets_, [&](std::size_t i) {
      return skips(targets_[i]) ? -infinity() : -targets_[i].value;
    });
    return -best.max < rho_ ? best.index : none;
  }

  // The target that may be nearest is looked at until its point is an adversarial example, or nothing is left that could be
  // nearer than the one that is known: theory.md, section 7. One whose bound rises no more is left as it is; the others may
  // still hold a nearer point.
  MFA_HD void close_gap(std::size_t label) {
    for (;;) {
      const std::size_t next = nearest_target([](const NearestTarget& t) { return t.state == State::done; });
      if (next == none) return;
      NearestTarget target = targets_[next];
      if (target.state == State::bounded) {
        if (target.value < 0.0) target.state = State::done;  // with the sum rule: t alone is ahead of s
        else solve_pair(next, target);
        store(next, target);
        continue;
      }
      locate(next, target);
      frame_.image(trial_, image_);
      std::size_t worst = best_own_;
      if (beats_all(target.component, label, worst)) {
        keep(trial_, trial_inward_, worst, target.component, image_.square);
        target.state = State::done;
        store(next, target);
        continue;
      }
      go_on_along(trial_, label);
      bool risen = false;
      bool is_new = target.n < most_against;
      for (std::size_t s = 0; s < target.n; ++s) is_new = is_new && target.against[s] != worst;
      if (is_new) {
        target.against[target.n] = worst;
        target.lam[target.n] = 0.0;
        ++target.n;
        const double before = target.value;
        solve_set(next, target, rho_);
        target.state = State::set;
        risen = target.value > before * (1.0 + 1e-12);
      }
      if (!risen) {
        look_around(target, label);
        target.state = State::done;
      }
      store(next, target);
    }
  }

  MFA_HD void solve_pair(std::size_t i, NearestTarget& target) {
    target.state = State::pair;
    target.n = 1;
    target.against[0] = best_own_;
    target.lam[0] = 0.0;
    if constexpr (Frame::knows_pairs) {
      bool attained = false;
      const PairBound bound = frame_.pair(best_own_, target.component, rho_, attained);
      ++n_problems_;
      target.lam[0] = bound.multiplier;
      target.attained = attained;
      raise(target, bound);
    } else {
      solve_set(i, target, rho_);
      target.solved = 0;  // to where the value grows no more; its point takes another step
    }
  }

  MFA_HD void solve_set(std::size_t i, NearestTarget& target, double enough) {
    const bool at_hand = dual_of_ == i && dual_.n() == target.n;  // and left early
    if (!at_hand || target.solved) make_dual(target.against, target.n, target.component);
    dual_.maximize(target.lam, enough);
    ++n_problems_;
    for (std::size_t s = 0; s < target.n; ++s) target.lam[s] = dual_.lam()[s];
    target.solved = dual_.value() < enough;
    target.attained = 0;
    dual_of_ = i;
    raise(target, {dual_.value(), dual_.multiplier()});
  }

  MFA_HD static void raise(NearestTarget& target, const PairBound& bound) {
    if (!(bound.value > target.value)) return;
    target.value = bound.value;
    target.multiplier = bound.multiplier;
  }

  MFA_HD void make_dual(const std::size_t* against, std::size_t n, std::size_t target) {
    team_.release(for_dual_);
    dual_.make(against, n, target);
    dual_of_ = none;
  }

  // The target's point and the direction to go on in, into trial_ and trial_inward_.
  MFA_HD void locate(std::size_t i, NearestTarget& target) {
    if constexpr (Frame::knows_pairs)
      if (target.attained) {
        frame_.pair_point(best_own_, target.component, target.lam[0], trial_);
        const double norm = std::sqrt(frame_.dot(trial_, trial_));
        team_.each(frame_.size(), [&](std::size_t j) { trial_inward_[j] = trial_[j] / norm; });
        return;
      }
    if (!target.solved) {
      solve_set(i, target, infinity());
    } else if (dual_of_ != i) {
      make_dual(target.against, target.n, target.component);
      dual_.evaluate(target.lam);
      dual_of_ = i;
    }
    const auto mark = team_.mark();
    double* local = team_.template take<double>(dual_.size());
    double* direction = team_.template take<double>(dual_.size());
    dual_.point(local);
    dual_.inward(local, direction);
    dual_.to_frame(local, trial_);
    dual_.to_frame(direction, trial_inward_);
    team_.release(mark);
  }

  // Where the dual falls short, its point is not an adversarial example. One is sought where the surfaces of all components
  // that the target is to beat meet, and those of the last one with any other.
  MFA_HD void look_around(const NearestTarget& target, std::size_t label) {
    look_at(target.against, target.n, target.component, label);
    for (std::size_t a = 0; a + 1 < target.n && target.n > 2; ++a) {
      const std::size_t two[] = {target.against[a], target.against[target.n - 1]};
      look_at(two, 2, target.component, label);
    }
  }
  MFA_HD void look_at(const std::size_t* against, std::size_t n, std::size_t t, std::size_t label) {
    make_dual(against, n, t);
    double zeros[most_against] = {};
    dual_.maximize(zeros, infinity());
    const auto mark = team_.mark();
    double* local = team_.template take<double>(dual_.size());
    double* direction = team_.template take<double>(dual_.size());
    dual_.point(local);
    if (dual_.settle(local)) {
      dual_.to_frame(local, trial_);
      frame_.image(trial_, image_);
      std::size_t worst;
      if (0.5 * image_.square < rho_ && beats_all(t, label, worst)) {
        dual_.inward(local, direction);
        dual_.to_frame(direction, trial_inward_);
        keep(trial_, trial_inward_, worst, t, image_.square);
      }
    }
    team_.release(mark);
  }

  // Whether t beats every component of the class where image_ leads, and the one that it comes last of.
  MFA_HD bool beats_all(std::size_t t, std::size_t label, std::size_t& worst) const {
    const ArgMax own = best_of(label, [&](std::size_t k) { return score(k, 1.0); });
    worst = own.index;
    return own.max - score(t, 1.0) <= reached * scale_;
  }

  MFA_HD void keep(const double* delta, const double* inward, std::size_t source, std::size_t target, double square) {
    team_.each(frame_.size(), [&](std::size_t i) {
      delta_[i] = delta[i];
      inward_[i] = inward[i];
    });
    source_ = source;
    target_ = target;
    rho_ = 0.5 * square;
    has_point_ = true;
  }

  // Keeps the first point beyond image_'s, on the same line, at which another class has the best component.
  MFA_HD void go_on_along(const double* delta, std::size_t label) {
    double tau = 1.0;
    for (int step = 0; step < 20; ++step) {
      const ArgMax own = best_of(label, [&](std::size_t k) { return score(k, tau); });
      ArgMax other = team_.best(n_targets_, [&](std::size_t i) { return score(order_[i], tau); });
      other.index = order_[other.index];
      const double gap = own.max - other.max;
      if (gap <= reached * scale_) return keep_along(delta, tau, image_.square, own.index, other.index);
      tau = passes(own.index, other.index, tau);
      if (!(0.5 * tau * tau * image_.square < rho_)) return;
    }
  }

  // Keeps tau delta, of whose delta the square is given, if nothing nearer is known; the way there leads on inward.
  MFA_HD void keep_along(const double* delta, double tau, double square, std::size_t source, std::size_t target) {
    if (!(0.5 * tau * tau * square < rho_)) return;
    const double norm = std::sqrt(square);
    team_.each(frame_.size(), [&](std::size_t i) {
      gradient_[i] = delta[i] / norm;
      step_[i] = delta[i] * tau;
    });
    keep(step_, gradient_, source, target, tau * tau * square);
  }

  // Where on the line of image_, from tau on, t passes s: at the next root of c u^2 - b u + gap.
  MFA_HD double passes(std::size_t s, std::size_t t, double tau) const {
    const double gap = score(s, tau) - score(t, tau);
    if (!(gap > 0.0)) return tau;
    const double c = image_.quadratic[s] - image_.quadratic[t];
    const double b = -(image_.linear[s] - image_.linear[t] + 2.0 * tau * c);
    const double root = b * b - 4.0 * c * gap;
    if (!(root >= 0.0)) return infinity();
    const double denominator = b + std::sqrt(root);
    return denominator > 0.0 ? tau + 2.0 * gap / denominator : infinity();
  }

  // The sum rule, where a class's score is the log-sum-exp of its components: nearest_sum.hpp.
  MFA_HD double shares(std::size_t label, double* out);
  MFA_HD void solve_sum(std::size_t label);
  MFA_HD void polish(std::size_t label);
  MFA_HD void reach_sum(std::size_t label);
  MFA_HD double tighten(std::size_t label);
  MFA_HD void take_shares(NearestTarget& target, std::size_t label, double rho);
  MFA_HD std::size_t list_shares(std::size_t label);
  MFA_HD double sum_bound() const;
  MFA_HD double log_sum(std::size_t g, double tau) const;
  MFA_HD ArgMax best_rival(std::size_t label, double tau) const;

  // Where no certificate was found: nearest_explore.hpp.
  static constexpr std::size_t gradient_rays = 32;
  static constexpr std::size_t coordinate_rays = 64;
  static constexpr std::size_t most_active = 3;  // surfaces that meet in a point
  static constexpr double a_little = 1e-8;       // of the distance
  MFA_HD void choose_components();
  MFA_HD std::size_t n_rays() const;
  MFA_HD bool aim(std::size_t ray);
  MFA_HD bool is_known(const double* delta, double square) const;
  MFA_HD void look_along(std::size_t label, std::size_t ray, double sign, double bound);
  MFA_HD Crossing cross(std::size_t label, double from, double to) const;
  MFA_HD Crossing cross_max(std::size_t label, double to) const;
  MFA_HD Crossing cross_sum(std::size_t label, double from, double to) const;
  MFA_HD void descend(std::size_t label, std::size_t source, std::size_t target, double bound);
  MFA_HD bool lay_planes(std::size_t label, const std::size_t* active, std::size_t n, std::size_t target, double square,
                         double* weights);
  MFA_HD double gap(std::size_t label, double tau) const;

  Frame& frame_;
  Team& team_;
  GroupView classes_;
  std::size_t most_shares_;
  bool sum_rule_;
  typename Frame::Dual dual_;       // of the problem at hand
  std::size_t dual_of_ = none;      // the target whose `against` it is for, at its lam
  typename Team::Mark for_dual_{};  // where its memory begins

  NearestTarget* targets_ = nullptr;  // (n_targets)
  RayEnd* ends_ = nullptr;            // (K), while it explores
  std::size_t* order_ = nullptr;      // (n_targets): their components
  std::size_t n_targets_ = 0;
  std::size_t best_own_ = 0;
  double scale_ = 0.0;  // of the gap between the classes, to tell rounding from
  double rho_ = 0.0;    // |delta|^2 / 2 of the nearest adversarial example that is known, or found
  double lower_bound_ = 0.0;
  bool has_point_ = false;
  // Displacements, in the frame's coordinates.
  double *delta_ = nullptr, *inward_ = nullptr, *trial_ = nullptr, *trial_inward_ = nullptr;
  double *step_ = nullptr, *gradient_ = nullptr, *from_ = nullptr;
  std::size_t source_ = 0, target_ = 0, n_problems_ = 0;
  Image image_{};
  double* shares_ = nullptr;         // (K)
  double* posterior_ = nullptr;      // (K)
  double* alpha_ = nullptr;          // (most_shares)
  std::size_t* share_of_ = nullptr;  // (most_shares): the components whose shares alpha_ are
};

}  // namespace MFA_ISA
}  // namespace mfa::core

#include "core/nearest_explore.hpp"
#include "core/nearest_sum.hpp"
