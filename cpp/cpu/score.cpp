#include "cpu/score.hpp"

#include <algorithm>
#include <cmath>
#include <limits>
#include <span>

#include "core/reduce.hpp"

namespace mfa::cpu {
namespace {

// Whether a log-density can be given back as a T. Only samples absurdly far away have one that cannot.
template <class T>
bool in_range(double value) {
  return std::abs(value) <= static_cast<double>(std::numeric_limits<T>::max());
}

}  // namespace
template <class T>
BadRow log_densities(const Model& model, const Rows& rows, double tolerance, T* out, const Execution& execution) {
  const std::size_t K = model.n_components();
  return score_blocks<T>(model, rows, false, execution, [&](BlockScorer<T>& scorer, std::size_t first, std::size_t count) {
    if (const BadRow bad = scorer.score_all(tolerance)) return bad;
    for (std::size_t i = 0; i < count; ++i) {
      const double* values = scorer.values(i);
      for (std::size_t k = 0; k < K; ++k) {
        // A component of weight 0 has -inf by right.
        if (!in_range<T>(values[k]) && std::isfinite(model.log_normalizers()[k])) return BadRow{first + i};
        out[(first + i) * K + k] = static_cast<T>(values[k]);
      }
    }
    return BadRow{};
  });
}

template <class T>
BadRow reduce(const Model& model, const Rows& rows, Groups groups, double tolerance, bool screening,
              const Reduced<T>& out, const Execution& execution) {
  const std::size_t K = model.n_components();
  const std::size_t n_groups = groups.size() - 1;
  return score_blocks<T>(model, rows, screening, execution, [&](BlockScorer<T>& scorer, std::size_t first, std::size_t count) {
    if (const BadRow bad = scorer.score_groups(groups, tolerance)) return bad;
    for (std::size_t i = 0; i < count; ++i) {
      const double* values = scorer.values(i);
      const std::span<const std::size_t> scored = scorer.scored(i);
      const std::size_t row = first + i;
      if (out.responsibilities != nullptr) std::fill_n(out.responsibilities + row * K, K, T{0});
      for (std::size_t g = 0; g < n_groups; ++g) {
        const auto begin = static_cast<std::size_t>(groups[g]);
        const auto end = static_cast<std::size_t>(groups[g + 1]);
        core::LogSumExp sum;
        core::ArgMax best;
        for (const std::size_t k : scored) {
          if (k < begin || k >= end) continue;
          sum.add(values[k]);
          best.add(values[k], k - begin);
        }
        const double log_sum = sum.value();
        if (!in_range<T>(log_sum)) return BadRow{row};
        if (out.log_sum != nullptr) out.log_sum[row * n_groups + g] = log_sum;
        if (out.best_value != nullptr) out.best_value[row * n_groups + g] = best.max;
        if (out.best != nullptr) out.best[row * n_groups + g] = static_cast<std::int64_t>(best.index);
        if (out.responsibilities != nullptr)
          for (const std::size_t k : scored)
            if (k >= begin && k < end)
              out.responsibilities[row * K + k] = static_cast<T>(std::exp(values[k] - log_sum));
        if (out.factors != nullptr && g == 0)
          scorer.factors(i, begin + best.index, out.factors + row * model.n_factors());
      }
    }
    return BadRow{};
  });
}

template BadRow log_densities(const Model&, const Rows&, double, float*, const Execution&);
template BadRow log_densities(const Model&, const Rows&, double, double*, const Execution&);
template BadRow reduce(const Model&, const Rows&, Groups, double, bool, const Reduced<float>&, const Execution&);
template BadRow reduce(const Model&, const Rows&, Groups, double, bool, const Reduced<double>&, const Execution&);

}  // namespace mfa::cpu
