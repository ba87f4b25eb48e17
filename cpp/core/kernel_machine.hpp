// The decision function of a support vector machine with an RBF kernel, along a line.
#pragma once

#include <cmath>
#include <cstddef>

#include "core/config.hpp"

namespace mfa::core {
inline namespace MFA_ISA {

// Computes  |x - s|^2 from squared norms and the product, theory.md (16).
// Numerics  double, about the vectors' common centre; clamped at 0, below which no distance lies.
MFA_HD inline double squared_distance(double x_norm, double s_norm, double x_dot_s) {
  const double value = x_norm - 2.0 * x_dot_s + s_norm;
  return value > 0.0 ? value : 0.0;
}

// Computes  sum_i a_i exp(-gamma |x - t v - s_i|^2) + b, theory.md (17), given |x - s_i|^2 and v.(x - s_i).
// Shapes    coefficients (n), distances (n), slopes (n). Cost: n exponentials.
// Numerics  every exponent is at most 0.
MFA_HD inline double rbf_decision_along(std::size_t n, const double* coefficients, double gamma, double intercept,
                                        const double* distances, const double* slopes, double v_norm2, double t) {
  double sum = 0.0;
  for (std::size_t i = 0; i < n; ++i) {
    const double distance = distances[i] - t * (2.0 * slopes[i] - t * v_norm2);
    sum += coefficients[i] * std::exp(-gamma * (distance > 0.0 ? distance : 0.0));
  }
  return sum + intercept;
}

// Computes  the length of the longest step that a gradient says something about: the width of the kernel,
//           1 / sqrt(2 gamma), for a direction whose unit is `norm` in the kernel's coordinates, theory.md (19).
MFA_HD inline double rbf_longest_step(double gamma, double norm) { return 1.0 / (std::sqrt(2.0 * gamma) * norm); }

}  // namespace MFA_ISA
}  // namespace mfa::core
