// The sums of EM. Part of loops.cpp.
#pragma once

#include <cstddef>

#include "cpu/isa.hpp"
#include "cpu/loops/registers.hpp"

namespace mfa::cpu::inline MFA_ISA {
namespace {

// N vectors of W features: a factor is broadcast once for all of them.
template <std::size_t R, std::size_t N, std::size_t W, class T>
MFA_INLINE void accumulate_features(const T* const* x, const double* mean, const double* factors,
                                    const double* weights, std::size_t n_factors, std::size_t j, std::size_t stride,
                                    double* cross, double* squares) {
  Vector<double, W> offset[R][N];
#pragma GCC unroll 2
  for (std::size_t v = 0; v < N; ++v) {
    const std::size_t at = j + v * W;
    Vector<double, W> square = load<double, W>(squares + at);
#pragma GCC unroll 4
    for (std::size_t r = 0; r < R; ++r) {
      offset[r][v] = widen<W>(load<T, W>(x[r] + at)) - load<double, W>(mean + at);
      square += broadcast<double, W>(weights[r]) * offset[r][v] * offset[r][v];
    }
    store<double, W>(squares + at, square);
  }
  for (std::size_t l = 0; l <= n_factors; ++l) {
    double* out = cross + l * stride + j;
    Vector<double, W> totals[N];
#pragma GCC unroll 2
    for (std::size_t v = 0; v < N; ++v) totals[v] = load<double, W>(out + v * W);
#pragma GCC unroll 4
    for (std::size_t r = 0; r < R; ++r) {
      const Vector<double, W> factor = broadcast<double, W>(factors[r * (n_factors + 1) + l]);
#pragma GCC unroll 2
      for (std::size_t v = 0; v < N; ++v) totals[v] += factor * offset[r][v];
    }
#pragma GCC unroll 2
    for (std::size_t v = 0; v < N; ++v) store<double, W>(out + v * W, totals[v]);
  }
}

template <std::size_t R, class T>
void accumulate_rows(const T* const* x, const double* mean, const double* factors, const double* weights,
                     std::size_t n_factors, std::size_t count, std::size_t stride, double* cross, double* squares) {
  constexpr std::size_t w = width<double>;
  std::size_t j = 0;
  for (; j + 2 * w <= count; j += 2 * w)
    accumulate_features<R, 2, w>(x, mean, factors, weights, n_factors, j, stride, cross, squares);
  for (; j + w <= count; j += w)
    accumulate_features<R, 1, w>(x, mean, factors, weights, n_factors, j, stride, cross, squares);
  for (; j < count; ++j)
    accumulate_features<R, 1, 1>(x, mean, factors, weights, n_factors, j, stride, cross, squares);
}

template <class T>
void accumulate(const T* const* x, std::size_t rows, const double* mean, const double* factors,
                const double* weights, std::size_t n_factors, std::size_t count, std::size_t stride, double* cross,
                double* squares) {
  static_assert(accumulated_rows == 4);
  switch (rows) {
    case 4: return accumulate_rows<4>(x, mean, factors, weights, n_factors, count, stride, cross, squares);
    case 3: return accumulate_rows<3>(x, mean, factors, weights, n_factors, count, stride, cross, squares);
    case 2: return accumulate_rows<2>(x, mean, factors, weights, n_factors, count, stride, cross, squares);
    default: return accumulate_rows<1>(x, mean, factors, weights, n_factors, count, stride, cross, squares);
  }
}

}  // namespace
}  // namespace mfa::cpu::MFA_ISA
