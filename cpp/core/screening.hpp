// Bounds on a Mahalanobis distance from a few coordinates of a sample (docs/theory.md, section 6).
#pragma once

#include <cmath>

#include "core/config.hpp"

namespace mfa::core {
inline namespace MFA_ISA {

// How far, in nats, a component may lie below the best of its group before it is left out: a million of them would add
// 4e-12 to a logarithm.
inline constexpr double negligible_nats = 40.0;

MFA_HD inline double positive(double value) { return value > 0.0 ? value : 0.0; }

// What is known of one component outside the subspace.
struct Leftover {
  double mean;                // |mu_perp|, rounded up
  double spread;              // beta, the largest of u^T A_perp^T A_perp u / u^T M_y u, M_y = I + A_y^T A_y / s; rounded up
  double inverse_noise_root;  // s^-1/2
  double inverse_weight;      // 1 / (s + beta), rounded down
};

MFA_HD inline double inverse_weight(double noise, double spread) { return (1.0 - 1e-12) / (noise + spread); }

// What is known of one sample.
struct Outside {
  double length;  // |x_perp|, rounded down
  double shift;   // how far rounding may have moved the coordinates y, rounded up
};

// Computes  a bound on how far rounding moved the coordinates y of a vector of squared length x_norm, theory.md (22).
// Numerics  every coordinate is a product with a unit vector, summed in short runs (docs/theory.md, table 1).
MFA_HD inline double coordinate_error(double x_norm, double epsilon) { return 8.0 * epsilon * std::sqrt(x_norm); }

// Computes  |x_perp| from |x|^2 and |y|^2, rounded down, theory.md (22).
// Numerics  x itself was centred, scaled and rounded: by less than 2 epsilon |x|, a quarter of what y is allowed.
MFA_HD inline double outside_length(double x_norm, double y_norm, double coordinate_error) {
  const double y = std::sqrt(y_norm) + coordinate_error;
  const double x = std::sqrt(x_norm) - 0.25 * coordinate_error;
  return std::sqrt(positive(x * x * (1.0 - 1e-12) - y * y));
}

// Computes  a lower bound on q(x) = (x - mu)^T (A A^T + s I)^-1 (x - mu), theory.md (21): with y the coordinates of x in
//           an orthonormal basis, c(y) the distance of y to the component's shadow in the subspace and z(y) the factors
//           found there,
//             q >= c + g^2 / (s + beta),   g = max(0, |x_perp| - |mu_perp| - |A_perp z(y)|).
//           Proof. q is the minimum over z of |y - mu_y - A_y z|^2 / s + |z|^2 + |x_perp - mu_perp - A_perp z|^2 / s. With
//           z = z(y) + u the first two terms are c + u^T M_y u, the third is at least (g - |A_perp u|)_+^2 / s, and
//           |A_perp u|^2 <= beta u^T M_y u; minimise over t^2 = u^T M_y u.
// Shapes    scalars; `c` and `moved_square` = |A_perp z(y)|^2 as computed, `c_error` a bound on the error of c and of
//           |A_perp z(y)|^2 / beta.
// Cost      O(1); one square root, in float.
// Numerics  a certificate counts rounding. sqrt(c) is a norm of y - mu_y of slope s^-1/2 at most, so an error in y moves
//           it by no more than e = shift s^-1/2, and |A_perp z| by no more than beta^1/2 e. With (a - b)^2 >= a^2 - b (a^2 / t
//           + t) and (a + b)^2 <= (1 + t) a^2 + (1 + 1 / t) b^2, for any t > 0, no more roots are needed.
// Source    this library.
MFA_HD inline double mahalanobis_lower_bound(double c, double moved_square, double c_error, const Outside& x,
                                             const Leftover& k) {
  constexpr double usual_root = 32.0;  // of c, in high dimension
  const double slack = x.shift * k.inverse_noise_root;
  const double inside = positive(c - c_error);
  const double inside_low = positive(inside - slack * (inside * (1.0 / usual_root) + usual_root));
  const double most_moved_square = 1.01 * moved_square + 202.0 * k.spread * (c_error + slack * slack);
  const double most_moved = 1.000001 * static_cast<double>(std::sqrt(static_cast<float>(most_moved_square)));
  const double g = positive(x.length - k.mean - most_moved);
  return inside_low + g * g * k.inverse_weight;
}

// Computes  a guess at q, for the order in which components are tried: as if what is outside the subspace were
//           perpendicular to the component's leftovers, theory.md (23).
MFA_HD inline double mahalanobis_guess(double c, const Outside& x, const Leftover& k) {
  return c + (x.length * x.length + k.mean * k.mean) * k.inverse_noise_root * k.inverse_noise_root;
}

}  // namespace MFA_ISA
}  // namespace mfa::core
