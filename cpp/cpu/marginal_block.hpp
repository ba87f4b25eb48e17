// One block of rows that lack the same features, scored under all components by the features that they have. Everything
// that is done with missing values is made of it.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "core/reduce.hpp"
#include "cpu/block.hpp"
#include "cpu/patterns.hpp"

namespace mfa::cpu {

// Rows of a block: enough that what is made once per pattern and component costs little beside them.
inline constexpr std::size_t marginal_rows = 64;

// Computes  log w_k + log N(x_o; mu_o, A_o A_o^T + D_o), theory.md (39), and the posterior mean of the factors given the
//           observed features o, (40), for every component.
// Shapes    up to marginal_rows rows of one pattern.
// Cost      per component: d_o L (L + 1) + 3 L^3 flops, and 2 d_o (L + 1) for each row; 4 d_o L more where it is refined.
// Numerics  in double, about the component's own mean: in difference form where its bound (6a) is below 1e-10 of the
//           value, else in residual form (8). A row's results depend on that row alone.
// Source    Ghahramani & Jordan 1994.
class MarginalBlock {
 public:
  explicit MarginalBlock(const Model& model);

  // The rows that are scored next, all of one pattern.
  BadRow score(const Rows& rows, const std::int64_t* members, std::size_t count);

  std::span<const std::size_t> observed() const { return observed_; }
  std::span<const std::size_t> missing() const { return missing_; }
  // All components.
  std::span<const std::size_t> components() const { return components_; }
  // The observed features of row i of the block.
  const double* entries(std::size_t i) const { return entries_.data() + i * observed_.size(); }
  // Log-densities (K) of row i.
  const double* values(std::size_t i) const { return values_.data() + i * components_.size(); }
  core::LogSumExp sum(std::size_t i) const;  // of these
  // The posterior mean of the factors (L) of row i under component k.
  const double* factors(std::size_t i, std::size_t k) const {
    return factors_.data() + (k * marginal_rows + i) * model_.n_factors();
  }
  // Of M_o = C_o C_o^T: C_o, and the posterior covariance of the factors M_o^-1; (L, L).
  const double* cholesky(std::size_t k) const { return square(cholesky_, k); }
  const double* posterior_covariance(std::size_t k) const { return square(covariances_, k); }

 private:
  void load(const Rows& rows, const std::int64_t* members, std::size_t count);
  void prepare(std::size_t k);
  void factorize(std::size_t k);
  ComponentView observed_part(std::size_t k) const;  // of the component that was prepared
  BadRow evaluate(std::size_t k, const std::int64_t* members, std::size_t count);
  void refine(std::size_t k);
  const double* square(const std::vector<double>& matrices, std::size_t k) const {
    return matrices.data() + k * model_.n_factors() * model_.n_factors();
  }

  const Model& model_;
  std::vector<std::size_t> components_;
  std::vector<double> log_noise_;                // (K, d), or (K) where noise is spherical
  std::vector<std::size_t> observed_, missing_;
  std::vector<double> read_buffer_;              // (d)
  std::vector<double> entries_;                  // (rows, d_o)
  // The component at hand, in observed features.
  std::vector<double> mean_, inverse_noise_, zeros_;  // (d_o)
  std::vector<double> loadings_, weighted_;      // (L, d_o): A_o and D_o^-1 A_o, transposed
  double log_normalizer_ = 0.0, model_error_ = 0.0;
  std::vector<double> products_;                 // (rows or L, L + 1)
  std::vector<std::size_t> flagged_;             // rows whose difference form is not good enough
  std::vector<double> refined_factors_, gradient_, scratch_;
  std::vector<double> values_;                   // (rows, K)
  std::vector<double> factors_;                  // (K, rows, L)
  std::vector<double> cholesky_, covariances_;   // (K, L, L)
};

// Rows of one block: `members` (count), which lack the same features.
struct BlockRange {
  const std::int64_t* members;
  std::size_t count;
};

std::vector<BlockRange> split(const Patterns& patterns);

// Calls visit(block, range, index), which returns a BadRow, for every range, which the block has scored.
template <class Visit>
BadRow score_ranges(const Model& model, const Rows& rows, std::span<const BlockRange> ranges, std::size_t n_threads,
                    const Visit& visit) {
  return for_each_task(ranges.size(), n_threads, [&] {
    return [&, block = MarginalBlock(model)](std::size_t task) mutable -> BadRow {
      const BlockRange& range = ranges[task];
      if (const BadRow bad = block.score(rows, range.members, range.count)) return bad;
      return visit(block, range, task);
    };
  });
}

}  // namespace mfa::cpu
