// The nearest adversarial example of one sample, and how near one can be at most.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "cpu/attack.hpp"
#include "cpu/frame.hpp"

namespace mfa::cpu {

class NearestSearch {
 public:
  NearestSearch(std::unique_ptr<Frame> frame, Groups groups, Rule rule);

  // What a search has found.
  double lower_bound() const { return lower_bound_; }
  bool has_point() const { return has_point_; }
  // Where the sample goes, as far as the surface; and a direction in which it leaves the surface behind.
  const Point& delta() const { return delta_; }
  const Point& inward() const { return inward_; }
  std::size_t source() const { return source_; }
  std::size_t target() const { return target_; }
  std::size_t n_problems() const { return n_problems_; }
  const Frame& frame() const { return *frame_; }

  // Row x (d) about the model's centre, its row of the model's matrix product, its class, in which the classifier puts it,
  // and the distance of an adversarial example that is known, or infinity.
  void run(const double* x, const double* product, std::size_t label, double known);

 private:
  // A component of another class, and what is known of where it beats all of the sample's own.
  struct Target {
    std::size_t component;
    double value;       // |delta|^2 / 2 is at least this; with the sum rule, see sum_rule_bound
    double multiplier;  // the sum of the multipliers it comes from
    enum class State { bounded, pair, set, done } state;
    std::vector<std::size_t> against;
    std::vector<double> lam;
    std::unique_ptr<FrameDual> dual;  // that of `against`, evaluated at its best, where it has been made
    bool attained;  // by pair_point
    bool visited;   // by solve_sum
  };

  void start(std::size_t label);
  void close_gap(std::size_t label);
  Target* nearest_target();
  void solve_pair(Target& target);
  void solve_set(Target& target, double enough);
  void locate(Target& target);
  void look_around(const Target& target, std::size_t label);
  bool beats_all(std::size_t t, std::size_t label, std::size_t& worst) const;
  void keep(const Point& delta, const Point& inward, std::size_t source, std::size_t target, double square);
  void go_on_along(const Point& delta, std::size_t label);
  double score(std::size_t k, double tau) const {
    return frame_->values()[k] + tau * (image_.linear[k] + tau * image_.quadratic[k]);
  }

  // The sum rule.
  double shares(std::size_t label, std::vector<double>& out) const;
  void solve_sum(std::size_t label);
  void polish(std::size_t label);
  void reach_sum(std::size_t label);
  double tighten(std::size_t label);
  void take_shares(Target& target, std::size_t label, double rho);
  double sum_bound() const;

  std::size_t begin(std::size_t g) const { return static_cast<std::size_t>(groups_[g]); }

  std::unique_ptr<Frame> frame_;
  Groups groups_;
  Rule rule_;

  std::vector<Target> targets_;
  std::size_t best_own_ = 0;
  double scale_ = 0.0;     // of the gap between the classes, to tell rounding from
  double rho_ = 0.0;       // |delta|^2 / 2 of the nearest adversarial example that is known, or found
  double lower_bound_ = 0.0;
  bool has_point_ = false;
  Point delta_, inward_, trial_, trial_inward_, step_, gradient_;
  std::size_t source_ = 0, target_ = 0, n_problems_ = 0;
  Image image_;
  std::vector<double> shares_;
};

}  // namespace mfa::cpu
