// Normal numbers in batches, and samples made of them. Part of loops.cpp.
#pragma once

#include <cmath>
#include <cstddef>
#include <cstdint>

#include "core/normal.hpp"
#include "core/philox.hpp"
#include "cpu/isa.hpp"
#include "cpu/loops/registers.hpp"

namespace mfa::cpu::inline MFA_ISA {
namespace {

// Normal numbers come in batches of this many blocks of Philox, of four words each.
constexpr std::size_t batch_blocks = 16;

// Normals [first_block * 4, ...) of a stream, in the order of the blocks: four numbers a block.
MFA_INLINE void normal_batch(std::uint64_t seed, std::uint64_t sample, core::Stream stream, std::uint32_t first_block,
                             float* out) {
  float planes[4][batch_blocks];
  for (std::uint32_t b = 0; b < batch_blocks; ++b) {
    const core::Words words = core::draw(seed, sample, stream, first_block + b);
    const core::NormalPair<float> p = core::normal_pair(words.w0, words.w1);
    const core::NormalPair<float> q = core::normal_pair(words.w2, words.w3);
    planes[0][b] = p.a;
    planes[1][b] = p.b;
    planes[2][b] = q.a;
    planes[3][b] = q.b;
  }
  for (std::size_t b = 0; b < batch_blocks; ++b)
    for (std::size_t i = 0; i < 4; ++i) out[4 * b + i] = planes[i][b];
}

// The same in double: two numbers a block.
MFA_INLINE void normal_batch(std::uint64_t seed, std::uint64_t sample, core::Stream stream, std::uint32_t first_block,
                             double* out) {
  for (std::uint32_t b = 0; b < batch_blocks; ++b) {
    const core::Words words = core::draw(seed, sample, stream, first_block + b);
    const core::NormalPair<double> p = core::normal_pair(words.w0, words.w1, words.w2, words.w3);
    out[2 * b] = p.a;
    out[2 * b + 1] = p.b;
  }
}

template <class T>
void sample_row(std::uint64_t seed, std::uint64_t sample, const ComponentView& c, const double* z,
                const double* noise_variance, T* out) {
  constexpr std::size_t batch = batch_blocks * 16 / sizeof(T);
  T normals[batch];
  double values[batch];
  for (std::size_t start = 0; start < c.n_features; start += batch) {
    const std::size_t count = c.n_features - start < batch ? c.n_features - start : batch;
    for (std::size_t i = 0; i < count; ++i) values[i] = c.mean[start + i];
    for (std::size_t l = 0; l < c.n_factors; ++l) {
      const double* a = c.loadings + l * c.n_features + start;
      const double factor = z[l];
      for (std::size_t i = 0; i < count; ++i) values[i] += factor * a[i];
    }
    if (noise_variance != nullptr) {
      normal_batch(seed, sample, core::Stream::noise, static_cast<std::uint32_t>(start / batch * batch_blocks),
                   normals);
      for (std::size_t i = 0; i < count; ++i)
        values[i] += std::sqrt(noise_variance[start + i]) * static_cast<double>(normals[i]);
    }
    for (std::size_t i = 0; i < count; ++i) out[start + i] = static_cast<T>(values[i]);
  }
}

void sample_factors(std::uint64_t seed, std::uint64_t sample, std::size_t n_factors, double* z) {
  constexpr std::size_t batch = 2 * batch_blocks;
  double normals[batch];
  for (std::size_t start = 0; start < n_factors; start += batch) {
    normal_batch(seed, sample, core::Stream::factors, static_cast<std::uint32_t>(start / batch * batch_blocks),
                 normals);
    for (std::size_t i = 0; i < batch && start + i < n_factors; ++i) z[start + i] = normals[i];
  }
}

}  // namespace
}  // namespace mfa::cpu::MFA_ISA
