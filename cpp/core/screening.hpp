// Bounds on a Mahalanobis distance from a few coordinates of a sample (docs/theory.md, section 6).
#pragma once

#include <cmath>
#include <cstddef>
#include <limits>

#include "core/config.hpp"

namespace mfa::core {
inline namespace MFA_ISA {

MFA_HD inline double positive(double value) { return value > 0.0 ? value : 0.0; }

// Computes  a square root, on a device by the instruction that is quick.
// Numerics  off by 2^-23 of its size at most.
MFA_HD inline float quick_root(float square) {
#if defined(__CUDA_ARCH__)
  float root;
  asm("sqrt.approx.f32 %0, %1;" : "=f"(root) : "f"(square));
  return root;
#else
  return std::sqrt(square);
#endif
}

// What is known of one component outside the subspace. Lengths in units of x.
template <class T>
struct Leftover {
  T mean;                // |mu_perp|, rounded up
  T spread;              // beta, the largest of u^T A_perp^T A_perp u / u^T M_y u, M_y = I + A_y^T A_y / s; rounded up
  T inverse_noise_root;  // s^-1/2
  T inverse_weight;      // 1 / (s + beta), rounded down
};

// What is known of one sample.
template <class T>
struct Outside {
  T length;  // |x_perp|, rounded down
  T shift;   // how far rounding may have moved the coordinates y, rounded up
};

// Computes  a bound on how far rounding moved the coordinates y of a vector of squared length x_norm, theory.md (22).
// Numerics  every coordinate is a product with a unit vector, summed in short runs (docs/theory.md, table 1).
MFA_HD inline double coordinate_error(double x_norm, double epsilon) { return 8.0 * epsilon * std::sqrt(x_norm); }

// Computes  what a step x <- fl(x - a g) adds to that bound where y is moved by the step's own coordinates, which are made of
//           the parameters' coordinates and not of x, theory.md (22a). `step_size` is a times what bounds the terms of g,
//           `feedback` a times the factor of x in g, `x_length` that of x after the step, not centred.
// Numerics  x is rounded to the samples' type, and y once more before it is used; g and its coordinates are sums of
//           n_factors + 2 terms in double.
MFA_HD inline double moved_coordinate_error(double before, double feedback, double x_length, double y_length,
                                            double step_size, std::size_t n_factors, double epsilon) {
  const double sums = 4.0 * (static_cast<double>(n_factors) + 16.0) * std::numeric_limits<double>::epsilon();
  return before * (1.0 + feedback) + epsilon * (x_length + y_length) + sums * step_size;
}

// Computes  a bound on the length of the terms that S^-1 (x - mu) = (x - mu - A z) / s is the sum of; x and mu about the
//           centre, `loading_length` is |A|_F.
MFA_HD inline double precision_product_size(double inverse_noise, double x_length, double mean_length,
                                            double loading_length, double z_length) {
  return (x_length + mean_length + loading_length * z_length) * inverse_noise;
}

// Rounding a number to a half changes it by so much of itself at most, half a unit in the last of eleven places; and by so much
// where it is among the least halves, which lie 2^-24 apart.
inline constexpr double unit_of_halves = 0x1p-11;
inline constexpr double least_unit_of_halves = 0x1p-25;

// Computes  the same as coordinate_error for coordinates that tensor cores make of x and a basis, both rounded to halves,
//           theory.md (D1) but for the rounding of y; `basis_error` is the norm of what that changes of the basis,
//           `length_of_one` what x is divided by before.
// Numerics  products of halves are exact in float. They are added up in steps of four or more, each of which may cut off a unit
//           in the last place.
MFA_HD inline double tensor_coordinate_error(double x_norm, std::size_t n_features, double basis_error, double length_of_one) {
  constexpr double unit = 1.1920928955078125e-7;
  const auto d = static_cast<double>(n_features);
  const double rounding = unit_of_halves * (1.0 + basis_error) + basis_error + unit * (1.0 + 0.25 * d);
  return 1.001 * (rounding * std::sqrt(x_norm) + least_unit_of_halves * std::sqrt(d) * length_of_one);
}

// Computes  the rounding unit, as shadow_distance_error takes it, of products of n_directions terms on tensor cores,
//           theory.md (D3).
// Numerics  products of halves are exact, and those of y with both parts of a column are added up in steps of four terms or
//           more. An error of all products by delta moves c by four to eight times delta, for which there are sixteen units.
MFA_HD inline double tensor_product_unit(std::size_t n_directions) {
  constexpr double unit = 1.1920928955078125e-7;
  return 0.5 * unit * (1.0 + 2.0 * 0.25 * static_cast<double>(n_directions));
}

// Computes  by how much of |y - mu_y|^2 / s a component's c may be off, and |A_perp z|^2 / beta, where its columns are rounded:
//           `error` is the norm of what that changes of them, times s^1/2, theory.md (D4).
MFA_HD inline double rounded_columns_error(double error) { return 1.001 * (2.0 + 3.0 * error) * error; }

// Computes  |x_perp| from |x|^2 and |y|^2, rounded down, theory.md (22).
// Numerics  x itself was centred, scaled and rounded: by less than 2 epsilon |x|, a quarter of what y is allowed. Of what halves
//           are, the rounding of |x|^2 in float is a small part as well.
MFA_HD inline double outside_length(double x_norm, double y_norm, double coordinate_error) {
  const double y = std::sqrt(y_norm) + coordinate_error;
  const double x = std::sqrt(x_norm) - 0.25 * coordinate_error;
  return std::sqrt(positive(x * x * (1.0 - 1e-12) - y * y));
}

// Computes  a lower bound on q(x) = (x - mu)^T (A A^T + s I)^-1 (x - mu), theory.md (21): with y the coordinates of x in
//           an orthonormal basis, c(y) the distance of y to the component's shadow in the subspace and z(y) the factors
//           found there,
//             q >= c + h^2 / (s + beta),   h = max(0, |x_perp| - |mu_perp| - |A_perp z(y)|).
//           Proof. q is the minimum over z of |y - mu_y - A_y z|^2 / s + |z|^2 + |x_perp - mu_perp - A_perp z|^2 / s. With
//           z = z(y) + u the first two terms are c + u^T M_y u, the third is at least (h - |A_perp u|)_+^2 / s, and
//           |A_perp u|^2 <= beta u^T M_y u; minimise over t^2 = u^T M_y u.
// Shapes    scalars; `c` and `moved_square` = |A_perp z(y)|^2 as computed, `c_error` a bound on the error of c and of
//           |A_perp z(y)|^2 / beta.
// Cost      O(1); one square root, in float.
// Numerics  a certificate counts rounding. sqrt(c) is a norm of y - mu_y of slope s^-1/2 at most, so an error in y moves
//           it by no more than e = shift s^-1/2, and |A_perp z| by no more than beta^1/2 e. With (a - b)^2 >= a^2 - b (a^2 / t
//           + t) and (a + b)^2 <= (1 + t) a^2 + (1 + 1 / t) b^2, for any t > 0, no more roots are needed.
// Source    this library.
template <class T>
MFA_HD inline T mahalanobis_lower_bound(T c, T moved_square, T c_error, const Outside<T>& x, const Leftover<T>& k) {
  constexpr T usual_root = 32;  // of c, in high dimension
  const T slack = x.shift * k.inverse_noise_root;
  const T inside = c - c_error > T(0) ? c - c_error : T(0);
  const T less = inside - slack * (inside * (1 / usual_root) + usual_root);
  const T inside_low = less > T(0) ? less : T(0);
  const T most_moved_square = T(1.01) * moved_square + T(202) * k.spread * (c_error + slack * slack);
  const T most_moved = T(1.000001) * static_cast<T>(std::sqrt(static_cast<float>(most_moved_square)));
  const T length = x.length - k.mean - most_moved;
  const T h = length > T(0) ? length : T(0);
  return inside_low + h * h * k.inverse_weight;
}

// Computes  the same in float where the shift may be many times the noise, by two roots; `spread_root` is beta^1/2, rounded up.
MFA_HD inline float mahalanobis_lower_bound(float c, float moved_square, float c_error, const Outside<float>& x,
                                            const Leftover<float>& k, float spread_root) {
  constexpr float margin = 4 * std::numeric_limits<float>::epsilon();
  const float slack = x.shift * k.inverse_noise_root * (1 + margin);
  const float inside = c - c_error > 0.0f ? c - c_error : 0.0f;
  const float less = quick_root(inside) * (1 - margin) - slack;
  const float inside_low = less > 0.0f ? less : 0.0f;
  const float most_moved = (quick_root(moved_square + k.spread * c_error) + spread_root * slack) * (1 + margin);
  const float length = x.length - k.mean - most_moved;
  const float h = length > 0.0f ? length : 0.0f;
  return inside_low * inside_low + h * h * k.inverse_weight;
}

// Computes  (21) as it comes, without what rounding may have done; `length` is |x_perp|.
MFA_HD inline float mahalanobis_without_rounding(float c, float moved_square, float length, const Leftover<float>& k) {
  const float left = length - k.mean - quick_root(moved_square);
  const float h = left > 0.0f ? left : 0.0f;
  return c + h * h * k.inverse_weight;
}

// Computes  c, the distance of y to a component's shadow, in difference form (5), as it comes; and a bound on its error.
// Numerics  its terms are at most 2 `norms` in size. Twice (6), which is of q / 2, for the products; and the sums of the
//           factors' squares and of these terms are made in T as well.
template <class T>
MFA_HD inline T shadow_distance(T norms, T dot, T explained) {
  const T c = norms - 2 * dot - explained;
  return c > T(0) ? c : T(0);
}
template <class T>
MFA_HD inline T shadow_distance_error(T norms, T n_factors, T epsilon, T model_error) {
  return (T(16) * (epsilon + model_error) + (n_factors + T(12)) * epsilon) * norms;
}

// Computes  an upper bound on a log-density, rounding included, from a lower bound q.
template <class T>
MFA_HD inline T log_density_bound(T normalizer, T q) {
  const T value = normalizer - T(0.5) * q;
  return value + (std::abs(normalizer) + q) * (4 * std::numeric_limits<T>::epsilon());
}

// Computes  from a bound on a log-density c - q / 2 by a part of the features what it may come to if q grows with their number,
//           to `times` as many.
MFA_HD inline double extrapolated_bound(double normalizer, double bound, double times) {
  return normalizer + times * (bound - normalizer);
}

// Computes  what the score of a group may be above its best component's log-density: its log prior, and under the sum rule, as
//           a sum is no more than as many times its largest term, log n_components.
MFA_HD inline double group_allowance(double log_prior, std::size_t n_components, bool sum_rule) {
  return log_prior + (sum_rule ? std::log(static_cast<double>(n_components)) : 0.0);
}

// Computes  a guess at q, for the order in which components are tried: halfway from its lower bound to what it is if what is
//           outside the subspace is perpendicular to the component's leftovers, theory.md (23).
template <class T>
MFA_HD inline T mahalanobis_guess(T lower_bound, T c, T length, const Leftover<T>& k) {
  const T perpendicular = c + (length * length + k.mean * k.mean) * k.inverse_noise_root * k.inverse_noise_root;
  return T(0.5) * (lower_bound + perpendicular);
}

}  // namespace MFA_ISA
}  // namespace mfa::core
