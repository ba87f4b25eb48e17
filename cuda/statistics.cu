#include "statistics.hpp"

#include <cmath>

#include "core/gaussian.hpp"
#include "core/reduce.hpp"

namespace mfa::cuda {
namespace {

// Responsibilities below it add nothing to a sum in double.
constexpr double negligible_responsibility = 1e-16;
// Features that one block adds up, one to a thread, and sums that a thread keeps of its own.
constexpr unsigned block_features = 128;
constexpr std::size_t sums_at_once = 12;

// What is known of the members of the components, who are listed as entries.
struct Members {
  EntryView entries;
  std::size_t n_components, n_factors;
  const double* shares;   // (K, stride) responsibilities, or null for 1
  const double* weights;  // (n) how often each sample counts, or null for once
  std::size_t stride;
  const double* factors;  // z of row i and component k: factors + i * row_factors + k * component_factors
  std::size_t row_factors, component_factors;

  __device__ double share(std::size_t i, std::size_t k) const {
    return (shares == nullptr ? 1.0 : shares[k * stride + i]) * (weights == nullptr ? 1.0 : weights[i]);
  }
  __device__ const double* z(std::size_t i, std::size_t k) const {
    return factors + i * row_factors + k * component_factors;
  }
};

// One thread per row. Responsibilities take the place of the errors, which are of no use any more.
__global__ void responsibilities_kernel(ModelView model, ScoreView scores, std::size_t first, double* log_likelihoods,
                                        std::int64_t* bad_row) {
  const std::size_t i = task_index();
  if (i >= scores.n) return;
  core::LogSumExp sum;
  for (std::size_t k = 0; k < model.n_components; ++k)
    if (scores.known[scores.at(i, k)] != known_nothing) sum.add(scores.values[scores.at(i, k)]);
  const double log_sum = sum.value();
  if (!std::isfinite(log_sum)) report_bad_row(bad_row, first + i);
  log_likelihoods[first + i] = log_sum;
  for (std::size_t k = 0; k < model.n_components; ++k) {
    const std::size_t at = scores.at(i, k);
    const double share = scores.known[at] == known_nothing ? 0.0 : std::exp(scores.values[at] - log_sum);
    const bool counts = share > negligible_responsibility;
    scores.errors[at] = share;
    scores.marks[at] = counts;
    if (!counts || scores.known[at] == known_z) continue;
    double* factors = scores.factors + (i * model.n_components + k) * model.n_factors;
    core::solve_lower_transposed(model.n_factors, model.component_cholesky(k), factors);
    scores.known[at] = known_z;
  }
}

// One thread per row.
__global__ void labels_kernel(const std::int64_t* labels, std::size_t first, std::size_t n, std::size_t stride,
                              std::size_t n_components, std::uint8_t* marks, std::int64_t* bad_row) {
  const std::size_t i = task_index();
  if (i >= n) return;
  const std::int64_t label = labels[first + i];
  if (label < 0 || label >= static_cast<std::int64_t>(n_components)) report_bad_row(bad_row, first + i);
  for (std::size_t k = 0; k < n_components; ++k) marks[k * stride + i] = label == static_cast<std::int64_t>(k);
}

// One block per component and slab of features, one thread per feature.
template <class S>
__global__ void __launch_bounds__(block_features)
    cross_kernel(Rows<S> rows, std::size_t d, Members members, const double* means, Statistics out) {
  const std::size_t L = members.n_factors;
  const std::size_t slabs = (d + block_features - 1) / block_features;
  const std::size_t k = blockIdx.x / slabs;
  const std::size_t j = blockIdx.x % slabs * block_features + threadIdx.x;
  if (j >= d) return;
  const int* list = members.entries.rows;
  const int begin = members.entries.starts[k];
  const int end = members.entries.starts[k + 1];
  const double mean = means[k * d + j];
  double* cross = out.cross + k * (L + 1) * d + j;
  for (std::size_t l = 0; l <= L; l += sums_at_once) {
    const std::size_t count = L + 1 - l < sums_at_once ? L + 1 - l : sums_at_once;
    double sums[sums_at_once];
#pragma unroll
    for (std::size_t m = 0; m < sums_at_once; ++m) sums[m] = m < count ? cross[(l + m) * d] : 0.0;
    double square = out.squares[k * d + j];
#pragma unroll 4
    for (int e = begin; e < end; ++e) {
      const auto i = static_cast<std::size_t>(list[e]);
      const double offset = to<double>(rows.row(i)[j]) - mean;
      const double weighted = members.share(i, k) * offset;
      const double* z = members.z(i, k) + l;
      square += weighted * offset;
#pragma unroll
      for (std::size_t m = 0; m < sums_at_once; ++m)
        if (m < count) sums[m] += weighted * (l + m < L ? z[m] : 1.0);
    }
#pragma unroll
    for (std::size_t m = 0; m < sums_at_once; ++m)
      if (m < count) cross[(l + m) * d] = sums[m];
    if (l == 0) out.squares[k * d + j] = square;
  }
}

// One block per component, one thread per number: (l, m) of the moments, and for m = L of the sums; the count is the last.
__global__ void factor_sums_kernel(Members members, const double* covariances, Statistics out) {
  const std::size_t L = members.n_factors;
  const std::size_t k = blockIdx.x;
  const int begin = members.entries.starts[k];
  const int end = members.entries.starts[k + 1];
  for (std::size_t task = threadIdx.x; task <= L * (L + 1); task += blockDim.x) {
    const std::size_t l = task / (L + 1);
    const std::size_t m = task % (L + 1);
    double sum = 0.0, count = 0.0;
    for (int e = begin; e < end; ++e) {
      const auto i = static_cast<std::size_t>(members.entries.rows[e]);
      const double share = members.share(i, k);
      const double* z = members.z(i, k);
      count += share;
      if (l < L) sum += share * z[l] * (m < L ? z[m] : 1.0);
    }
    if (l == L) out.counts[k] += count;
    else if (m == L) out.factor_sums[k * L + l] += sum;
    else
      out.factor_moments[(k * L + l) * L + m] +=
          sum + (covariances == nullptr ? 0.0 : count * covariances[(k * L + l) * L + m]);
  }
}

template <class S>
void add_members(Stream stream, const Rows<S>& rows, std::size_t d, const Members& members, const double* means,
                 const double* covariances, const Statistics& out) {
  launch(stream, members.n_components, task_threads, factor_sums_kernel, members, covariances, out);
  launch(stream, members.n_components * ceil_div(d, block_features), block_features, cross_kernel<S>, rows, d, members,
         means, out);
}

}  // namespace

template <class S>
void expectation(const DeviceModel& model, const Rows<S>& rows, const double* sample_weight, bool screening,
                 const Statistics& out, double* log_likelihoods, const Call& call) {
  const std::size_t K = model.n_components();
  const std::size_t L = model.n_factors();
  const std::int64_t one_group[2] = {0, static_cast<std::int64_t>(K)};
  Scorer<S> scorer(model, one_group, screening, true, call.bad_row);
  for_each_part(call, rows, scorer, [&](const Rows<S>& part) {
    scorer.score_groups(part, score_tolerance<Precision<S>>);
    const ScoreView& scores = scorer.scores();
    launch_tasks(call.stream, part.count, responsibilities_kernel, scorer.model(), scores, part.first, log_likelihoods,
                 call.bad_row);
    list_entries(call.stream, scores.marks, 1, K, part.count, scores.stride, scorer.entries());
    const double* weights = sample_weight == nullptr ? nullptr : sample_weight + part.first;
    const Members members{scorer.entries(), K, L, scores.errors, weights, scores.stride, scores.factors, K * L, L};
    add_members(call.stream, part, model.n_features(), members, scorer.model().means, scorer.model().covariances, out);
  });
}

template <class S>
void assigned(const Rows<S>& rows, std::size_t n_components, std::size_t n_factors, std::size_t n_features,
              const double* means, const std::int64_t* labels, const double* factors, const double* sample_weight,
              const Statistics& out, const Call& call) {
  const std::size_t K = n_components;
  std::uint8_t* marks = nullptr;
  EntryView entries{};
  std::size_t stride = 0;
  start_report(call, rows.count);
  for_each_chunk(
      call, rows.count, K,
      [&](Arena& arena, std::size_t places) {
        stride = places;
        marks = arena.take<std::uint8_t>(K * places);
        entries = lay_out_entries(arena, K, places, places);
      },
      [&](const Blas&) {},
      [&](std::size_t first, std::size_t count) {
        launch_tasks(call.stream, count, labels_kernel, labels, first, count, stride, K, marks, call.bad_row);
        list_entries(call.stream, marks, 1, K, count, stride, entries);
        const double* weights = sample_weight == nullptr ? nullptr : sample_weight + first;
        const double* z = factors + first * n_factors;
        const Members members{entries, K, n_factors, nullptr, weights, stride, z, n_factors, 0};
        add_members(call.stream, rows.part(first, count), n_features, members, means, nullptr, out);
      });
}

#define MFA_INSTANTIATE(S)                                                                                             \
  template void expectation(const DeviceModel&, const Rows<S>&, const double*, bool, const Statistics&, double*,       \
                            const Call&);                                                                              \
  template void assigned(const Rows<S>&, std::size_t, std::size_t, std::size_t, const double*, const std::int64_t*,    \
                         const double*, const double*, const Statistics&, const Call&);
MFA_FOR_SAMPLE_TYPES(MFA_INSTANTIATE)
#undef MFA_INSTANTIATE

}  // namespace mfa::cuda
