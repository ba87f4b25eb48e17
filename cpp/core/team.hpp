// Who works on one sample: a thread of the CPU, or the threads of a warp. What is written for a team runs as both.
//
// All members of a team run the same code with the same scalars, which each has for itself; arrays are the team's. A Team
// has
//   each(n, f)                  f(i) for i < n, shared out; arrays that were written before are seen, and what f writes is seen
//                               by all afterwards. f(i) writes nothing that another f(j) reads
//   each(rows, columns, f)      the same of f(i, j)
//   once(f)                     f(), by one member
//   sum(n, start, f)            start + sum_i f(i)
//   dot(a, b, n)
//   best(n, f)                  core::ArgMax of all f(i)
//   log_sum(n, f)               log sum_i exp f(i)
//   list(n, chosen, most, out)  the first i, in order, for which chosen(i), as many as `most`; returns their number
//   add_rows(out, n, count, factor, row)  out (n) += sum_r factor(r) row(r)
//   take<T>(n), mark(), release(mark)     memory, which is given back in reverse
//   may_end()                   here the call that the sample is of may be interrupted; it may in mark() too
// and says whether it is `alone`, and of how many components of a class (`most_shares`) a bound of the sum rule may take account.
// Only scalars may decide which way the code takes, so that all members take the same one.
#pragma once

#include <cmath>
#include <cstddef>

#include "core/config.hpp"
#include "core/dense.hpp"
#include "core/gaussian.hpp"

namespace mfa::core {
inline namespace MFA_ISA {

// Computes  the lower Cholesky factor in place, as core::cholesky does and with the same bits, column by column.
// Shapes    m (n, n). Cost: n^3 / 3 flops in 2 n steps.
template <class Team>
MFA_HD bool cholesky(const Team& team, std::size_t n, double* m) {
  for (std::size_t j = 0; j < n; ++j) {
    const double* other = m + j * n;
    team.each(n - j, [&](std::size_t i) {
      double* row = m + (j + i) * n;
      double sum = row[j];
      for (std::size_t k = 0; k < j; ++k) sum -= row[k] * other[k];
      row[j] = sum;
    });
    const double pivot = other[j];
    if (!(pivot > 0.0)) return false;
    const double root = std::sqrt(pivot);
    team.each(n - j, [&](std::size_t i) {
      double& value = m[(j + i) * n + j];
      value = i == 0 ? root : value / root;
    });
  }
  return true;
}

// Computes  b <- C^-1 b and b <- C^-T b for a lower triangular C (n, n), column by column.
// Cost      n^2 flops in n steps.
template <class Team>
MFA_HD void solve_lower(const Team& team, std::size_t n, const double* c, double* b) {
  for (std::size_t j = 0; j < n; ++j) {
    const double value = b[j] / c[j * n + j];
    team.each(n - j, [&](std::size_t i) {
      if (i == 0) b[j] = value;
      else b[j + i] -= c[(j + i) * n + j] * value;
    });
  }
}
template <class Team>
MFA_HD void solve_lower_transposed(const Team& team, std::size_t n, const double* c, double* b) {
  if constexpr (Team::alone) return solve_lower_transposed(n, c, b);
  for (std::size_t j = n; j-- > 0;) {
    const double value = b[j] / c[j * n + j];
    team.each(j + 1, [&](std::size_t i) {
      if (i == j) b[j] = value;
      else b[i] -= c[j * n + i] * value;
    });
  }
}

// Computes  what core::pivoted_cholesky and core::solve_pivots do.
template <class Team>
MFA_HD std::size_t pivoted_cholesky(const Team& team, std::size_t n, double* m, double tolerance, double* r,
                                    std::size_t* pivots) {
  for (std::size_t rank = 0; rank < n; ++rank) {
    const std::size_t p = team.best(n, [&](std::size_t j) { return m[j * n + j]; }).index;
    const double pivot = m[p * n + p];
    if (!(pivot > tolerance)) return rank;
    double* row = r + rank * n;
    const double root = std::sqrt(pivot);
    team.each(n, [&](std::size_t j) {
      row[j] = m[p * n + j] / root;
      if (j == p) pivots[rank] = p;
    });
    team.each(n, n, [&](std::size_t i, std::size_t j) {
      double& value = m[i * n + j];
      value = i == p || j == p ? 0.0 : value - row[i] * row[j];
    });
  }
  return n;
}
template <class Team>
MFA_HD void solve_pivots(const Team& team, std::size_t n, std::size_t rank, const double* r, const std::size_t* pivots,
                         double* b) {
  if constexpr (Team::alone) return solve_pivots(n, rank, r, pivots, b);
  for (std::size_t q = rank; q-- > 0;) {
    const std::size_t column = pivots[q];
    const double value = b[q] / r[q * n + column];
    team.each(q + 1, [&](std::size_t i) {
      if (i == q) b[q] = value;
      else b[i] -= r[i * n + column] * value;
    });
  }
}

// Computes  the factors L D L^T of a symmetric matrix in place, without exchanges, of whose upper triangle nothing is read;
//           false unless the first n_negative pivots are negative and all others positive. `least` is lowered to the
//           least of the latter.
// Shapes    m (n, n). Cost: n^3 / 3 flops in 2 n steps.
template <class Team>
MFA_HD bool factorize_indefinite(const Team& team, std::size_t n, std::size_t n_negative, double* m, double& least) {
  for (std::size_t j = 0; j < n; ++j) {
    const double* other = m + j * n;
    team.each(n - j, [&](std::size_t i) {
      double* row = m + (j + i) * n;
      double sum = row[j];
      for (std::size_t k = 0; k < j; ++k) sum -= row[k] * other[k] * m[k * n + k];
      row[j] = sum;
    });
    const double pivot = other[j];
    if (!(j < n_negative ? pivot < 0.0 : pivot > 0.0)) return false;
    if (j >= n_negative) least = pivot < least ? pivot : least;
    team.each(n - j - 1, [&](std::size_t i) { m[(j + 1 + i) * n + j] /= pivot; });
  }
  return true;
}

// Computes  b <- (L D L^T)^-1 b. Cost: 2 n^2 flops in 2 n steps.
template <class Team>
MFA_HD void solve_indefinite(const Team& team, std::size_t n, const double* m, double* b) {
  for (std::size_t k = 0; k + 1 < n; ++k)
    team.each(n - k - 1, [&](std::size_t i) { b[k + 1 + i] -= m[(k + 1 + i) * n + k] * b[k]; });
  team.each(n, [&](std::size_t i) { b[i] /= m[i * n + i]; });
  if constexpr (Team::alone) {
    for (std::size_t i = n; i-- > 0;)
      for (std::size_t k = i + 1; k < n; ++k) b[i] -= m[k * n + i] * b[k];
  } else {
    for (std::size_t k = n; k-- > 1;) team.each(k, [&](std::size_t i) { b[i] -= m[k * n + i] * b[k]; });
  }
}

}  // namespace MFA_ISA
}  // namespace mfa::core
