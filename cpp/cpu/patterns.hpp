// Which rows lack the same features.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

#include "cpu/parallel.hpp"
#include "cpu/rows.hpp"

namespace mfa::cpu {

// Rows in the order of their patterns: those of pattern p are rows[starts[p]], ..., rows[starts[p + 1] - 1].
struct Patterns {
  const std::int64_t* rows;
  std::span<const std::int64_t> starts;
};

// Computes  the pattern of every row, by which of its entries are NaN: 0 for a row without any, -1 for one of nothing else,
//           the others numbered from 1 in the order in which they are first met.
// Shapes    rows (n, d), out (n).
// Cost      one pass over the rows, which are kept as n d bits.
void find_patterns(const Rows& rows, std::int64_t* out, std::size_t n_threads);

}  // namespace mfa::cpu
