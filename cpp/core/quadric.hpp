// Steps to the surface where two factor analyzers are equally likely.
#pragma once

#include <cmath>
#include <cstddef>

#include "core/config.hpp"

namespace mfa::core {
inline namespace MFA_ISA {

// What LD-Grad takes class scores to, relative to their size. Where the gap between two of them is small beside them, they
// are taken to the tolerance of double: docs/theory.md, section 3.
inline constexpr double gap_tolerance = 1e-8;

// Whether it is; also where it is not a number. `size` is the sum of both scores' sizes.
MFA_HD inline bool is_small_gap(double gap, double size) { return !(std::abs(gap) > 1e-4 * size); }

// Whether a class is ahead of the best of the others, by the gap between their scores: a tie goes to the lower index, as in
// predict.
MFA_HD inline bool leads(double gap, std::size_t own, std::size_t rival) { return gap > 0.0 || (gap == 0.0 && own < rival); }

// What of a log-sum-exp's gradient is left out, a component's by its posterior probability: it changes nothing that the next
// step would not mend.
inline constexpr double negligible_share = 1e-6;

// Computes  the smallest a > 0 with f - a b + a^2 c = 0, the length of the LD-Grad step along the gradient, for a gap
//           f >= 0 and b = |g|^2 > 0; without a real root the a that makes the gap smallest, theory.md (14).
// Shapes    scalars. Cost: O(1).
// Numerics  2 f / (b + sqrt(b^2 - 4 c f)) adds where the textbook root subtracts; divided by b, as b^2 goes with the fourth
//           power of the scale of x, and out of range with little noise.
// Source    Richardson & Weiss, appendix C.2, with the quadratic term kept.
MFA_HD inline double step_to_zero(double f, double b, double c) {
  const double linear = f / b;
  const double discriminant = 1.0 - 4.0 * (c / b) * linear;
  if (discriminant < 0.0) return b / (2.0 * c);
  return 2.0 * linear / (1.0 + std::sqrt(discriminant));
}

// Of the least noise's standard deviation: what lies nearer to a surface than that is taken to lie on it.
inline constexpr double on_surface = 1e-10;

// Computes  what the rounding of a point goes by that is `length` away from x: the point is no longer than twice that. Where
//           x is the origin, |x| says nothing of it.
MFA_HD inline double rounded_size(double length, double x_norm) { return length < x_norm ? x_norm : length; }

// Computes  how far to go for a surface that is `length` away: beyond it by a fraction of the way, and by no less than
//           what rounding the entries of the point may take back; and from less than `least` away by no less than that, as
//           on the surface at the origin there is nothing else to go by, theory.md (15).
// Numerics  rounding moves a point by at most epsilon / 2 of its length, epsilon rounded_size; twice that is taken.
MFA_HD inline double with_overshoot(double length, double overshoot, double x_norm, double epsilon, double least) {
  const double relative = overshoot * length;
  const double rounding = 2.0 * epsilon * rounded_size(length, x_norm);
  const double beyond = relative > rounding ? relative : rounding;
  return length + (length < least && beyond < least ? least : beyond);
}

}  // namespace MFA_ISA
}  // namespace mfa::core
