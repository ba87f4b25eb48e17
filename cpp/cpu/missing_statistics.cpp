#include "cpu/missing_statistics.hpp"

#include <algorithm>
#include <cmath>
#include <span>
#include <utility>
#include <vector>

#include "cpu/feature_part.hpp"

namespace mfa::cpu {
namespace {

// What a block of rows of one pattern contributes to one component.
struct Share {
  std::size_t component;
  std::vector<std::size_t> rows;
  std::vector<double> weights;     // responsibilities, times the rows' own weights
  std::vector<double> factors;     // (rows, L)
  std::vector<double> covariance;  // (L, L), of the factors
  double total = 0.0;              // of the weights
};

void add_factor_sums(const Share& share, std::size_t n, const Statistics& out) {
  double* sums = out.factor_sums + share.component * n;
  double* moments = out.factor_moments + share.component * n * n;
  for (std::size_t m = 0; m < share.rows.size(); ++m) {
    const double g = share.weights[m];
    const double* z = share.factors.data() + m * n;
    for (std::size_t l = 0; l < n; ++l) {
      sums[l] += g * z[l];
      for (std::size_t i = 0; i < n; ++i) moments[l * n + i] += g * z[l] * z[i];
    }
  }
  out.counts[share.component] += share.total;
  for (std::size_t i = 0; i < n * n; ++i) moments[i] += share.total * share.covariance[i];
}

// Features [first, first + count) of one component.
class Slab {
 public:
  Slab(const Model& model, const Rows& rows, std::size_t k, std::size_t first, std::size_t count)
      : model_(model),
        rows_(rows),
        component_(model.component(k)),
        noise_(model.noise_variance(k)),
        first_(first),
        count_(count),
        buffers_(accumulated_rows * count),
        factors_(accumulated_rows * (model.n_factors() + 1)) {}

  void add(const Share& share, double* cross, double* squares) {
    find_missing(share.rows.front());
    const std::size_t n = component_.n_factors;
    double weights[accumulated_rows];
    const double* x[accumulated_rows];
    for (std::size_t m = 0; m < share.rows.size(); m += accumulated_rows) {
      const std::size_t count = std::min(accumulated_rows, share.rows.size() - m);
      for (std::size_t r = 0; r < count; ++r) {
        const double* z = share.factors.data() + (m + r) * n;
        x[r] = complete(share.rows[m + r], z, buffers_.data() + r * count_);
        weights[r] = share.weights[m + r];
        for (std::size_t l = 0; l < n; ++l) factors_[r * (n + 1) + l] = weights[r] * z[l];
        factors_[r * (n + 1) + n] = weights[r];
      }
      model_.loops().f64.accumulate(x, count, component_.mean + first_, factors_.data(), weights, n, count_,
                                    component_.n_features, cross + first_, squares + first_);
    }
    add_uncertainty(share, cross, squares);
  }

 private:
  // In one row of the share: the others lack the same.
  void find_missing(std::size_t row) {
    const double* x = read_row(rows_, row, first_, count_, buffers_.data());
    missing_.clear();
    for (std::size_t j = 0; j < count_; ++j)
      if (std::isnan(x[j])) missing_.push_back(first_ + j);
    part_.load(component_, missing_);
  }

  // A row whose missing entries are their conditional means mu_m + A_m z.
  const double* complete(std::size_t row, const double* z, double* buffer) {
    const double* x = read_row(rows_, row, first_, count_, buffer);
    if (missing_.empty()) return x;
    if (x != buffer) std::copy_n(x, count_, buffer);
    const std::vector<double>& expected = part_.expected(z);
    for (std::size_t t = 0; t < missing_.size(); ++t) buffer[missing_[t] - first_] = expected[t];
    return buffer;
  }

  // What E[[z; 1] r_m^T] and E[r_m r_m] have beyond the products of means: M_o^-1 A_m^T, and its diagonal with A_m and D_m.
  void add_uncertainty(const Share& share, double* cross, double* squares) {
    const std::size_t n = component_.n_factors;
    for (std::size_t t = 0; t < missing_.size(); ++t) {
      const std::size_t j = missing_[t];
      double variance = noise_[j];
      for (std::size_t l = 0; l < n; ++l) {
        double sum = 0.0;
        for (std::size_t i = 0; i < n; ++i) sum += share.covariance[l * n + i] * part_.loading(i, t);
        cross[l * component_.n_features + j] += share.total * sum;
        variance += sum * part_.loading(l, t);
      }
      squares[j] += share.total * variance;
    }
  }

  const Model& model_;
  const Rows& rows_;
  const ComponentView component_;
  const double* noise_;  // (d)
  std::size_t first_, count_;
  std::vector<std::size_t> missing_;        // features
  FeaturePart part_;                        // the component in these
  std::vector<double> buffers_, factors_;   // (accumulated_rows, count), (accumulated_rows, L + 1)
};

// The shares of a block's rows, by component.
std::vector<Share> shares_of(const Model& model, const MarginalBlock& block, const BlockRange& range,
                             const double* weights, const core::LogSumExp* sums) {
  const std::size_t n = model.n_factors();
  std::vector<Share> shares;
  for (const std::size_t k : block.components()) {
    Share share;
    share.component = k;
    for (std::size_t i = 0; i < range.count; ++i) {
      const auto row = static_cast<std::size_t>(range.members[i]);
      const double responsibility = sums[i].share(block.values(i)[k]);
      const double g = responsibility * (weights == nullptr ? 1.0 : weights[row]);
      if (!(responsibility > negligible_responsibility) || g == 0.0) continue;
      share.rows.push_back(row);
      share.weights.push_back(g);
      share.factors.insert(share.factors.end(), block.factors(i, k), block.factors(i, k) + n);
      share.total += g;
    }
    if (share.rows.empty()) continue;
    share.covariance.assign(block.posterior_covariance(k), block.posterior_covariance(k) + n * n);
    shares.push_back(std::move(share));
  }
  return shares;
}

}  // namespace

BadRow marginal_expectation(const Model& model, const Rows& rows, const Patterns& patterns, const double* weights,
                            const Statistics& out, double* log_likelihoods, std::size_t n_threads) {
  const std::size_t d = model.n_features();
  const std::size_t K = model.n_components();
  const std::size_t n = model.n_factors();
  const std::size_t slabs = (d + slab_features - 1) / slab_features;
  const std::vector<BlockRange> all = split(patterns);
  // Blocks whose shares are kept at once: bounded in memory even if every row has a pattern of its own, and no component
  // can be left out.
  const std::size_t wave = std::clamp<std::size_t>((std::size_t{8} << 20) / (K * (n + 3) * (n + marginal_rows)), 32, 512);

  for (std::size_t start = 0; start < all.size(); start += wave) {
    const std::span<const BlockRange> ranges{all.data() + start, std::min(wave, all.size() - start)};
    std::vector<std::vector<Share>> shares(ranges.size());
    const BadRow bad = score_ranges(
        model, rows, ranges, n_threads, [&](const MarginalBlock& block, const BlockRange& range, std::size_t index) {
          core::LogSumExp sums[marginal_rows];
          for (std::size_t i = 0; i < range.count; ++i) {
            sums[i] = block.sum(i);
            const double log_sum = sums[i].value();
            if (!std::isfinite(log_sum)) return BadRow{static_cast<std::size_t>(range.members[i])};
            log_likelihoods[range.members[i]] = log_sum;
          }
          shares[index] = shares_of(model, block, range, weights, sums);
          return BadRow{};
        });
    if (bad) return bad;

    // One task per component and slab of features, each of which goes through the blocks in order: the sums do not depend
    // on who takes which task.
    std::vector<std::vector<const Share*>> by_component(K);
    for (const std::vector<Share>& block : shares)
      for (const Share& share : block) by_component[share.component].push_back(&share);
    parallel_for(K * slabs, n_threads, [&] {
      return [&](std::size_t task) {
        const std::size_t k = task / slabs;
        const std::size_t first = task % slabs * slab_features;
        Slab slab(model, rows, k, first, std::min(slab_features, d - first));
        for (const Share* share : by_component[k]) {
          if (first == 0) add_factor_sums(*share, n, out);
          slab.add(*share, out.cross + k * (n + 1) * d, out.squares + k * d);
        }
      };
    });
  }
  return {};
}

}  // namespace mfa::cpu
