// Counter-based random numbers: what is drawn is a function of (seed, sample, stream, block) alone.
#pragma once

#include <cstdint>

#include "core/config.hpp"

namespace mfa::core {
inline namespace MFA_ISA {

struct Words {
  std::uint32_t w0, w1, w2, w3;
};

// Samples are counted up to here; from here on come draws of what is missing in given rows.
inline constexpr std::uint64_t most_samples = std::uint64_t{1} << 63;
// Draws of one row are so many rows apart.
inline constexpr unsigned draw_shift = 40;

// What the numbers of one sample are for; the counter's second word.
enum class Stream : std::uint32_t { component = 0, factors = 1, noise = 2 };

// The keys of the ten rounds: a seed, and two odd constants added to its halves.
struct RoundKeys {
  std::uint32_t k0[10], k1[10];

  MFA_HD explicit RoundKeys(std::uint64_t seed) {
    for (std::uint32_t round = 0; round < 10; ++round) {
      k0[round] = static_cast<std::uint32_t>(seed) + round * 0x9E3779B9u;
      k1[round] = static_cast<std::uint32_t>(seed >> 32) + round * 0xBB67AE85u;
    }
  }
};

// Computes  Philox 4x32 with 10 rounds.
// Shapes    counter (4 words), key (2 words) -> 4 words. Cost: 20 multiplications 32 x 32 -> 64.
// Numerics  integers.
// Source    Salmon et al. 2011, Parallel random numbers: as easy as 1, 2, 3.
MFA_HD inline Words philox4x32(Words c, const RoundKeys& keys) {
  for (int round = 0; round < 10; ++round) {
    const std::uint64_t p0 = std::uint64_t{0xD2511F53u} * c.w0;
    const std::uint64_t p1 = std::uint64_t{0xCD9E8D57u} * c.w2;
    c = Words{static_cast<std::uint32_t>(p1 >> 32) ^ c.w1 ^ keys.k0[round], static_cast<std::uint32_t>(p1),
              static_cast<std::uint32_t>(p0 >> 32) ^ c.w3 ^ keys.k1[round], static_cast<std::uint32_t>(p0)};
  }
  return c;
}

MFA_HD inline Words draw(const RoundKeys& keys, std::uint64_t sample, Stream stream, std::uint32_t block) {
  return philox4x32(Words{block, static_cast<std::uint32_t>(stream), static_cast<std::uint32_t>(sample),
                          static_cast<std::uint32_t>(sample >> 32)},
                    keys);
}
MFA_HD inline Words draw(std::uint64_t seed, std::uint64_t sample, Stream stream, std::uint32_t block) {
  return draw(RoundKeys(seed), sample, stream, block);
}

// Computes  a uniform number in (0, 1) with 52 random bits; never 0 and never 1.
MFA_HD inline double uniform52(std::uint32_t high, std::uint32_t low) {
  const std::uint64_t bits = (std::uint64_t{high} << 20) | (low >> 12);
  return (static_cast<double>(bits) + 0.5) * 0x1p-52;
}

}  // namespace MFA_ISA
}  // namespace mfa::core
