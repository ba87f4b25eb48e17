// Numbers with fewer bits, as tensor cores take them: eleven bits and an exponent of five, two to a word.
#pragma once

#include <bit>
#include <cmath>
#include <cstdint>

#include "core/config.hpp"

namespace mfa::cuda {

// Two halves, the first in the lower half of the word.
using Halves = std::uint32_t;
struct alignas(8) FourHalves {
  Halves pairs[2];
};
// What is copied at once.
struct alignas(16) EightHalves {
  FourHalves fours[2];
};

#if !defined(__CUDA_ARCH__)
namespace short_floats {

// Without branches, so that compilers make vectors of loops with them.

// The nearest half, ties to even; infinite above the largest.
inline std::uint32_t half_of(float value) {
  const auto bits = std::bit_cast<std::uint32_t>(value);
  const std::uint32_t size = bits & 0x7fffffffu;
  const std::uint32_t usual = ((size + 0xfffu + (size >> 13 & 1u)) >> 13) - (112u << 10);
  // Below 2^-14 halves are multiples of 2^-24, as floats from a half to one are.
  const std::uint32_t least =
      std::bit_cast<std::uint32_t>(std::bit_cast<float>(size) + 0.5f) - std::bit_cast<std::uint32_t>(0.5f);
  const std::uint32_t finite = size < 0x38800000u ? least : usual;
  const std::uint32_t infinite = size > 0x7f800000u ? 0x7fffu : 0x7c00u;
  return (bits >> 16 & 0x8000u) | (size < 0x477ff000u ? finite : infinite);
}
inline float float_of(std::uint32_t half) {
  const std::uint32_t size = half & 0x7fffu;
  const std::uint32_t usual = (size << 13) + (112u << 23);
  const auto least = std::bit_cast<std::uint32_t>(static_cast<float>(static_cast<int>(size)) * 0x1p-24f);
  const std::uint32_t finite = size < 0x400u ? least : usual;
  const std::uint32_t all = size < 0x7c00u ? finite : 0x7f800000u | size << 13;
  return std::bit_cast<float>((half & 0x8000u) << 16 | all);
}

}  // namespace short_floats
#endif

// The nearest halves, ties to even; infinite above the largest, which is 65504.
MFA_HD inline Halves round_to_halves(float first, float second) {
#if defined(__CUDA_ARCH__)
  Halves pair;
  asm("cvt.rn.f16x2.f32 %0, %1, %2;" : "=r"(pair) : "f"(second), "f"(first));
  return pair;
#else
  return short_floats::half_of(first) | short_floats::half_of(second) << 16;
#endif
}

MFA_HD inline float lower(Halves pair) {
#if defined(__CUDA_ARCH__)
  float value;
  asm("{.reg .f16 low, high; mov.b32 {low, high}, %1; cvt.f32.f16 %0, low;}" : "=f"(value) : "r"(pair));
  return value;
#else
  return short_floats::float_of(pair & 0xffffu);
#endif
}
MFA_HD inline float upper(Halves pair) { return lower(pair >> 16); }

}  // namespace mfa::cuda
