#include "statistics.hpp"

#include <cmath>

#include "core/gaussian.hpp"
#include "core/reduce.hpp"
#include "core/rule.hpp"
#include "tiles.hpp"

namespace mfa::cuda {
namespace {

// One thread per row. Marks the members; their responsibilities take the place of the errors, which are of no use any more.
__global__ void responsibilities_kernel(std::size_t n_components, ScoreView scores, std::size_t first,
                                        double* log_likelihoods, std::int64_t* bad_row) {
  const std::size_t i = task_index();
  if (i >= scores.n) return;
  core::LogSumExp sum;
  for_each_known(scores, 0, n_components, i, [&](std::size_t k) { sum.add(scores.values[scores.at(i, k)]); });
  const double log_sum = sum.value();
  if (!std::isfinite(log_sum)) report_bad_row(bad_row, first + i);
  log_likelihoods[first + i] = log_sum;
  for_each_known(scores, 0, n_components, i, [&](std::size_t k) {
    const std::size_t at = scores.at(i, k);
    const double share = sum.share(scores.values[at]);
    if (!(share > core::negligible_responsibility)) return;
    scores.errors[at] = share;
    scores.marks[at] = 1;
  });
}

// One thread per member. Blocks take tile after tile, one to a warp.
__global__ void solve_kernel(ModelView model, EntryView entries, ScoreView scores) {
  const unsigned lane = threadIdx.x % warp_size;
  const int tiles = entries.tile_starts[model.n_components];
  const auto step = static_cast<int>(gridDim.x * (blockDim.x / warp_size));
  for (auto tile = static_cast<int>(task_index() / warp_size); tile < tiles; tile += step) {
    const Tile members = tile_at(entries, model.n_components, tile);
    if (lane >= members.count) continue;
    const auto i = static_cast<std::size_t>(members.rows[lane]);
    const std::size_t k = members.component;
    if (scores.known[scores.at(i, k)] == known_z) continue;
    double* factors = scores.factors + (i * model.n_components + k) * model.n_factors;
    core::solve_lower_transposed(model.n_factors, model.component_cholesky(k), factors);
    scores.known[scores.at(i, k)] = known_z;
  }
}
static_assert(tile_entries == warp_size);

// One thread per row.
__global__ void labels_kernel(const std::int64_t* labels, std::size_t first, std::size_t n, std::size_t stride,
                              std::size_t n_components, std::uint8_t* marks, std::int64_t* bad_row) {
  const std::size_t i = task_index();
  if (i >= n) return;
  const std::int64_t label = labels[first + i];
  if (label < 0 || label >= static_cast<std::int64_t>(n_components)) report_bad_row(bad_row, first + i);
  for (std::size_t k = 0; k < n_components; ++k) marks[k * stride + i] = label == static_cast<std::int64_t>(k);
}

}  // namespace

template <class S>
void expectation(const DeviceModel& model, const Rows<S>& rows, const double* sample_weight, bool screening,
                 const Statistics& out, double* log_likelihoods, const Call& call) {
  const std::size_t K = model.n_components();
  const std::size_t L = model.n_factors();
  const std::int64_t one_group[2] = {0, static_cast<std::int64_t>(K)};
  Scorer<S> scorer(model, one_group, screening, true, call.bad_row);
  Split split{};
  const auto lay_out = [&](Arena& arena, std::size_t) { split = lay_out_split(arena, L, model.n_features()); };
  for_each_part(call, rows, scorer, lay_out, [&](const Rows<S>& part) {
    scorer.score_groups(part, score_tolerance<Precision<S>>);
    const ScoreView& scores = scorer.scores();
    fill_zero(call.stream, scores.marks, K * scores.stride);
    launch_tasks(call.stream, part.count, responsibilities_kernel, K, scores, part.first, log_likelihoods,
                 call.bad_row);
    list_entries(call.stream, scores.marks, 1, K, part.count, scores.stride, scorer.entries());
    launch(call.stream, resident_blocks(), task_threads, solve_kernel, scorer.model(), scorer.entries(), scores);
    const double* weights = sample_weight == nullptr ? nullptr : sample_weight + part.first;
    const Members members{scorer.entries(), K, L, scores.errors, weights, scores.stride, scores.factors, K * L, L};
    add_members(call.stream, part, members, scorer.model().means, scorer.model().covariances, split, out);
  });
}

template <class S>
void assigned(const Rows<S>& rows, std::size_t n_components, std::size_t n_factors, std::size_t n_features,
              const double* means, const std::int64_t* labels, const double* factors, const double* sample_weight,
              const Statistics& out, const Call& call) {
  const std::size_t K = n_components;
  std::uint8_t* marks = nullptr;
  EntryView entries{};
  Split split{};
  std::size_t stride = 0;
  start_report(call, rows.count);
  for_each_chunk(
      call, rows.count, K, false,
      [&](Arena& arena, std::size_t places) {
        stride = places;
        marks = arena.take<std::uint8_t>(K * places);
        entries = lay_out_entries(arena, K, places, places);
        split = lay_out_split(arena, n_factors, n_features);
      },
      [&](const Blas*) {},
      [&](std::size_t first, std::size_t count) {
        launch_tasks(call.stream, count, labels_kernel, labels, first, count, stride, K, marks, call.bad_row);
        list_entries(call.stream, marks, 1, K, count, stride, entries);
        const double* weights = sample_weight == nullptr ? nullptr : sample_weight + first;
        const double* z = factors + first * n_factors;
        const Members members{entries, K, n_factors, nullptr, weights, stride, z, n_factors, 0};
        add_members(call.stream, rows.part(first, count), members, means, nullptr, split, out);
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
