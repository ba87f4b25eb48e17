#include "cpu/score.hpp"

#include <cmath>

namespace mfa::cpu {

template <class T>
BadRow log_densities(const Model& model, const Rows& rows, double tolerance, T* out, std::size_t n_threads) {
  const std::size_t K = model.n_components();
  return score_blocks<T>(model, rows, false, n_threads, [&](BlockScorer<T>& scorer, std::size_t first, std::size_t count) {
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
              const Reduced<T>& out, std::size_t n_threads) {
  const std::size_t K = model.n_components();
  return score_blocks<T>(model, rows, screening, n_threads, [&](BlockScorer<T>& scorer, std::size_t first, std::size_t count) {
    if (const BadRow bad = scorer.score_groups(groups, tolerance)) return bad;
    for (std::size_t i = 0; i < count; ++i) {
      const auto factors = [&](std::size_t k, double* z) { scorer.factors(i, k, z); };
      if (!reduce_row(scorer.values(i), scorer.scored(i), groups, K, model.n_factors(), first + i, out, factors))
        return BadRow{first + i};
    }
    return BadRow{};
  });
}

template BadRow log_densities(const Model&, const Rows&, double, float*, std::size_t);
template BadRow log_densities(const Model&, const Rows&, double, double*, std::size_t);
template BadRow reduce(const Model&, const Rows&, Groups, double, bool, const Reduced<float>&, std::size_t);
template BadRow reduce(const Model&, const Rows&, Groups, double, bool, const Reduced<double>&, std::size_t);

}  // namespace mfa::cpu
