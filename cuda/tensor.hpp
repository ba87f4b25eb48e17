// Products of small matrices on tensor cores: inputs of eleven bits (TF32), sums in float.
#pragma once

#include "device.hpp"

#if !defined(MFA_CUDA_EMULATION)
#include <mma.h>
#endif

namespace mfa::cuda::tensor {

// A warp multiplies (rows, depth) by (depth, columns).
inline constexpr unsigned rows = 16, columns = 16, depth = 8;

#if defined(MFA_CUDA_EMULATION)

inline float round(float value) {
  return std::bit_cast<float>((std::bit_cast<std::uint32_t>(value) + 0x1000u) & 0xffffe000u);
}

// All of it is in the first lane's hands. Inputs are cut off to eleven bits, as the hardware does with what round() has not
// been applied to.
struct Accumulator {
  float sums[rows * columns];
};
struct Left {
  float values[rows * depth];
};
struct Right {
  float values[depth * columns];
};

inline bool is_first_lane() { return threadIdx.x % warp_size == 0; }
inline float cut(float value) { return std::bit_cast<float>(std::bit_cast<std::uint32_t>(value) & 0xffffe000u); }

inline void clear(Accumulator& a) { std::fill_n(a.sums, rows * columns, 0.0f); }
inline void load(Left& a, const float* from, unsigned stride) {

  for (unsigned i = 0; i < rows; ++i)
    for (unsigned p = 0; p < depth; ++p) a.values[i * depth + p] = cut(from[i * stride + p]);
}
inline void load(Right& b, const float* from, unsigned stride) {
  for (unsigned p = 0; p < depth; ++p)
    for (unsigned j = 0; j < columns; ++j) b.values[p * columns + j] = cut(from[p * stride + j]);
}
// Every step of four features adds to the sum once, cut off to a float.
inline void multiply_add(Accumulator& c, const Left& a, const Right& b) {
  constexpr unsigned step = 4;
  if (!is_first_lane()) return;
  for (unsigned i = 0; i < rows; ++i)
    for (unsigned j = 0; j < columns; ++j)
      for (unsigned p = 0; p < depth; p += step) {
        float& sum = c.sums[i * columns + j];
        double exact = sum;
        for (unsigned q = p; q < p + step; ++q)
          exact += static_cast<double>(a.values[i * depth + q]) * static_cast<double>(b.values[q * columns + j]);
        const auto nearest = static_cast<float>(exact);
        const bool outward = std::abs(static_cast<double>(nearest)) > std::abs(exact);
        sum = outward ? std::nextafter(nearest, 0.0f) : nearest;
      }
}
inline void store(float* to, const Accumulator& c, unsigned stride) {
  if (!is_first_lane()) return;
  for (unsigned i = 0; i < rows; ++i)
    for (unsigned j = 0; j < columns; ++j) to[i * stride + j] = c.sums[i * columns + j];
}

#else

namespace wmma = nvcuda::wmma;
using Accumulator = wmma::fragment<wmma::accumulator, rows, columns, depth, float>;
using Left = wmma::fragment<wmma::matrix_a, rows, columns, depth, wmma::precision::tf32, wmma::row_major>;
using Right = wmma::fragment<wmma::matrix_b, rows, columns, depth, wmma::precision::tf32, wmma::row_major>;

__device__ inline float round(float value) { return wmma::__float_to_tf32(value); }
__device__ inline void clear(Accumulator& a) { wmma::fill_fragment(a, 0.0f); }
__device__ inline void load(Left& a, const float* from, unsigned stride) { wmma::load_matrix_sync(a, from, stride); }
__device__ inline void load(Right& b, const float* from, unsigned stride) { wmma::load_matrix_sync(b, from, stride); }
__device__ inline void multiply_add(Accumulator& c, const Left& a, const Right& b) { wmma::mma_sync(c, a, b, c); }
__device__ inline void store(float* to, const Accumulator& c, unsigned stride) {
  wmma::store_matrix_sync(to, c, stride, wmma::mem_row_major);
}

#endif

}  // namespace mfa::cuda::tensor
