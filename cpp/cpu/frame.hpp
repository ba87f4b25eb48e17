// A mixture of classes as one sample sees it: all scores are quadratic functions of how far the sample is moved. The search
// for the nearest adversarial example asks for nothing else.
#pragma once

#include <cmath>
#include <cstddef>
#include <functional>
#include <memory>
#include <span>
#include <vector>

#include "core/trust_region.hpp"
#include "cpu/dual.hpp"
#include "gram.hpp"
#include "model.hpp"

namespace mfa::cpu {

// A displacement, in the coordinates of a frame; sums and multiples are those of the coordinates.
using Point = std::vector<double>;

// What a displacement delta does to the score of component k:
// v_k(x + tau delta) = v_k(x) + tau linear[k] + tau^2 quadratic[k], theory.md (24), (25).
struct Image {
  std::vector<double> linear, quadratic;  // (K)
  double square = 0.0;                    // |delta|^2
};

// The dual of a set of pairs, and the way from its coordinates to the frame's.
class FrameDual : public Dual {
 public:
  using Dual::Dual;
  virtual void to_frame(std::span<const double> local, Point& point) const = 0;
};

// What is known of a pair of components: the dual at one multiplier.
struct PairBound {
  double value;       // a lower bound on |delta|^2 / 2 where t beats s
  double multiplier;  // lam
  bool attained;      // whether pair_point gives the point; otherwise it takes `dual`
};

// (28): the dual at one multiplier, from v_s - v_t, its squared gradient and a bound c on how fast it may bend down.
inline PairBound bound_from_gradient(double f, double square, double c) {
  if (!(f > 0.0)) {  // t is no worse than s where the sample is: what follows is valid, and says nothing alone
    const double lam = 0.01 / c;
    return {lam * f - 0.5 * lam * lam * square / (1.0 - lam * c), lam, false};
  }
  const double r = core::nearest_bound(f, square, c);
  return {0.5 * r * r, r / (std::sqrt(square) + c * r), false};
}

class Frame {
 public:
  virtual ~Frame() = default;

  // The factor that all scores are given with.
  virtual double kappa() const = 0;
  // Coordinates of a displacement.
  virtual std::size_t size() const = 0;
  // Looks at row x (d), about the model's centre, of which row `product` of the model's matrix product is there.
  virtual void load(const double* x, const double* product) = 0;
  // kappa times the scores (K), with the log-priors.
  const double* values() const { return values_.data(); }

  // (28): from f and the gradient alone.
  virtual PairBound pair_bound(std::size_t s, std::size_t t) = 0;
  // (27): the maximum of the dual, or a value that is `enough`.
  virtual PairBound pair(std::size_t s, std::size_t t, double enough) = 0;
  // The point of a multiplier that `pair` attained.
  virtual void pair_point(std::size_t s, std::size_t t, double multiplier, Point& delta) = 0;
  // The problem of beating all of `against` at once.
  virtual std::unique_ptr<FrameDual> dual(std::span<const std::size_t> against, std::size_t t) = 0;

  virtual void image(const Point& delta, Image& out) = 0;
  // out = sum_k shares[k] grad v_k(x + delta), over the shares that are not 0.
  virtual void gradient(const Point& delta, std::span<const double> shares, Point& out) = 0;
  virtual double dot(const Point& a, const Point& b) = 0;
  // out (d) = delta.
  virtual void to_features(const Point& delta, double* out) const = 0;

 protected:
  std::vector<double> values_;  // (K)
};

// Makes the frames of a model, one for each thread.
using FrameMaker = std::function<std::unique_ptr<Frame>()>;

// Spherical noise: everything happens in inner products, and nothing costs d but load and to_features. `log_priors` (K) are
// those of the components' classes.
FrameMaker gram_frames(const Gram& gram, std::vector<double> log_priors);
// Any noise: every step costs d.
FrameMaker diagonal_frames(const Model& model, std::vector<double> log_priors);

}  // namespace mfa::cpu
