// Products of small matrices on tensor cores, a warp each. Lane 4 g + c holds of every matrix what PTX gives it: of the left
// one rows g (and g + 8), of the right one column g, of sums rows g (and g + 8) in columns 2 c and 2 c + 1. Which of the
// summands a lane holds is the caller's choice, as long as it is the same left and right: it is written for PTX's.
#pragma once

#include <bit>
#include <cmath>
#include <cstdint>
#include <initializer_list>

#include "device.hpp"
#include "short_floats.hpp"

namespace mfa::cuda::tensor {

struct Lane {
  unsigned g, c;
};
__device__ inline Lane lane() {
  const unsigned index = threadIdx.x % warp_size;
  return {index / 4, index % 4};
}

// 16 x 16: rows g and g + 8 of summands 2 c, 2 c + 1, then of 2 c + 8, 2 c + 9.
using Left16 = Halves[4];
using Right16 = Halves[2];
using Sums = float[4];  // 16 x 8: row g, then row g + 8

#if defined(MFA_CUDA_EMULATION)

namespace emulated {

// Adds up four products at a time, cut off to a float: as unkindly as a device may.
inline void add_cut_off(float& sum, const float* left, const float* right, unsigned count) {
  constexpr unsigned step = 4;
  for (unsigned p = 0; p < count; p += step) {
    double exact = sum;
    for (unsigned q = p; q < p + step; ++q) exact += static_cast<double>(left[q]) * static_cast<double>(right[q]);
    const auto nearest = static_cast<float>(exact);
    const bool outward = std::abs(static_cast<double>(nearest)) > std::abs(exact);
    sum = outward ? std::nextafter(nearest, 0.0f) : nearest;
  }
}

struct Two {
  std::uint32_t first, second;
};

// Calls put(which of the lines, c, what lane c of that line holds): of lines of the left matrix, or of the right.
template <class Put>
void gather(Two mine, std::initializer_list<unsigned> lines, const Put& put) {
  emulation::exchange_values(mine, [&](const auto& of) {
    unsigned at = 0;
    for (const unsigned line : lines) {
      for (unsigned c = 0; c < 4; ++c) put(at, c, of(4 * line + c));
      ++at;
    }
    return 0;
  });
}

}  // namespace emulated

inline void multiply_add(Sums& sums, const Left16& a, const Right16& b) {
  const Lane own = lane();
  float left[2][16], right[2][16];
  const auto put = [](float(&to)[16], unsigned at, Halves pair) {
    to[at] = lower(pair);
    to[at + 1] = upper(pair);
  };
  for (unsigned half = 0; half < 2; ++half)
    emulated::gather({a[2 * half], a[2 * half + 1]}, {own.g}, [&](unsigned, unsigned c, emulated::Two from) {
      put(left[0], 8 * half + 2 * c, from.first);
      put(left[1], 8 * half + 2 * c, from.second);
    });
  emulated::gather({b[0], b[1]}, {2 * own.c, 2 * own.c + 1}, [&](unsigned at, unsigned c, emulated::Two from) {
    put(right[at], 2 * c, from.first);
    put(right[at], 8 + 2 * c, from.second);
  });
  for (unsigned i = 0; i < 4; ++i) emulated::add_cut_off(sums[i], left[i / 2], right[i % 2], 16);
}

inline void multiply_add(double (&sums)[2], double a, double b) {
  const Lane own = lane();
  double left[4], right[2][4];
  emulation::exchange_values(a, [&](const auto& of) {
    for (unsigned c = 0; c < 4; ++c) left[c] = of(4 * own.g + c);
    return 0;
  });
  emulation::exchange_values(b, [&](const auto& of) {
    for (unsigned i = 0; i < 2; ++i)
      for (unsigned c = 0; c < 4; ++c) right[i][c] = of(4 * (2 * own.c + i) + c);
    return 0;
  });
  for (unsigned i = 0; i < 2; ++i)
    for (unsigned c = 0; c < 4; ++c) sums[i] = std::fma(left[c], right[i][c], sums[i]);
}

#else

// Sums in float of products of halves.
__device__ inline void multiply_add(Sums& sums, const Left16& a, const Right16& b) {
  asm("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
      : "+f"(sums[0]), "+f"(sums[1]), "+f"(sums[2]), "+f"(sums[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}

// 8 x 4 by 4 x 8 in double: row g and summand c, summand c and column g; sums of row g.
__device__ inline void multiply_add(double (&sums)[2], double a, double b) {
  asm("mma.sync.aligned.m8n8k4.row.col.f64.f64.f64.f64 {%0, %1}, {%2}, {%3}, {%0, %1};"
      : "+d"(sums[0]), "+d"(sums[1])
      : "d"(a), "d"(b));
}

#endif

// 16 x 8 by 8 x 8 in double: a of rows g and g + 8, each of summands c and c + 4, as b; sums of row g are `low`, of row g + 8
// `high`. Before compute capability 9.0 there are smaller products only, which later devices are slow at.
__device__ inline void multiply_add(double (&low)[2], double (&high)[2], const double (&a)[2][2], const double (&b)[2]) {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
  asm("mma.sync.aligned.m16n8k8.row.col.f64.f64.f64.f64 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
      : "+d"(low[0]), "+d"(low[1]), "+d"(high[0]), "+d"(high[1])
      : "d"(a[0][0]), "d"(a[1][0]), "d"(a[0][1]), "d"(a[1][1]), "d"(b[0]), "d"(b[1]));
#else
  for (unsigned half = 0; half < 2; ++half) {
    multiply_add(low, a[0][half], b[half]);
    multiply_add(high, a[1][half], b[half]);
  }
#endif
}

// The sum over the four lanes of one row, for all of them.
template <class T>
__device__ T row_sum(T value) {
  value += __shfl_xor_sync(all_lanes, value, 1);
  return value + __shfl_xor_sync(all_lanes, value, 2);
}

}  // namespace mfa::cuda::tensor
