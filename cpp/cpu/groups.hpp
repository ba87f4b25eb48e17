// Components by group, one for each class, and what is left of a row's log-densities in a group.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

#include "core/reduce.hpp"

namespace mfa::cpu {

// Components [offsets[g], offsets[g + 1]) make up group g: the mixture of one class.
using Groups = std::span<const std::int64_t>;
struct Extent {
  std::size_t begin, end;

  bool holds(std::size_t k) const { return k >= begin && k < end; }
};
inline Extent extent_of(Groups groups, std::size_t g) {
  return {static_cast<std::size_t>(groups[g]), static_cast<std::size_t>(groups[g + 1])};
}

// The best of a group's components, counted over all groups, and the log-sum-exp (9) of all of them.
struct GroupScore {
  core::ArgMax best;
  core::LogSumExp sum;
};
// By the components that have been scored, in ascending order; without the sum, which costs an exponential for each, if nobody
// wants it.
inline GroupScore reduce_group(const double* values, std::span<const std::size_t> scored, Extent group, bool with_sum) {
  GroupScore out;
  for (const std::size_t k : scored) {
    if (!group.holds(k)) continue;
    out.best.add(values[k], k);
    if (with_sum) out.sum.add(values[k]);
  }
  return out;
}

}  // namespace mfa::cpu
