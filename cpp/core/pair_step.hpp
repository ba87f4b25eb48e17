// LD-Grad's gradient between two components with spherical noise, in inner products of their parameters (docs/theory.md, (14b)).
#pragma once

#include <cmath>

#include "core/config.hpp"

namespace mfa::core {
inline namespace MFA_ISA {

// What a source (0) and a target (1) are to a row: weights 1 / s, what is left of its Mahalanobis distances without the factors'
// part, |x - mu - A z|^2 / s = q - |z|^2, and what bounds the error of the two together.
struct PairDistances {
  double weights[2];
  double residuals[2];
  double error;
};

// What a step's length is found from: b = |g|^2, g^T (S_t^-1 - S_s^-1) g / 2, and what b may be off by.
struct PairCurve {
  double square, curvature, error;
};

// Computes  b and c of theory.md (14b). `moved` is |m|^2, m = (mu_s + A_s z_s) - (mu_t + A_t z_t); `size` what bounds the terms
//           that it is the sum of; `explained` the squares |C^-1 A^T g|^2 / s^2 of both ends; `unit` a bound on the relative
//           error of inner products and factors.
// Shapes    scalars. Cost: O(1) after the products.
// Numerics  b is a sum of differences: its error is relative to their terms, and is given back. That of c is not: it corrects a
//           step whose end is scored anew.
// Source    this library.
MFA_HD inline PairCurve pair_curve(const PairDistances& of, double moved, double size, const double (&explained)[2],
                                   double unit) {
  const double difference = of.weights[1] - of.weights[0];
  const double product = of.weights[0] * of.weights[1];
  const double square = difference * (of.residuals[1] - of.residuals[0]) + product * moved;
  const double terms = std::abs(difference) * (std::abs(of.residuals[0]) + std::abs(of.residuals[1])) + product * size;
  return {square, 0.5 * (difference * square - (explained[1] - explained[0])),
          std::abs(difference) * of.error + unit * terms};
}

// Computes  entry l of A^T g of one end, `sign` -1 for the source and 1 for the target, from z_l and (A^T m)_l.
MFA_HD inline double projected_pair_gradient(double sign, double weight, double other_weight, double z, double projected) {
  return sign * z * (1.0 - other_weight / weight) + other_weight * projected;
}

// Whether b is known well enough for a step; else it is to be summed over the features. Not if it is 0, infinite or no number.
MFA_HD inline bool is_known_well(const PairCurve& curve) { return curve.error < 1e-6 * curve.square; }

}  // namespace MFA_ISA
}  // namespace mfa::core
