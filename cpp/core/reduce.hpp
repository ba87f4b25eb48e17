// Accumulators over components that can be fed one value at a time and merged.
#pragma once

#include <cmath>
#include <cstddef>
#include <limits>

#include "core/config.hpp"

namespace mfa::core {
inline namespace MFA_ISA {

// Computes  log sum_k exp(v_k), theory.md (9), and the share exp(v_k) / sum_k exp(v_k) of a value that has been added.
// Numerics  scaled by the largest value so far; an empty sum, or one of -inf alone, is -inf. NaN stays NaN. Shares add up
//           to 1 whatever the values: exp(v_k - log sum) would have the rounding of the logarithm, which is large far away.
struct LogSumExp {
  double max = -std::numeric_limits<double>::infinity();
  double scaled_sum = 0.0;

  MFA_HD void add(double value) {
    if (value <= max) {
      if (value > -std::numeric_limits<double>::infinity()) scaled_sum += std::exp(value - max);
    } else {
      scaled_sum = scaled_sum * std::exp(max - value) + 1.0;
      max = value;
    }
  }
  MFA_HD double value() const { return scaled_sum == 0.0 ? max : max + std::log(scaled_sum); }
  MFA_HD double share(double value) const { return std::exp(value - max) / scaled_sum; }
};

// Computes  the largest value and where it stands; the lowest index on a tie, in whatever order values come.
struct ArgMax {
  double max = -std::numeric_limits<double>::infinity();
  std::size_t index = 0;
  bool empty = true;

  MFA_HD void add(double value, std::size_t at) {
    if (empty || value > max || (value == max && at < index)) {
      max = value;
      index = at;
      empty = false;
    }
  }
};

}  // namespace MFA_ISA
}  // namespace mfa::core
