// The largest of some numbers, and those that are not below another. Part of loops.cpp.
#pragma once

#include <cstddef>

#include "cpu/loops/registers.hpp"

namespace mfa::cpu::inline MFA_ISA {
namespace {

// Numbers that are compared before anyone looks at one of them.
template <class T>
constexpr std::size_t compared = 2 * width<T>;

// The index of the largest of n > 0 numbers, the lowest on a tie; the first where none can be compared.
template <class T>
std::size_t largest(const T* values, std::size_t n) {
  constexpr std::size_t w = width<T>;
  T lanes[w];
  for (std::size_t lane = 0; lane < w; ++lane) lanes[lane] = values[0];
  std::size_t i = 0;
  for (; i + w <= n; i += w)
    for (std::size_t lane = 0; lane < w; ++lane)
      lanes[lane] = values[i + lane] > lanes[lane] ? values[i + lane] : lanes[lane];
  for (; i < n; ++i) lanes[0] = values[i] > lanes[0] ? values[i] : lanes[0];
  T most = lanes[0];
  for (std::size_t lane = 1; lane < w; ++lane) most = lanes[lane] > most ? lanes[lane] : most;
  std::size_t best = 0;
  while (best + 1 < n && values[best] != most) ++best;
  return values[best] == most ? best : 0;
}

// Writes the indices of those that are not below `least`, first to last, and returns how many they are. One that is not a
// number is not below anything.
template <class T>
std::size_t select(const T* values, std::size_t n, T least, std::size_t* out) {
  std::size_t found = 0;
  for (std::size_t i = 0; i < n; i += compared<T>) {
    const std::size_t count = n - i < compared<T> ? n - i : compared<T>;
    bool any = false;
    for (std::size_t j = i; j < i + count; ++j) any |= !(values[j] < least);
    if (!any) continue;
    for (std::size_t j = i; j < i + count; ++j)
      if (!(values[j] < least)) out[found++] = j;
  }
  return found;
}

}  // namespace
}  // namespace mfa::cpu::MFA_ISA
