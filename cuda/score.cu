#include "score.hpp"

#include <cmath>

#include "core/gaussian.hpp"
#include "core/reduce.hpp"
#include "core/rule.hpp"

namespace mfa::cuda {
namespace {

// One thread per entry.
template <class T>
__global__ void densities_out_kernel(ModelView model, ScoreView scores, std::size_t first, T* out,
                                     std::int64_t* bad_row) {
  const std::size_t K = model.n_components;
  const std::size_t task = task_index();
  if (task >= K * scores.n) return;
  const std::size_t i = task / K;
  const std::size_t k = task % K;
  const double value = scores.values[scores.at(i, k)];
  // A component of weight 0 has -inf by right.
  if (!core::in_range<T>(value) && std::isfinite(model.log_normalizers[k])) report_bad_row(bad_row, first + i);
  out[(first + i) * K + k] = static_cast<T>(value);
}

// One thread per row and group. Marks the best component of the first group where its factors are wanted.
template <class T>
__global__ void reduce_kernel(ModelView model, GroupView groups, ScoreView scores, std::size_t first, Reduced<T> out,
                              std::int64_t* bad_row) {
  const std::size_t K = model.n_components;
  const auto [i, g] = cell_of_thread(scores);
  if (g >= groups.count) return;
  const std::size_t begin = groups.begin(g);
  const std::size_t end = groups.end(g);
  core::LogSumExp sum;
  core::ArgMax best;
  for_each_known(scores, begin, end, i, [&](std::size_t k) {
    const double value = scores.values[scores.at(i, k)];
    sum.add(value);
    best.add(value, k - begin);
  });
  const double log_sum = sum.value();
  const std::size_t row = first + i;
  if (!core::in_range<T>(log_sum)) report_bad_row(bad_row, row);
  if (out.log_sum != nullptr) out.log_sum[row * groups.count + g] = log_sum;
  if (out.best_value != nullptr) out.best_value[row * groups.count + g] = best.max;
  if (out.best != nullptr) out.best[row * groups.count + g] = static_cast<std::int64_t>(best.index);
  if (out.responsibilities != nullptr)
    for (std::size_t k = begin; k < end; ++k) {
      const std::size_t at = scores.at(i, k);
      out.responsibilities[row * K + k] =
          scores.known[at] == known_nothing ? T(0) : static_cast<T>(sum.share(scores.values[at]));
    }
  if (out.factors == nullptr || g > 0) return;
  const std::size_t L = model.n_factors;
  const double* from = scores.factors + (i * K + begin + best.index) * L;
  double* z = out.factors + row * L;
  for (std::size_t l = 0; l < L; ++l) z[l] = from[l];
  if (scores.known[scores.at(i, begin + best.index)] == known_v)
    core::solve_lower_transposed(L, model.component_cholesky(begin + best.index), z);
}

}  // namespace

template <class S>
void log_densities(const DeviceModel& model, const Rows<S>& rows, Precision<S>* out, const Call& call) {
  using T = Precision<S>;
  const std::size_t K = model.n_components();
  const std::int64_t one_group[2] = {0, static_cast<std::int64_t>(K)};
  Scorer<S> scorer(model, one_group, false, true, call.bad_row);
  for_each_part(call, rows, scorer, [&](const Rows<S>& part) {
    scorer.score_all(part, score_tolerance<T>);
    launch_tasks(call.stream, K * part.count, densities_out_kernel<T>, scorer.model(), scorer.scores(), part.first, out,
                 call.bad_row);
  });
}

template <class S>
void reduce(const DeviceModel& model, const Rows<S>& rows, Groups groups, double tolerance, bool screening,
            const Reduced<Precision<S>>& out, const Call& call) {
  using T = Precision<S>;
  Scorer<S> scorer(model, groups, screening, out.factors != nullptr, call.bad_row);
  for_each_part(call, rows, scorer, [&](const Rows<S>& part) {
    scorer.score_groups(part, tolerance);
    launch_tasks(call.stream, scorer.groups().count * part.count, reduce_kernel<T>, scorer.model(), scorer.groups(),
                 scorer.scores(), part.first, out, call.bad_row);
  });
}

#define MFA_INSTANTIATE(S)                                                                                         \
  template void log_densities(const DeviceModel&, const Rows<S>&, Precision<S>*, const Call&);                     \
  template void reduce(const DeviceModel&, const Rows<S>&, Groups, double, bool, const Reduced<Precision<S>>&, \
                       const Call&);
MFA_FOR_SAMPLE_TYPES(MFA_INSTANTIATE)
#undef MFA_INSTANTIATE

}  // namespace mfa::cuda
