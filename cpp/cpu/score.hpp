// Scores of samples under a model: every component's, or what is left of them after a reduction over groups.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <span>

#include "core/rule.hpp"
#include "core/views.hpp"
#include "cpu/block.hpp"

namespace mfa::cpu {

using core::in_range, core::negligible_responsibility;
using mfa::Reduced;

// Computes  the outputs of one row from the log-densities (K) of the components that have been scored; factors(k, z) gives
//           the posterior mean of one's factors. False where the row lies too far away.
template <class T, class Factors>
bool reduce_row(const double* values, std::span<const std::size_t> scored, Groups groups, std::size_t n_components,
                std::size_t n_factors, std::size_t row, const Reduced<T>& out, const Factors& factors) {
  const std::size_t n_groups = groups.size() - 1;
  if (out.responsibilities != nullptr) std::fill_n(out.responsibilities + row * n_components, n_components, T{0});
  for (std::size_t g = 0; g < n_groups; ++g) {
    const Extent group = extent_of(groups, g);
    const auto [best, sum] = reduce_group(values, scored, group, true);
    const double log_sum = sum.value();
    if (!in_range<T>(log_sum)) return false;
    if (out.log_sum != nullptr) out.log_sum[row * n_groups + g] = log_sum;
    if (out.best_value != nullptr) out.best_value[row * n_groups + g] = best.max;
    if (out.best != nullptr) out.best[row * n_groups + g] = static_cast<std::int64_t>(best.index - group.begin);
    if (out.responsibilities != nullptr)
      for (const std::size_t k : scored)
        if (group.holds(k)) out.responsibilities[row * n_components + k] = static_cast<T>(sum.share(values[k]));
    if (out.factors != nullptr && g == 0) factors(best.index, out.factors + row * n_factors);
  }
  return true;
}

// Computes  log w_k + log N(x_i; mu_k, S_k) for every i and k, theory.md (2), into out (n, K).
// Shapes    rows (n, d), out (n, K).
// Cost      2 n d K (L + 1) flops in T, and 4 n d L in double for each entry a row has refined (about one).
// Numerics  difference form (5) where its error bound (6) is below tolerance * |value|, else residual form (7), (8).
// Source    Woodbury identity; docs/theory.md, section 1.
template <class T>
BadRow log_densities(const Model& model, const Rows& rows, double tolerance, T* out, std::size_t n_threads);

// Computes  per group: log-sum-exp (9), best component, responsibilities; factors of the best component.
// Shapes    rows (n, d), groups (G + 1), outputs as in Reduced.
// Cost      as log_densities, or less with screening: what lies negligible_nats below the best of its group is left out.
// Numerics  the best component is the one that double precision finds, whatever T is.
// Source    docs/theory.md, section 1.
template <class T>
BadRow reduce(const Model& model, const Rows& rows, Groups groups, double tolerance, bool screening,
              const Reduced<T>& out, std::size_t n_threads);

}  // namespace mfa::cpu
