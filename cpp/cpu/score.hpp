// Scores of samples under a model: every component's, or what is left of them after a reduction over groups.
#pragma once

#include <cstddef>
#include <cstdint>

#include "cpu/block.hpp"

namespace mfa::cpu {

// Outputs of reduce; null for what is not wanted. n samples, G groups.
template <class T>
struct Reduced {
  double* log_sum = nullptr;         // (n, G)  log sum over the group's components
  double* best_value = nullptr;      // (n, G)
  std::int64_t* best = nullptr;      // (n, G)  index within the group; the lowest on a tie
  T* responsibilities = nullptr;     // (n, K)  within the group
  double* factors = nullptr;         // (n, L)  of the first group's best component
};

// Computes  log w_k + log N(x_i; mu_k, S_k) for every i and k, theory.md (2), into out (n, K).
// Shapes    rows (n, d), out (n, K).
// Cost      2 n d K (L + 1) flops in T, and 4 n d L in double for each entry a row has refined (about one).
// Numerics  difference form (5) where its error bound (6) is below tolerance * |value|, else residual form (7), (8).
// Source    Woodbury identity; docs/theory.md, section 1.
template <class T>
BadRow log_densities(const Model& model, const Rows& rows, double tolerance, T* out, const Execution& execution);

// Computes  per group: log-sum-exp (9), best component, responsibilities; factors of the best component.
// Shapes    rows (n, d), groups (G + 1), outputs as in Reduced.
// Cost      as log_densities, or less with screening: what lies negligible_nats below the best of its group is left out.
// Numerics  the best component is the one that double precision finds, whatever T is.
// Source    docs/theory.md, section 1.
template <class T>
BadRow reduce(const Model& model, const Rows& rows, Groups groups, double tolerance, bool screening,
              const Reduced<T>& out, const Execution& execution);

}  // namespace mfa::cpu
