// Numbers with fewer bits, as tensor cores take them: the upper eight of a float's 24, two to a word, or eleven.
#pragma once

#include <bit>
#include <cmath>
#include <cstdint>

#include "core/config.hpp"

namespace mfa::cuda {

// Two numbers of eight bits, the first in the lower half.
using Halves = std::uint32_t;

MFA_HD inline float lower(Halves pair) { return std::bit_cast<float>(pair << 16); }
MFA_HD inline float upper(Halves pair) { return std::bit_cast<float>(pair & 0xffff0000u); }

// The nearest numbers of eight bits, ties to even.
MFA_HD inline Halves round_to_eight(float first, float second) {
#if defined(__CUDA_ARCH__)
  Halves pair;
  asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(pair) : "f"(second), "f"(first));
  return pair;
#else
  const auto round = [](float value) -> std::uint32_t {
    const auto bits = std::bit_cast<std::uint32_t>(value);
    if (std::isnan(value)) return 0x7fffu;
    return (bits + 0x7fffu + (bits >> 16 & 1u)) >> 16;  // infinity stays what it is
  };
  return round(first) | round(second) << 16;
#endif
}

// The nearest number of eleven bits, ties away from zero.
MFA_HD inline float round_to_eleven(float value) {
  return std::bit_cast<float>((std::bit_cast<std::uint32_t>(value) + 0x1000u) & 0xffffe000u);
}

}  // namespace mfa::cuda
