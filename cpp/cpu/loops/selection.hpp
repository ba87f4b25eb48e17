// The largest of some numbers, and those that are not below another. Part of loops.cpp.
#pragma once

#include <cstddef>

#include "cpu/loops/registers.hpp"

namespace mfa::cpu::inline MFA_ISA {
namespace {

// Calls visit(i) for the numbers that are not below `least`, first to last, until it returns true.
template <class T, class Visit>
MFA_INLINE void for_each_not_below(const T* values, std::size_t n, T least, const Visit& visit) {
  constexpr std::size_t w = width<T>;
  const Vector<T, w> bound = broadcast<T, w>(least);
  for (std::size_t i = 0; i < n; i += w) {
    const std::size_t count = n - i < w ? n - i : w;
    const Vector<T, w> some = count == w ? load<T, w>(values + i) : load<T, w>(values + i, count);
    const unsigned own = ~0u >> (32 - count);
    for (unsigned left = ~lanes_below<T, w>(some, bound) & own; left != 0; left &= left - 1)
      if (visit(i + lowest_bit(left))) return;
  }
}

// The index of the largest of n > 0 numbers, the lowest on a tie; the first where none can be compared.
template <class T>
std::size_t largest(const T* values, std::size_t n) {
  constexpr std::size_t w = width<T>;
  T lanes[w];
  for (std::size_t lane = 0; lane < w; ++lane) lanes[lane] = values[0];
  const auto take = [&](std::size_t lane, T value) { lanes[lane] = value > lanes[lane] ? value : lanes[lane]; };
  std::size_t i = 0;
  for (; i + w <= n; i += w)
    for (std::size_t lane = 0; lane < w; ++lane) take(lane, values[i + lane]);
  for (std::size_t lane = 0; i + lane < n; ++lane) take(lane, values[i + lane]);
  for (std::size_t half = w / 2; half > 0; half /= 2)
    for (std::size_t lane = 0; lane < half; ++lane) take(lane, lanes[lane + half]);
  std::size_t best = 0;
  for_each_not_below(values, n, lanes[0], [&](std::size_t j) {
    const bool found = values[j] == lanes[0];
    if (found) best = j;
    return found;
  });
  return best;
}

// Writes the indices of those that are not below `least`, first to last, and returns how many they are. One that is not a
// number is not below anything.
template <class T>
std::size_t select(const T* values, std::size_t n, T least, std::size_t* out) {
  std::size_t found = 0;
  for_each_not_below(values, n, least, [&](std::size_t j) {
    out[found++] = j;
    return false;
  });
  return found;
}

}  // namespace
}  // namespace mfa::cpu::MFA_ISA
