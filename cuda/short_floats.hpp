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

// The nearest half, ties to even; infinite above the largest.
inline std::uint32_t half_of(float value) {
  const auto bits = std::bit_cast<std::uint32_t>(value);
  const std::uint32_t sign = bits >> 16 & 0x8000u;
  const std::uint32_t size = bits & 0x7fffffffu;
  if (std::isnan(value)) return 0x7fffu;
  if (size >= 0x477ff000u) return sign | 0x7c00u;
  // Below 2^-14 halves are multiples of 2^-24, as floats from a half to one are.
  if (size < 0x38800000u)
    return sign | (std::bit_cast<std::uint32_t>(std::bit_cast<float>(size) + 0.5f) - std::bit_cast<std::uint32_t>(0.5f));
  return sign | (((size + 0xfffu + (size >> 13 & 1u)) >> 13) - (112u << 10));
}
inline float float_of(std::uint32_t half) {
  const std::uint32_t sign = (half & 0x8000u) << 16;
  const std::uint32_t exponent = half >> 10 & 31u, fraction = half & 0x3ffu;
  if (exponent == 31u) return std::bit_cast<float>(sign | 0x7f800000u | fraction << 13);
  const float size = exponent == 0u ? static_cast<float>(fraction) * 0x1p-24f
                                    : std::bit_cast<float>((exponent + 112u) << 23 | fraction << 13);
  return std::bit_cast<float>(std::bit_cast<std::uint32_t>(size) | sign);
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
