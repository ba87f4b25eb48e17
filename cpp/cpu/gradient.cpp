#include "cpu/gradient.hpp"

#include <cmath>
#include <span>
#include <vector>

#include "cpu/groups.hpp"

namespace mfa::cpu {
namespace {

// Adds up the gradient of one row of a block that has been scored.
template <class T>
class RowGradient {
 public:
  RowGradient(const Model& model, Groups groups, Rule rule)
      : model_(model),
        groups_(groups),
        rule_(rule),
        buffer_(model.n_features()),
        gradient_(model.n_features()),
        z_(model.n_factors()) {}

  // Row i of the block, which is row `at` of all; `vector` (G).
  const std::vector<double>& of(BlockScorer<T>& scorer, std::size_t i, const Rows& rows, std::size_t at,
                                const double* vector) {
    gradient_.assign(model_.n_features(), 0.0);
    const double* x = read_row(rows, at, 0, model_.n_features(), buffer_.data());
    const std::span<const std::size_t> scored = scorer.scored(i);
    for (std::size_t g = 0; g + 1 < groups_.size(); ++g)
      if (vector[g] != 0.0) add_group(scorer, i, x, scored, g, vector[g]);
    return gradient_;
  }

 private:
  void add_group(const BlockScorer<T>& scorer, std::size_t i, const double* x, std::span<const std::size_t> scored,
                 std::size_t g, double weight) {
    const Extent group = extent_of(groups_, g);
    const double* values = scorer.values(i);
    const auto [best, sum] = reduce_group(values, scored, group, rule_ == Rule::sum);
    if (rule_ == Rule::max) {
      add(scorer, i, x, best.index, weight);
      return;
    }
    for (const std::size_t k : scored)
      if (group.holds(k))
        if (const double share = sum.share(values[k]); share > 0.0) add(scorer, i, x, k, weight * share);
  }

  void add(const BlockScorer<T>& scorer, std::size_t i, const double* x, std::size_t k, double weight) {
    scorer.factors(i, k, z_.data());
    const double share = -weight;
    const bool begins = false;
    double* out = gradient_.data();
    model_.loops().f64.add_precision_products(&x, 1, model_.component(k), z_.data(), &share, &begins, &out);
  }

  const Model& model_;
  Groups groups_;
  Rule rule_;
  std::vector<double> buffer_, gradient_;  // (d)
  std::vector<double> z_;                  // (L)
};

}  // namespace

template <class T>
BadRow gradient(const Model& model, const Rows& rows, Groups groups, Rule rule, bool screening, const double* vectors,
                T* out, std::size_t n_threads) {
  const std::size_t d = model.n_features();
  const std::size_t n_groups = groups.size() - 1;
  return for_each_block(rows.n_rows, n_threads, [&](std::size_t height) {
    return [&, scorer = BlockScorer<T>(model, height, screening), row = RowGradient<T>(model, groups, rule)](
               std::size_t first, std::size_t count) mutable -> BadRow {
      scorer.load(rows, first, count);
      if (const BadRow bad = scorer.score_groups(groups, score_tolerance<double>)) return bad;
      for (std::size_t i = 0; i < count; ++i) {
        const std::vector<double>& sum = row.of(scorer, i, rows, first + i, vectors + (first + i) * n_groups);
        for (std::size_t j = 0; j < d; ++j) out[(first + i) * d + j] = static_cast<T>(sum[j]);
      }
      return BadRow{};
    };
  });
}

template BadRow gradient(const Model&, const Rows&, Groups, Rule, bool, const double*, float*, std::size_t);
template BadRow gradient(const Model&, const Rows&, Groups, Rule, bool, const double*, double*, std::size_t);

}  // namespace mfa::cpu
