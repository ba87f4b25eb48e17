// Which scores can matter, and which are good enough: the rule of docs/theory.md, section 1.
#pragma once

#include <cmath>
#include <limits>

#include "core/config.hpp"

namespace mfa::core {
inline namespace MFA_ISA {

// What a caller gets is right to this, relative to its size.
template <class T>
inline constexpr double score_tolerance = sizeof(T) == sizeof(float) ? 1e-5 : 1e-10;

// How far, in nats, a component may lie below the best of its group before it is left out: a million of them would add
// 4e-12 to a logarithm.
inline constexpr double negligible_nats = 40.0;

// Responsibilities below it add nothing to a sum in double.
inline constexpr double negligible_responsibility = 1e-16;

// Whether a log-density can be given back as a T. Only samples absurdly far away have one that cannot.
template <class T>
MFA_HD inline bool in_range(double value) {
  return std::abs(value) <= static_cast<double>(std::numeric_limits<T>::max());
}

// Whether a component may be the best of its group, which has none below `floor`, and whether it may count for its sum.
// Values that cannot be compared may.
MFA_HD inline bool may_be_best(double value, double error, double floor) { return !(value + error < floor); }
MFA_HD inline bool may_matter(double value, double error, double floor) {
  return !(value + error < floor - negligible_nats);
}

// Computes  how far off the values may be that a group's log-sum-exp is made of, for it to be right to the tolerance. The sum
//           is known to the largest error at this point; what may be left of it sets what is allowed.
// Numerics  errors enter the sum by their components' shares: those within what is allowed keep it there together.
MFA_HD inline double allowed_error(double tolerance, double sum, double largest_error) {
  const double least_size = std::abs(sum) - largest_error;
  return tolerance * (least_size > 0.0 ? least_size : 0.0);
}

// Whether an error that is not within what is allowed may stay as it is, as its component's share is small: all n_terms such
// errors together add a tenth of what is allowed.
MFA_HD inline bool is_small_by_share(double value, double error, double floor, double n_terms, double allowed) {
  const double above = value + error - floor;
  const double share = std::exp(above < 0.0 ? above : 0.0);
  return error * share * n_terms <= 0.1 * allowed;
}

}  // namespace MFA_ISA
}  // namespace mfa::core
