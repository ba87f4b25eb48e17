// The nearest point at which a quadratic function is not positive, by way of its dual (docs/theory.md, section 7).
#pragma once

#include <cmath>
#include <cstddef>
#include <limits>

#include "core/config.hpp"

namespace mfa::core {
inline namespace MFA_ISA {

// Computes  a lower bound on |delta| where f + g.delta + delta^T H delta / 2 <= 0, for f >= 0 and no eigenvalue of H below
//           -c: the positive root of c r^2 / 2 + |g| r = f, theory.md (28).
// Numerics  2 f / (|g| + sqrt(|g|^2 + 2 c f)) adds where the textbook root subtracts.
MFA_HD inline double nearest_bound(double f, double g_norm2, double c) {
  const double denominator = std::sqrt(g_norm2) + std::sqrt(g_norm2 + 2.0 * c * f);
  return denominator > 0.0 ? 2.0 * f / denominator : std::numeric_limits<double>::infinity();
}

// What is known of a pair of components: the dual at one multiplier.
struct PairBound {
  double value;       // a lower bound on |delta|^2 / 2 where t beats s
  double multiplier;  // lam
};

// (28): the dual at one multiplier, from v_s - v_t, its squared gradient and a bound c on how fast it may bend down.
MFA_HD inline PairBound bound_from_gradient(double f, double square, double c) {
  if (!(f > 0.0)) {  // t is no worse than s where the sample is: what follows is valid, and says nothing alone
    const double lam = 0.01 / c;
    return {lam * f - 0.5 * lam * lam * square / (1.0 - lam * c), lam};
  }
  const double r = nearest_bound(f, square, c);
  return {0.5 * r * r, r / (std::sqrt(square) + c * r)};
}

// What a displacement delta does to the score of component k:
// v_k(x + tau delta) = v_k(x) + tau linear[k] + tau^2 quadratic[k], theory.md (24), (25).
struct Image {
  double* linear;       // (K)
  double* quadratic;    // (K)
  double square = 0.0;  // |delta|^2
};

// A quadratic function about x, in the eigenvectors of its Hessian: f + g.delta + delta^T H delta / 2, f > 0.
struct Quadratic {
  std::size_t n;
  const double* squares;      // (n) squared parts e_i^2 of the gradient
  const double* eigenvalues;  // (n) theta_i
  double f;
};

// What the dual is at a multiplier.
struct DualPoint {
  double value;    // lam f - lam^2 / 2 sum e_i^2 / (1 + lam theta_i), theory.md (26): a lower bound on |delta|^2 / 2
  double slope;    // its derivative, which is the function's value at delta(lam)
  double bend;     // its second derivative, -sum e_i^2 / (1 + lam theta_i)^3
  double square;   // |delta(lam)|^2
  double largest;  // the largest 1 / (1 + lam theta_i), by which rounding is magnified
};

// Computes  the dual at lam, where all 1 + lam theta_i > 0.
// Cost      n divisions.
// Numerics  sums of terms of one sign, but for theta_i of both signs in the slope, where the caller's tolerance is relative
//           to f.
MFA_HD inline DualPoint dual_at(const Quadratic& q, double lam) {
  double sum1 = 0.0, sum2 = 0.0, sum3 = 0.0, change = 0.0, largest = 0.0;
  for (std::size_t i = 0; i < q.n; ++i) {
    const double inverse = 1.0 / (1.0 + lam * q.eigenvalues[i]);
    const double first = q.squares[i] * inverse;
    const double second = first * inverse;
    sum1 += first;
    sum2 += second;
    sum3 += second * inverse;
    change += second * (2.0 + lam * q.eigenvalues[i]);
    largest = inverse > largest ? inverse : largest;
  }
  return {lam * q.f - 0.5 * lam * lam * sum1, q.f - 0.5 * lam * change, -sum3, lam * lam * sum2, largest};
}

enum class DualEnd {
  root,      // the dual's maximum: delta(lam) is the nearest point
  stopped,   // its value passed what the caller asked for
  boundary,  // the slope is positive up to where 1 + lam theta = 0: the hard case
};

struct DualSolution {
  double lam;
  DualPoint at;
  DualEnd end;
};

// Computes  the multiplier of the nearest point, where the dual is largest, theory.md (27): the root of its slope, which
//           falls, by Newton's method within a bracket. Stops when the value is `enough`, and never where there is no root
//           and the value grows for good.
// Cost      n divisions an iteration, of which it takes five to ten.
// Source    More 1993; the safeguard is bisection.
MFA_HD inline DualSolution maximize_dual(const Quadratic& q, double start, double enough) {
  double least = 0.0;
  for (std::size_t i = 0; i < q.n; ++i) least = q.eigenvalues[i] < least ? q.eigenvalues[i] : least;
  constexpr double far = 1e30;  // where a dual without a maximum is taken to be infinite
  const double end = least < 0.0 ? -1.0 / least : far;
  double low = 0.0, high = end;
  double lam = start > 0.0 && start < end ? start : 0.5 * (end < 2.0 ? end : 2.0);
  DualSolution best{0.0, dual_at(q, 0.0), DualEnd::boundary};
  for (int iteration = 0; iteration < 200; ++iteration) {
    const DualPoint at = dual_at(q, lam);
    if (at.value > best.at.value) best = {lam, at, DualEnd::boundary};
    if (best.at.value >= enough) return {best.lam, best.at, DualEnd::stopped};
    if (std::abs(at.slope) <= 1e-13 * q.f) return {lam, at, DualEnd::root};
    (at.slope > 0.0 ? low : high) = lam;
    if (high - low <= 1e-15 * high) break;
    const double next = lam - at.slope / at.bend;
    if (next > low && next < high) lam = next;
    else lam = high < far ? 0.5 * (low + high) : 4.0 * lam;
    if (lam >= far) break;
  }
  // Between neighbouring numbers on both sides of a root, the slope is as small as it gets.
  if (high < end) return {low, dual_at(q, low), DualEnd::root};
  return best;
}

// Computes  a lower bound on rho = |delta|^2 / 2 where log sum_t exp(v_t) >= log sum_s exp(v_s), from one dual value D_t, with
//           the sum of its multipliers lam_t, for every target t: the rho at which
//           log sum_t exp((rho - D_t) / (kappa lam_t)) = 0, theory.md (34); kappa is the scale of the v's.
// Shapes    value(t), multiplier(t) > 0 for t < n; those of infinite value take no part. A team: core/team.hpp.
// Numerics  the function rises and is convex, so that Newton's method from above falls to the root; what is returned
//           is rounded down by the last step.
template <class Team, class Value, class Multiplier>
MFA_HD double sum_rule_bound(const Team& team, std::size_t n, const Value& value, const Multiplier& multiplier,
                             double kappa) {
  const double infinity = std::numeric_limits<double>::infinity();
  double rho = n == 0 ? infinity : -team.best(n, [&](std::size_t t) { return -value(t); }).max;
  if (!(rho < infinity)) return rho;
  for (int iteration = 0; iteration < 100; ++iteration) {
    const auto exponent = [&](std::size_t t) {
      return value(t) < infinity ? (rho - value(t)) / (kappa * multiplier(t)) : -infinity;
    };
    const double largest = team.best(n, exponent).max;
    const auto term = [&](std::size_t t) { return value(t) < infinity ? std::exp(exponent(t) - largest) : 0.0; };
    const double sum = team.sum(n, 0.0, term);
    const double slope = team.sum(n, 0.0, [&](std::size_t t) { return term(t) / (kappa * multiplier(t)); });
    const double excess = largest + std::log(sum);
    if (!(excess > 0.0)) break;
    const double step = excess * sum / slope;
    if (!(step > 1e-15 * std::abs(rho))) return rho - 2.0 * step;
    rho -= step;
  }
  return rho;
}

}  // namespace MFA_ISA
}  // namespace mfa::core
