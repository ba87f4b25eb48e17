// Small dense matrices, row-major: factors and eigenvalues of what has some dozens of rows.
#pragma once

#include <cmath>
#include <cstddef>

#include "core/config.hpp"
#include "core/gaussian.hpp"

namespace mfa::core {
inline namespace MFA_ISA {

// Computes  M ~ R^T R of a positive semidefinite matrix, the largest pivot first, until none is above the tolerance; the
//           columns of R are then coordinates, in an orthonormal basis of their span, of the vectors that M has the
//           products of.
// Shapes    m (n, n), overwritten; r (rank, n) within (n, n); pivots (rank) within (n): the columns in which the rows of
//           R have their first entry. Returns the rank.
// Cost      2 n^2 rank flops.
// Numerics  what is left out of a vector has a norm of sqrt(tolerance) at most; M should have a diagonal of ones.
// Source    Higham 2002, section 10.3.
MFA_HD inline std::size_t pivoted_cholesky(std::size_t n, double* m, double tolerance, double* r, std::size_t* pivots) {
  for (std::size_t rank = 0; rank < n; ++rank) {
    std::size_t p = 0;
    for (std::size_t j = 1; j < n; ++j)
      if (m[j * n + j] > m[p * n + p]) p = j;
    const double pivot = m[p * n + p];
    if (!(pivot > tolerance)) return rank;
    pivots[rank] = p;
    double* row = r + rank * n;
    const double root = std::sqrt(pivot);
    for (std::size_t j = 0; j < n; ++j) row[j] = m[p * n + j] / root;
    for (std::size_t i = 0; i < n; ++i)
      for (std::size_t j = 0; j < n; ++j) m[i * n + j] -= row[i] * row[j];
    for (std::size_t i = 0; i < n; ++i) m[i * n + p] = m[p * n + i] = 0.0;
  }
  return n;
}

// The least pivot that is told from rounding; what is left out then has a norm of 3e-8 of its vector's at most.
inline constexpr double smallest_pivot = 1e-15;

// What the squared lengths of vectors are off by, relative, in coordinates of which the least entry of R on its diagonal is
// given: its square has been made of products that are off by `unit`.
MFA_HD inline double basis_rounding(double least, double unit) { return 4.0 * unit / (least * least); }

// Computes  b <- U^-1 b with U the columns `pivots` of R (rank, n), an upper triangle: the coefficients, on the vectors that
//           the pivots stand for, of the vector whose coordinates are b.
MFA_HD inline void solve_pivots(std::size_t n, std::size_t rank, const double* r, const std::size_t* pivots, double* b) {
  for (std::size_t i = rank; i-- > 0;) {
    double sum = b[i];
    for (std::size_t q = i + 1; q < rank; ++q) sum -= r[i * n + pivots[q]] * b[q];
    b[i] = sum / r[i * n + pivots[i]];
  }
}

// Computes  the lower Cholesky factor of a symmetric matrix in place, of whose upper triangle nothing is read; false where
//           the matrix is not positive definite.
// Shapes    m (n, n). Cost: n^3 / 3 flops.
MFA_HD inline bool cholesky(std::size_t n, double* m) {
  for (std::size_t i = 0; i < n; ++i) {
    double* row = m + i * n;
    for (std::size_t j = 0; j <= i; ++j) {
      const double* other = m + j * n;
      double sum = row[j];
      for (std::size_t k = 0; k < j; ++k) sum -= row[k] * other[k];
      if (j < i) {
        row[j] = sum / other[j];
      } else {
        if (!(sum > 0.0)) return false;
        row[i] = std::sqrt(sum);
      }
    }
  }
  return true;
}

// Computes  the lower Cholesky factor C of B^T B from the QR factorization B = Q R, without the product: C = R^T.
// Shapes    columns (n, rows), those of B, overwritten by those of Q; c (n, n). Cost: 2 n^2 rows flops.
// Numerics  by modified Gram-Schmidt, whose R is as good as Householder's: off by rounding times the condition of B, where
//           that of the product is off by rounding times its square.
// Source    Higham 2002, section 19.8.
MFA_HD inline void factor_of_columns(std::size_t n, std::size_t rows, double* columns, double* c) {
  for (std::size_t l = 0; l < n; ++l) {
    double* column = columns + l * rows;
    for (std::size_t m = 0; m < l; ++m) {
      const double* other = columns + m * rows;
      const double part = dot(other, column, rows);
      c[l * n + m] = part;
      for (std::size_t j = 0; j < rows; ++j) column[j] -= part * other[j];
    }
    const double length = std::sqrt(dot(column, column, rows));
    c[l * n + l] = length;
    for (std::size_t m = l + 1; m < n; ++m) c[l * n + m] = 0.0;
    for (std::size_t j = 0; j < rows; ++j) column[j] /= length;
  }
}

// Computes  eigenvalues, on the diagonal of m, and eigenvectors, as rows, of a symmetric matrix by the cyclic method of
//           Jacobi.
// Shapes    m (n, n), overwritten; vectors (n, n). Cost: some 50 n^3 flops.
MFA_HD inline void diagonalize(double* m, double* vectors, std::size_t n) {
  for (std::size_t i = 0; i < n; ++i)
    for (std::size_t j = 0; j < n; ++j) vectors[i * n + j] = i == j ? 1.0 : 0.0;
  for (int sweep = 0; sweep < 30; ++sweep) {
    double off = 0.0, on = 0.0;
    for (std::size_t i = 0; i < n; ++i)
      for (std::size_t j = 0; j < n; ++j) (i == j ? on : off) += m[i * n + j] * m[i * n + j];
    if (off <= 1e-30 * on) return;
    for (std::size_t p = 0; p < n; ++p)
      for (std::size_t q = p + 1; q < n; ++q) {
        if (m[p * n + q] == 0.0) continue;
        const double theta = (m[q * n + q] - m[p * n + p]) / (2.0 * m[p * n + q]);
        const double t = (theta < 0.0 ? -1.0 : 1.0) / (std::abs(theta) + std::sqrt(theta * theta + 1.0));
        const double c = 1.0 / std::sqrt(t * t + 1.0);
        const double s = t * c;
        const auto rotate = [&](double& a, double& b) {
          const double first = c * a - s * b;
          b = s * a + c * b;
          a = first;
        };
        for (std::size_t i = 0; i < n; ++i) rotate(m[i * n + p], m[i * n + q]);
        for (std::size_t i = 0; i < n; ++i) rotate(m[p * n + i], m[q * n + i]);
        for (std::size_t i = 0; i < n; ++i) rotate(vectors[p * n + i], vectors[q * n + i]);
      }
  }
}

}  // namespace MFA_ISA
}  // namespace mfa::core
