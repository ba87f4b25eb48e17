#include "gradient.hpp"

#include <cmath>

#include "core/gaussian.hpp"
#include "core/reduce.hpp"
#include "tiles.hpp"

namespace mfa::cuda {
namespace {

// Terms of one row that are told apart by a mark; few in tests, which are to need more than one round.
#if defined(MFA_CUDA_EMULATION)
constexpr std::size_t marked_at_once = 3;
#else
constexpr std::size_t marked_at_once = 255;
#endif

// One thread per row: its terms [first, first + marked_at_once) are marked 1, 2, ...; their factors become z.
__global__ void number_terms_kernel(ModelView model, ScoreView scores, std::size_t first) {
  const std::size_t i = task_index();
  if (i >= scores.n) return;
  std::size_t term = 0;
  for (std::size_t k = 0; k < model.n_components; ++k) {
    const std::size_t at = scores.at(i, k);
    scores.marks[at] = 0;
    if (scores.errors[at] == 0.0) continue;
    if (term >= first && term < first + marked_at_once) scores.marks[at] = static_cast<std::uint8_t>(term - first + 1);
    ++term;
    if (scores.known[at] != known_v) continue;
    double* factors = scores.factors + (i * model.n_components + k) * model.n_factors;
    core::solve_lower_transposed(model.n_factors, model.component_cholesky(k), factors);
    scores.known[at] = known_z;
  }
}

__global__ void mark_terms_kernel(std::size_t n_components, ScoreView scores) {
  const auto [i, k] = cell_of_thread(scores);
  if (k >= n_components) return;
  const std::size_t at = scores.at(i, k);
  scores.marks[at] = scores.errors[at] != 0.0;
}

// The listed terms, of which a row has one at most: no two warps write to the same row. Of terms of components that are one and
// the same nothing is left.
template <class S>
__global__ void __launch_bounds__(pair_threads)
    add_terms_kernel(Rows<S> rows, ModelView model, EntryView entries, ScoreView scores, double* out) {
  const std::size_t K = model.n_components;
  const std::size_t L = model.n_factors;
  const std::size_t d = model.n_features;
  for_each_pair(rows, entries, K, [&](const Pair<S>& pair) {
    const std::size_t k = pair.component;
    const double* mean = model.component_mean(k);
    const double* loadings = model.component_loadings(k);
    const double* inverse_noise = model.component_inverse_noise(k);
    const double* z[rows_of_warp];
    double share[rows_of_warp];
    for (unsigned r = 0; r < rows_of_warp; ++r) {
      z[r] = scores.factors + (pair.rows[r] * K + k) * L;
      share[r] = scores.errors[scores.at(pair.rows[r], k)];
    }
    for (std::size_t j = threadIdx.x % warp_size; j < d; j += warp_size) {
      double rest[rows_of_warp];
      for (unsigned r = 0; r < rows_of_warp; ++r) rest[r] = to<double>(pair.x[r][j]) - mean[j];
      for (std::size_t l = 0; l < L; ++l) {
        const double loading = loadings[l * d + j];
        for (unsigned r = 0; r < rows_of_warp; ++r) rest[r] -= loading * z[r][l];
      }
      const double weight = inverse_noise == nullptr ? model.inverse_scalars[k] : inverse_noise[j];
      for (unsigned r = 0; r < rows_of_warp; ++r)
        if (r < pair.count) out[pair.rows[r] * d + j] += rounded_product(share[r] * weight, rest[r]);
    }
  });
}

// One thread per row: the shares that (15a) gives the components.
__global__ void shares_kernel(GroupView groups, bool sum_rule, const double* vectors, std::size_t first,
                              ScoreView scores) {
  const std::size_t i = task_index();
  if (i >= scores.n) return;
  for (std::size_t g = 0; g < groups.count; ++g) {
    const double weight = vectors[(first + i) * groups.count + g];
    core::LogSumExp sum;
    core::ArgMax best;
    for (std::size_t k = groups.begin(g); k < groups.end(g); ++k) {
      const std::size_t at = scores.at(i, k);
      if (scores.known[at] == known_nothing) continue;
      sum.add(scores.values[at]);
      best.add(scores.values[at], k);
    }
    for (std::size_t k = groups.begin(g); k < groups.end(g); ++k) {
      const std::size_t at = scores.at(i, k);
      double share = 0.0;
      if (sum_rule && scores.known[at] != known_nothing) share = sum.share(scores.values[at]);
      if (!sum_rule && k == best.index) share = 1.0;
      scores.errors[at] = -weight * share;
    }
  }
}

// One thread per number. A score in range may have a gradient that is not: that is as many times steeper as the noise is small.
template <class T>
__global__ void round_kernel(const double* from, std::size_t n, std::size_t d, const double* vectors, std::size_t n_groups,
                             std::size_t first, T* to, std::int64_t* bad_row) {
  const std::size_t task = task_index();
  if (task >= n * d) return;
  const auto value = static_cast<T>(from[task]);
  to[first * d + task] = value;
  if (std::isfinite(value)) return;
  const std::size_t row = first + task / d;
  for (std::size_t g = 0; g < n_groups; ++g)
    if (!std::isfinite(vectors[row * n_groups + g])) return;  // nothing else was asked for
  report_bad_row(bad_row, row);
}

}  // namespace

template <class S>
void Gradients<S>::lay_out(Arena& arena, const ModelView& model, std::size_t stride) {
  data_ = arena.take<double>(stride * model.n_features);
  zeros_ = arena.take<double>(model.n_features);
}

template <class S>
void Gradients<S>::add_up(Stream stream, const Rows<S>& rows, Scorer<S>& scorer, std::size_t most_terms) {
  const ModelView& model = scorer.model();
  const ScoreView& scores = scorer.scores();
  fill_zero(stream, data_, scores.n * model.n_features * sizeof(double));
  for (std::size_t first = 0; first < most_terms; first += marked_at_once) {
    launch_tasks(stream, scores.n, number_terms_kernel, model, scores, first);
    for (std::size_t mark = 1; mark <= marked_at_once && first + mark <= most_terms; ++mark) {
      list_entries(stream, scores.marks, static_cast<std::uint8_t>(mark), model.n_components, scores.n, scores.stride,
                   scorer.entries());
      launch_over_tiles(stream, add_terms_kernel<S>, rows, model, scorer.entries(), scores, data_);
    }
  }
}

template <class S>
void Gradients<S>::curve(Stream stream, Scorer<S>& scorer) {
  const ModelView& model = scorer.model();
  const ScoreView& scores = scorer.scores();
  fill_zero(stream, zeros_, model.n_features * sizeof(double));
  launch_tasks(stream, model.n_components * scores.n, mark_terms_kernel, model.n_components, scores);
  list_entries(stream, scores.marks, 1, model.n_components, scores.n, scores.stride, scorer.entries());
  const Rows<double> gradients{reinterpret_cast<const char*>(data_),
                               static_cast<std::ptrdiff_t>(model.n_features * sizeof(double)), scores.n};
  evaluate_distance(stream, gradients, model, zeros_, scorer.entries(), scores);
}

template <class S>
void gradient(const DeviceModel& model, const Rows<S>& rows, Groups groups, Rule rule, bool screening,
              const double* vectors, Precision<S>* out, const Call& call) {
  using T = Precision<S>;
  const std::size_t d = model.n_features();
  Scorer<S> scorer(model, groups, screening, true, call.bad_row);
  Gradients<S> gradients;
  const auto lay_out = [&](Arena& arena, std::size_t stride) { gradients.lay_out(arena, model.view(), stride); };
  for_each_part(call, rows, scorer, lay_out, [&](const Rows<S>& part) {
    scorer.score_groups(part, score_tolerance<double>);
    launch_tasks(call.stream, part.count, shares_kernel, scorer.groups(), rule == Rule::sum, vectors, part.first,
                 scorer.scores());
    gradients.add_up(call.stream, part, scorer, rule == Rule::sum ? model.n_components() : scorer.groups().count);
    launch_tasks(call.stream, part.count * d, round_kernel<T>, gradients.data(), part.count, d, vectors,
                 scorer.groups().count, part.first, out, call.bad_row);
  });
}

template class Gradients<float>;
template class Gradients<double>;
#define MFA_INSTANTIATE(S)                                                                                   \
  template void gradient(const DeviceModel&, const Rows<S>&, Groups, Rule, bool, const double*, Precision<S>*, \
                         const Call&);
MFA_FOR_SAMPLE_TYPES(MFA_INSTANTIATE)
#undef MFA_INSTANTIATE

}  // namespace mfa::cuda
