#include "columns.hpp"

#include "core/gaussian.hpp"

namespace mfa::cuda {
namespace {

// One thread per feature of a component.
__global__ void columns_kernel(ModelView model, double* columns, double* weighted_means) {
  const std::size_t d = model.n_features;
  const std::size_t L = model.n_factors;
  const std::size_t at = task_index();
  if (at >= model.n_components * d) return;
  const std::size_t k = at / d, j = at % d;
  const double weight = model.inverse_noise == nullptr ? model.inverse_scalars[k] : model.inverse_noise[at];
  weighted_means[at] = (model.means[at] - model.center[j]) * weight;
  const double* const loadings = model.component_loadings(k) + j;
  double* const column = columns + k * L * d + j;
  for (std::size_t l = 0; l < L; ++l) column[l * d] = loadings[l * d] * weight;
  core::solve_lower(L, model.component_cholesky(k), column, d);
}

}  // namespace

void make_columns(Stream stream, const ModelView& model, double* columns, double* weighted_means) {
  launch_tasks(stream, model.n_components * model.n_features, columns_kernel, model, columns, weighted_means);
}

}  // namespace mfa::cuda
