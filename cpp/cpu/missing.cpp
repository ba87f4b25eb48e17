#include "cpu/missing.hpp"

#include <algorithm>
#include <cmath>
#include <vector>

#include "core/marginal.hpp"
#include "core/philox.hpp"
#include "cpu/feature_part.hpp"
#include "cpu/sample.hpp"

namespace mfa::cpu {
namespace {

// Mean and variance of the missing features of a block's rows, mixed one component at a time.
class Mixer {
 public:
  explicit Mixer(const Model& model) : model_(model), factor_(model.n_factors()) {}

  void mix(const MarginalBlock& block, std::size_t count, bool with_variance) {
    size_ = block.missing().size();
    mean_.assign(count * size_, 0.0);
    variance_.assign(count * size_, 0.0);
    weights_.assign(count, 0.0);
    sums_.resize(count);
    for (std::size_t i = 0; i < count; ++i) sums_[i] = block.sum(i);
    for (const std::size_t k : block.components()) {
      bool loaded = false;
      for (std::size_t i = 0; i < count; ++i) {
        const double g = sums_[i].share(block.values(i)[k]);
        if (!(g > negligible_responsibility)) continue;
        if (!loaded) load(block, k, with_variance);
        loaded = true;
        add(block, k, i, g);
      }
    }
  }

  const core::LogSumExp& sum_of(std::size_t i) const { return sums_[i]; }
  const double* mean(std::size_t i) const { return mean_.data() + i * size_; }
  const double* variance(std::size_t i) const { return variance_.data() + i * size_; }

 private:
  // Component k in the missing features, and the variance that is left there.
  void load(const MarginalBlock& block, std::size_t k, bool with_variance) {
    const ComponentView c = model_.component(k);
    const auto missing = block.missing();
    component_.load(c, missing);
    component_variance_.assign(size_, 0.0);
    if (!with_variance) return;
    for (std::size_t t = 0; t < size_; ++t) {
      for (std::size_t l = 0; l < c.n_factors; ++l) factor_[l] = component_.loading(l, t);
      component_variance_[t] = core::conditional_variance(c.n_factors, block.cholesky(k), factor_.data(),
                                                          model_.noise_variance(k)[missing[t]]);
    }
  }

  void add(const MarginalBlock& block, std::size_t k, std::size_t i, double g) {
    const std::vector<double>& values = component_.expected(block.factors(i, k));
    weights_[i] += g;
    const double share = g / weights_[i];
    for (std::size_t t = 0; t < size_; ++t)
      core::mix_moments(share, values[t], component_variance_[t], &mean_[i * size_ + t], &variance_[i * size_ + t]);
  }

  const Model& model_;
  std::size_t size_ = 0;  // d_m
  FeaturePart component_;
  std::vector<double> component_variance_;  // (d_m)
  std::vector<double> factor_;              // (L)
  std::vector<double> mean_, variance_;     // (rows, d_m)
  std::vector<double> weights_;             // (rows)
  std::vector<core::LogSumExp> sums_;       // (rows)
};

}  // namespace

template <class T>
BadRow marginal_log_densities(const Model& model, const Rows& rows, const Patterns& patterns, T* out,
                              std::size_t n_threads) {
  const std::size_t K = model.n_components();
  return score_ranges(model, rows, split(patterns), n_threads,
                      [&](const MarginalBlock& block, const BlockRange& range, std::size_t) {
                        for (std::size_t i = 0; i < range.count; ++i) {
                          const auto row = static_cast<std::size_t>(range.members[i]);
                          for (const std::size_t k : block.components()) {
                            const double value = block.values(i)[k];
                            // A component of weight 0 has -inf by right.
                            if (!in_range<T>(value) && std::isfinite(model.log_weight(k))) return BadRow{row};
                            out[row * K + k] = static_cast<T>(value);
                          }
                        }
                        return BadRow{};
                      });
}

template <class T>
BadRow marginal_reduce(const Model& model, const Rows& rows, const Patterns& patterns, Groups groups,
                       const Reduced<T>& out, std::size_t n_threads) {
  const std::size_t K = model.n_components();
  const std::size_t n = model.n_factors();
  return score_ranges(
      model, rows, split(patterns), n_threads, [&](const MarginalBlock& block, const BlockRange& range, std::size_t) {
        for (std::size_t i = 0; i < range.count; ++i) {
          const auto row = static_cast<std::size_t>(range.members[i]);
          const auto factors = [&](std::size_t k, double* z) { std::copy_n(block.factors(i, k), n, z); };
          if (!reduce_row(block.values(i), block.components(), groups, K, n, row, out, factors)) return BadRow{row};
        }
        return BadRow{};
      });
}

template <class T>
BadRow conditional(const Model& model, const Rows& rows, const Patterns& patterns, const Conditional<T>& out,
                   std::size_t n_threads) {
  const std::size_t d = model.n_features();
  const std::size_t K = model.n_components();
  const std::size_t n = model.n_factors();
  return score_ranges(
      model, rows, split(patterns), n_threads, [&](const MarginalBlock& block, const BlockRange& range, std::size_t) {
        Mixer mixer(model);
        mixer.mix(block, range.count, out.variance != nullptr);
        for (std::size_t i = 0; i < range.count; ++i) {
          const auto row = static_cast<std::size_t>(range.members[i]);
          if (!in_range<T>(mixer.sum_of(i).value())) return BadRow{row};
          for (std::size_t t = 0; t < block.missing().size(); ++t) {
            const std::size_t at = row * d + block.missing()[t];
            if (out.mean != nullptr) out.mean[at] = static_cast<T>(mixer.mean(i)[t]);
            if (out.variance != nullptr) out.variance[at] = static_cast<T>(mixer.variance(i)[t]);
          }
          for (const std::size_t k : block.components()) {
            if (out.responsibilities != nullptr)
              out.responsibilities[row * K + k] = static_cast<T>(mixer.sum_of(i).share(block.values(i)[k]));
            if (out.factors != nullptr) std::copy_n(block.factors(i, k), n, out.factors + (row * K + k) * n);
          }
        }
        return BadRow{};
      });
}

template <class T>
BadRow conditional_sample(const Model& model, const Rows& rows, const Patterns& patterns, std::uint64_t seed,
                          std::size_t n_draws, T* out, std::size_t n_threads) {
  const std::size_t d = model.n_features();
  const std::size_t n = model.n_factors();
  const Loops& loops = model.loops();
  return score_ranges(
      model, rows, split(patterns), n_threads, [&](const MarginalBlock& block, const BlockRange& range, std::size_t) {
        std::vector<double> cumulative(model.n_components()), deviation(n), z(n);
        for (std::size_t i = 0; i < range.count; ++i) {
          const auto row = static_cast<std::size_t>(range.members[i]);
          const core::LogSumExp sum = block.sum(i);
          if (!in_range<T>(sum.value())) return BadRow{row};
          double total = 0.0;
          for (const std::size_t k : block.components()) cumulative[k] = total += sum.share(block.values(i)[k]);
          for (std::size_t s = 0; s < n_draws; ++s) {
            const std::uint64_t index = core::most_samples + (std::uint64_t{s} << core::draw_shift) + row;
            const std::size_t k = draw_component(seed, index, cumulative);
            loops.sample_factors(seed, index, n, deviation.data());
            core::solve_lower_transposed(n, block.cholesky(k), deviation.data());
            for (std::size_t l = 0; l < n; ++l) z[l] = block.factors(i, k)[l] + deviation[l];
            T* x = out + (s * rows.n_rows + row) * d;
            typed<T>(loops).sample(seed, index, model.component(k), z.data(), model.noise_variance(k), x);
            for (std::size_t t = 0; t < block.observed().size(); ++t)
              x[block.observed()[t]] = static_cast<T>(block.entries(i)[t]);
          }
        }
        return BadRow{};
      });
}

#define MFA_INSTANTIATE(T)                                                                                            \
  template BadRow marginal_log_densities(const Model&, const Rows&, const Patterns&, T*, std::size_t);                \
  template BadRow marginal_reduce(const Model&, const Rows&, const Patterns&, Groups, const Reduced<T>&, std::size_t); \
  template BadRow conditional(const Model&, const Rows&, const Patterns&, const Conditional<T>&, std::size_t);        \
  template BadRow conditional_sample(const Model&, const Rows&, const Patterns&, std::uint64_t, std::size_t, T*,      \
                                     std::size_t);
MFA_INSTANTIATE(float)
MFA_INSTANTIATE(double)
#undef MFA_INSTANTIATE

}  // namespace mfa::cpu
