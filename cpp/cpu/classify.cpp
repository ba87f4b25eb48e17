#include "cpu/classify.hpp"

#include <vector>

#include "core/reduce.hpp"
#include "cpu/score.hpp"

namespace mfa::cpu {

template <class T>
BadRow classify(const Model& model, const Rows& rows, Groups groups, const double* log_priors, Rule rule, bool screening,
                std::int64_t* out, std::size_t n_threads) {
  const std::size_t G = groups.size() - 1;
  return score_blocks<T>(model, rows, screening, n_threads, [&](BlockScorer<T>& scorer, std::size_t first, std::size_t count) {
    if (const BadRow bad = scorer.score_rivals(groups, log_priors, rule, score_tolerance<double>, out + first)) return bad;
    std::vector<double> scores(G);
    Reduced<T> row;
    (rule == Rule::sum ? row.log_sum : row.best_value) = scores.data();
    const auto no_factors = [](std::size_t, double*) {};
    for (std::size_t i = 0; i < count; ++i) {
      if (out[first + i] >= 0) continue;
      if (!reduce_row(scorer.values(i), scorer.scored(i), groups, model.n_components(), model.n_factors(), 0, row, no_factors))
        return BadRow{first + i};
      core::ArgMax best;
      for (std::size_t g = 0; g < G; ++g) best.add(log_priors[g] + scores[g], g);
      out[first + i] = static_cast<std::int64_t>(best.index);
    }
    return BadRow{};
  });
}

template BadRow classify<float>(const Model&, const Rows&, Groups, const double*, Rule, bool, std::int64_t*, std::size_t);
template BadRow classify<double>(const Model&, const Rows&, Groups, const double*, Rule, bool, std::int64_t*, std::size_t);

}  // namespace mfa::cpu
