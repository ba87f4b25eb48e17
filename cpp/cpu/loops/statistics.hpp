// The sums of EM. Part of loops.cpp.
#pragma once

#include <cstddef>

#include "cpu/isa.hpp"
#include "cpu/loops/registers.hpp"

namespace mfa::cpu::MFA_ISA {
namespace {

template <std::size_t R, std::size_t W, class T>
MFA_INLINE void accumulate_features(const T* const* x, const double* mean, const double* factors,
                                    const double* weights, std::size_t n_factors, std::size_t j, std::size_t stride,
                                    double* cross, double* squares) {
  Vector<double, W> offset[R];
  Vector<double, W> square = load<double, W>(squares + j);
#pragma GCC unroll 4
  for (std::size_t r = 0; r < R; ++r) {
    offset[r] = widen<W>(load<T, W>(x[r] + j)) - load<double, W>(mean + j);
    square += broadcast<double, W>(weights[r]) * offset[r] * offset[r];
  }
  store<double, W>(squares + j, square);
  for (std::size_t l = 0; l <= n_factors; ++l) {
    Vector<double, W> total = load<double, W>(cross + l * stride + j);
#pragma GCC unroll 4
    for (std::size_t r = 0; r < R; ++r) total += broadcast<double, W>(factors[r * (n_factors + 1) + l]) * offset[r];
    store<double, W>(cross + l * stride + j, total);
  }
}

template <std::size_t R, class T>
void accumulate_rows(const T* const* x, const double* mean, const double* factors, const double* weights,
                     std::size_t n_factors, std::size_t count, std::size_t stride, double* cross, double* squares) {
  constexpr std::size_t w = width<double>;
  std::size_t j = 0;
  for (; j + w <= count; j += w)
    accumulate_features<R, w>(x, mean, factors, weights, n_factors, j, stride, cross, squares);
  for (; j < count; ++j) accumulate_features<R, 1>(x, mean, factors, weights, n_factors, j, stride, cross, squares);
}

template <class T>
void accumulate(const T* const* x, std::size_t rows, const double* mean, const double* factors,
                const double* weights, std::size_t n_factors, std::size_t count, std::size_t stride, double* cross,
                double* squares) {
  switch (rows) {
    case 4: return accumulate_rows<4>(x, mean, factors, weights, n_factors, count, stride, cross, squares);
    case 3: return accumulate_rows<3>(x, mean, factors, weights, n_factors, count, stride, cross, squares);
    case 2: return accumulate_rows<2>(x, mean, factors, weights, n_factors, count, stride, cross, squares);
    default: return accumulate_rows<1>(x, mean, factors, weights, n_factors, count, stride, cross, squares);
  }
}

}  // namespace
}  // namespace mfa::cpu::MFA_ISA
