#include "dense.hpp"

#include <cmath>
#include <limits>

#include "core/gaussian.hpp"

namespace mfa::cuda {
namespace {

// One warp per row.
template <class S>
__global__ void center_kernel(Rows<S> rows, ModelView model, ScoreView scores, DenseSpace space,
                              std::int64_t* bad_row) {
  const std::size_t d = model.n_features;
  const std::size_t i = task_index() / warp_size;
  if (i >= scores.n) return;  // a whole warp
  const bool skips = scores.skips(i);
  double square = 0.0;
  for (std::size_t j = threadIdx.x % warp_size; j < d; j += warp_size) {
    const double value = skips ? 0.0 : to<double>(rows.row(i)[j]) - model.center[j];
    space.centered[i * d + j] = value;
    if (space.squares != nullptr) space.squares[i * d + j] = value * value;
    square += value * value;
  }
  const double norm = warp_sum(square);
  if (threadIdx.x % warp_size != 0) return;
  scores.norms[i] = norm;
  if (!std::isfinite(norm)) report_bad_row(bad_row, rows.first + i);
}

// One thread per entry.
__global__ void densities_kernel(ModelView model, ScoreView scores, DenseSpace space, double unit) {
  const std::size_t K = model.n_components;
  const std::size_t L = model.n_factors;
  const auto [i, k] = cell_of_thread(scores);
  if (k >= K) return;
  double* v = scores.factors + (i * K + k) * L;
  double explained = 0.0;
  for (std::size_t l = 0; l < L; ++l) {
    v[l] -= model.projected_means[k * L + l];
    explained += v[l] * v[l];
  }
  const double x_norm =
      space.square_norms == nullptr ? scores.norms[i] * model.inverse_scalars[k] : space.square_norms[i * K + k];
  const double norms = x_norm + model.mean_norms[k];
  const double q = core::difference_form(norms, space.dots[i * K + k], explained);
  const std::size_t at = scores.at(i, k);
  scores.values[at] = core::log_density(model.log_normalizers[k], q);
  scores.errors[at] = core::difference_form_error(norms, unit, model.model_errors[k]);
  scores.known[at] = known_v;
  scores.marks[at] = 0;
}

}  // namespace

template <class S>
void score_densely(Stream stream, const Blas& blas, const Rows<S>& rows, const ModelView& model, const ScoreView& scores,
                   const DenseSpace& space, std::int64_t* bad_row) {
  const std::size_t K = model.n_components;
  const std::size_t d = model.n_features;
  launch_tasks(stream, scores.n * warp_size, center_kernel<S>, rows, model, scores, space, bad_row);
  blas.multiply(space.centered, scores.n, d, model.columns, K * model.n_factors, scores.factors);
  blas.multiply(space.centered, scores.n, d, model.weighted_means, K, space.dots);
  if (space.squares != nullptr) blas.multiply(space.squares, scores.n, d, model.inverse_noise, K, space.square_norms);
  const double unit = core::chained_rounding_unit(std::numeric_limits<double>::epsilon(), d);
  launch_tasks(stream, K * scores.n, densities_kernel, model, scores, space, unit);
}

#define MFA_INSTANTIATE(S)                                                                              \
  template void score_densely(Stream, const Blas&, const Rows<S>&, const ModelView&, const ScoreView&, \
                              const DenseSpace&, std::int64_t*);
MFA_FOR_SAMPLE_TYPES(MFA_INSTANTIATE)
#undef MFA_INSTANTIATE

}  // namespace mfa::cuda
