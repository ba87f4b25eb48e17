// Lengths of rows and of what lies between them, and steps from one to another. Part of loops.cpp.
#pragma once

#include <cstddef>

#include "cpu/loops/registers.hpp"

namespace mfa::cpu::inline MFA_ISA {
namespace {

// |a - b|^2, or |a|^2 where b is null; in double.
template <class T>
double squared_distance(const T* a, const T* b, std::size_t d) {
  constexpr std::size_t w = width<double>;
  constexpr std::size_t unroll = 4;  // sums that do not wait for each other
  Vector<double, w> sums[unroll] = {};
  const auto add = [&](std::size_t j, Vector<double, w>& sum) {
    Vector<double, w> value = widen<w>(load<T, w>(a + j));
    if (b != nullptr) value -= widen<w>(load<T, w>(b + j));
    sum += value * value;
  };
  std::size_t j = 0;
  for (; j + unroll * w <= d; j += unroll * w)
#pragma GCC unroll 4
    for (std::size_t u = 0; u < unroll; ++u) add(j + u * w, sums[u]);
  for (; j + w <= d; j += w) add(j, sums[0]);
  double total = sum<double, w>((sums[0] + sums[1]) + (sums[2] + sums[3]));
  for (; j < d; ++j) {
    const double value = static_cast<double>(a[j]) - (b == nullptr ? 0.0 : static_cast<double>(b[j]));
    total += value * value;
  }
  return total;
}

// x <- x - a g, not below `low` nor above `high`; in double.
template <class T>
void step(T* x, const double* gradient, double a, double low, double high, std::size_t d) {
  for (std::size_t j = 0; j < d; ++j) {
    const double there = static_cast<double>(x[j]) - a * gradient[j];
    const double above = low < there ? there : low;
    x[j] = static_cast<T>(above < high ? above : high);
  }
}

}  // namespace
}  // namespace mfa::cpu::MFA_ISA
