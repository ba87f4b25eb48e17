// Normal numbers from uniform bits, by formulas that a vectorizer takes whole: no branch, no table, no library call
// but the square root.
#pragma once

#include <bit>
#include <cmath>
#include <cstdint>

#include "core/config.hpp"
#include "core/philox.hpp"

namespace mfa::core {
inline namespace MFA_ISA {

template <class T>
struct NormalPair {
  T a, b;
};

// Computes  log(u) for u in [2^-33, 1], float.
// Numerics  u = m 2^e with m in [sqrt(1/2), sqrt(2)); log m by a polynomial in m - 1; 1 ulp of max(|log u|, 2^-20).
// Source    Cephes, logf.
MFA_HD inline float log_uniform(float u) {
  const std::uint32_t bits = std::bit_cast<std::uint32_t>(u);
  const std::uint32_t shift = (bits - 0x3f3504f3u) & 0xff800000u;  // e 2^23
  const float e = static_cast<float>(static_cast<std::int32_t>(shift));
  const float m = std::bit_cast<float>(bits - shift) - 1.0f;
  float p = 7.0376836292e-2f;
  p = p * m - 1.1514610310e-1f;
  p = p * m + 1.1676998740e-1f;
  p = p * m - 1.2420140846e-1f;
  p = p * m + 1.4249322787e-1f;
  p = p * m - 1.6668057665e-1f;
  p = p * m + 2.0000714765e-1f;
  p = p * m - 2.4999993993e-1f;
  p = p * m + 3.3333331174e-1f;
  const float z = m * m;
  const float tail = (p * m - 0.5f) * z + e * (-2.12194440e-4f * 0x1p-23f);
  return m + tail + e * (0.693359375f * 0x1p-23f);
}

// Computes  a point of the unit circle, each as likely as any other to within rounding, from 32 random bits.
// Numerics  the sine and the cosine, to 1.2e-7, of at most half a right angle to either side, by polynomials of degree 7
//           and 8 in what 30 of the bits say; the others give the cosine's sign, and which of the two comes first.
// Source    Cephes, sinf and cosf.
MFA_HD inline NormalPair<float> circle_point(std::uint32_t word) {
  const float t = static_cast<float>(static_cast<std::int32_t>(word << 2)) * (3.14159265358979f * 0x1p-33f);
  const float z = t * t;
  const float sine = ((-1.9515295891e-4f * z + 8.3321608736e-3f) * z - 1.6666654611e-1f) * z * t + t;
  const float c =
      (((2.443315711809948e-5f * z - 1.388731625493765e-3f) * z + 4.166664568298827e-2f) * z - 0.5f) * z + 1.0f;
  const float cosine = std::bit_cast<float>(std::bit_cast<std::uint32_t>(c) ^ (word & 0x80000000u));
  const bool swap = (word & 0x40000000u) != 0;
  return {swap ? sine : cosine, swap ? cosine : sine};
}

// Computes  sqrt(x), float.
// Numerics  half a unit in the last place; on a device a whole one, by an instruction of its own instead of a dozen.
MFA_HD inline float root(float x) {
#if defined(__CUDA_ARCH__)
  float y;
  asm("sqrt.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
#else
  return std::sqrt(x);
#endif
}

// Computes  two independent standard normal numbers from two words, theory.md (20).
// Numerics  the radius comes from 32 random bits: the tail ends at 6.76 standard deviations (a probability of 1.4e-11).
// Source    Box & Muller 1958.
MFA_HD inline NormalPair<float> normal_pair(std::uint32_t w0, std::uint32_t w1) {
  // In two halves: they convert as signed integers, which every instruction set does in one step, and a small word
  // keeps all its bits, so that the tail is drawn as finely as the middle.
  const float high = static_cast<float>(static_cast<std::int32_t>(w0 >> 16));
  const float low = static_cast<float>(static_cast<std::int32_t>(w0 & 0xffffu));
  const float u = high * 0x1p-16f + (low * 0x1p-32f + 0x1p-33f);
  const float radius = root(-2.0f * log_uniform(u));
  const NormalPair<float> point = circle_point(w1);
  return {radius * point.a, radius * point.b};
}

// The same in double, from four words.
MFA_HD inline NormalPair<double> normal_pair(std::uint32_t w0, std::uint32_t w1, std::uint32_t w2,
                                             std::uint32_t w3) {
  const double u = uniform52(w0, w1);
  const double v = 2.0 * uniform52(w2, w3);
  const double radius = std::sqrt(-2.0 * std::log(u));
  return {radius * std::cos(3.14159265358979323846 * v), radius * std::sin(3.14159265358979323846 * v)};
}

}  // namespace MFA_ISA
}  // namespace mfa::core
