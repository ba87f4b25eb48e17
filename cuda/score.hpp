// Scores of samples under a model: every component's, or what is left of them after a reduction over groups. Meanings are
// those of cpp/cpu/score.hpp.
#pragma once

#include <cstdint>

#include "scorer.hpp"

namespace mfa::cuda {

// Outputs of reduce; null for what is not wanted. n samples, G groups.
template <class T>
struct Reduced {
  double* log_sum = nullptr;      // (n, G)
  double* best_value = nullptr;   // (n, G)
  std::int64_t* best = nullptr;   // (n, G)  index within the group; the lowest on a tie
  T* responsibilities = nullptr;  // (n, K)  within the group
  double* factors = nullptr;      // (n, L)  of the first group's best component
};

template <class S>
void log_densities(const DeviceModel& model, const Rows<S>& rows, Precision<S>* out, const Call& call);

template <class S>
void reduce(const DeviceModel& model, const Rows<S>& rows, Groups groups, double tolerance, bool screening,
            const Reduced<Precision<S>>& out, const Call& call);

}  // namespace mfa::cuda
