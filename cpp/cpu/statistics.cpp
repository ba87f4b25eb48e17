#include "cpu/statistics.hpp"

#include <algorithm>
#include <cmath>
#include <span>
#include <vector>

#include "core/reduce.hpp"

namespace mfa::cpu {
namespace {

// The samples of one component: rows, responsibilities (times weights) and factors, in the order of the rows.
struct Members {
  std::vector<std::size_t> rows;
  std::vector<double> responsibilities;
  std::vector<double> factors;  // (members, L)

  void add(std::size_t row, double responsibility, const double* z, std::size_t n_factors) {
    rows.push_back(row);
    responsibilities.push_back(responsibility);
    factors.insert(factors.end(), z, z + n_factors);
  }
};

void add_factor_sums(const Members& members, std::size_t k, std::size_t n, const double* posterior_covariance,
                     const Statistics& out) {
  double* sums = out.factor_sums + k * n;
  double* moments = out.factor_moments + k * n * n;
  for (std::size_t m = 0; m < members.rows.size(); ++m) {
    const double g = members.responsibilities[m];
    const double* z = members.factors.data() + m * n;
    out.counts[k] += g;
    for (std::size_t l = 0; l < n; ++l) {
      sums[l] += g * z[l];
      // The covariance row by row too: added once for all rows, it would show how many there were in a call.
      for (std::size_t i = 0; i < n; ++i)
        moments[l * n + i] += g * (z[l] * z[i] + (posterior_covariance != nullptr ? posterior_covariance[l * n + i] : 0.0));
    }
  }
}

template <class T>
void add_slab(const Loops& loops, const Rows& rows, const Members& members, const double* mean, std::size_t k,
              std::size_t n, std::size_t first, const Statistics& out) {
  const std::size_t d = rows.n_features;
  const std::size_t features = std::min(slab_features, d - first);
  T buffers[accumulated_rows][slab_features];
  const T* x[accumulated_rows];
  double weights[accumulated_rows];
  std::vector<double> factors(accumulated_rows * (n + 1));
  for (std::size_t m = 0; m < members.rows.size(); m += accumulated_rows) {
    const std::size_t count = std::min(accumulated_rows, members.rows.size() - m);
    for (std::size_t next = m + accumulated_rows; next < members.rows.size() && next < m + 2 * accumulated_rows; ++next)
      prefetch_row(rows, members.rows[next], first, features);
    for (std::size_t r = 0; r < count; ++r) {
      x[r] = read_row(rows, members.rows[m + r], first, features, buffers[r]);
      weights[r] = members.responsibilities[m + r];
      for (std::size_t l = 0; l < n; ++l) factors[r * (n + 1) + l] = weights[r] * members.factors[(m + r) * n + l];
      factors[r * (n + 1) + n] = weights[r];
    }
    typed<T>(loops).accumulate(x, count, mean + first, factors.data(), weights, n, features, d,
                     out.cross + k * (n + 1) * d + first, out.squares + k * d + first);
  }
}

// One task per component and slab of features, each of which goes through its samples in order: the sums do not depend
// on who takes which task.
template <class T, class Mean, class Covariance>
void add_members(const Loops& loops, const Rows& rows, const std::vector<Members>& members, std::size_t n,
                 const Mean& mean, const Covariance& posterior_covariance, const Statistics& out,
                 std::size_t n_threads) {
  const std::size_t slabs = (rows.n_features + slab_features - 1) / slab_features;
  parallel_for(members.size() * slabs, n_threads, [&] {
    return [&](std::size_t task) {
      const std::size_t k = task / slabs;
      const std::size_t slab = task % slabs;
      if (slab == 0) add_factor_sums(members[k], k, n, posterior_covariance(k), out);
      add_slab<T>(loops, rows, members[k], mean(k), k, n, slab * slab_features, out);
    };
  });
}

// What a block of rows contributes, before it is sorted by component.
struct BlockMembers {
  std::vector<std::size_t> components;
  Members members;
};

}  // namespace

template <class T>
BadRow expectation(const Model& model, const Rows& all_rows, const double* weights, bool screening,
                   const Statistics& out, double* log_likelihoods, std::size_t n_threads) {
  const std::size_t K = model.n_components();
  const std::size_t n = model.n_factors();
  const std::int64_t one_group[2] = {0, static_cast<std::int64_t>(K)};
  const double tolerance = score_tolerance<T>;
  // Rows whose responsibilities are kept at once, a block at least: bounded in memory even if no component can be left out.
  const std::size_t wave = std::clamp<std::size_t>((std::size_t{8} << 20) / (K * (n + 3)), most_block_rows, 32768);

  for (std::size_t start = 0; start < all_rows.n_rows; start += wave) {
    const Rows rows = part(all_rows, start, std::min(wave, all_rows.n_rows - start));
    std::vector<BlockMembers> blocks(rows.n_rows);  // at the index of each block's first row
    const BadRow bad = score_blocks<T>(
        model, rows, screening, n_threads, [&](BlockScorer<T>& scorer, std::size_t first, std::size_t count) {
          if (const BadRow row = scorer.score_groups(one_group, tolerance)) return row;
          BlockMembers& block = blocks[first];
          std::vector<double> z(n);
          for (std::size_t i = 0; i < count; ++i) {
            const double* values = scorer.values(i);
            const std::span<const std::size_t> scored = scorer.scored(i);
            core::LogSumExp sum;
            for (const std::size_t k : scored) sum.add(values[k]);
            const double log_sum = sum.value();
            if (!std::isfinite(log_sum)) return BadRow{first + i};
            log_likelihoods[start + first + i] = log_sum;
            const double weight = weights != nullptr ? weights[start + first + i] : 1.0;
            if (weight == 0.0) continue;
            for (const std::size_t k : scored) {
              const double g = sum.share(values[k]);
              if (!(g > negligible_responsibility)) continue;
              scorer.factors(i, k, z.data());
              block.components.push_back(k);
              block.members.add(first + i, weight * g, z.data(), n);
            }
          }
          return BadRow{};
        });
    if (bad) return start + *bad;

    std::vector<Members> members(K);
    for (const BlockMembers& block : blocks)
      for (std::size_t m = 0; m < block.components.size(); ++m)
        members[block.components[m]].add(block.members.rows[m], block.members.responsibilities[m],
                                         block.members.factors.data() + m * n, n);
    add_members<T>(
        model.loops(), rows, members, n, [&](std::size_t k) { return model.component(k).mean; },
        [&](std::size_t k) { return model.posterior_covariance(k); }, out, n_threads);
  }
  return {};
}

template <class T>
void assigned(const Loops& loops, const Rows& rows, const double* weights, std::size_t n_components,
              std::size_t n_factors, const double* means, const std::int64_t* labels, const double* factors,
              const Statistics& out, std::size_t n_threads) {
  std::vector<Members> members(n_components);
  for (std::size_t i = 0; i < rows.n_rows; ++i)
    if (const double weight = weights != nullptr ? weights[i] : 1.0; weight != 0.0)
      members[static_cast<std::size_t>(labels[i])].add(i, weight, factors + i * n_factors, n_factors);
  add_members<T>(
      loops, rows, members, n_factors, [&](std::size_t k) { return means + k * rows.n_features; },
      [](std::size_t) -> const double* { return nullptr; }, out, n_threads);
}

template void assigned<float>(const Loops&, const Rows&, const double*, std::size_t, std::size_t, const double*,
                              const std::int64_t*, const double*, const Statistics&, std::size_t);
template void assigned<double>(const Loops&, const Rows&, const double*, std::size_t, std::size_t, const double*,
                               const std::int64_t*, const double*, const Statistics&, std::size_t);
template BadRow expectation<float>(const Model&, const Rows&, const double*, bool, const Statistics&, double*,
                                   std::size_t);
template BadRow expectation<double>(const Model&, const Rows&, const double*, bool, const Statistics&, double*,
                                    std::size_t);

double add_in_order(double total, const double* values, const double* weights, std::size_t n) {
  for (std::size_t i = 0; i < n; ++i) total += weights == nullptr ? values[i] : weights[i] * values[i];
  return total;
}

}  // namespace mfa::cpu
