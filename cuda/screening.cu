#include "screening.hpp"

#include <cmath>
#include <limits>

#include "core/gaussian.hpp"
#include "core/screening.hpp"
#include "tensor.hpp"

namespace mfa::cuda {
namespace {

constexpr unsigned coordinate_warps = coordinate_rows / tensor::rows;
constexpr unsigned coordinate_threads = coordinate_warps * warp_size;
constexpr std::size_t most_tiles = most_directions / tensor::columns;
// Shared rows are a little longer than they need be, so that columns of them lie in different banks.
constexpr std::size_t padded_slice = slice_features + 4;
constexpr std::size_t padded_directions = most_directions + 4;

template <class S>
__device__ float centered(S value, float center, float scale) {
  if constexpr (std::is_same_v<S, double>)
    return static_cast<float>((value - static_cast<double>(center)) * static_cast<double>(scale));
  else return (to<float>(value) - center) * scale;
}

// A block has 64 rows, of which each warp reads, centres and multiplies sixteen, slice after slice of the features.
template <class S>
__global__ void __launch_bounds__(coordinate_threads)
    coordinates_kernel(Rows<S> rows, ScreenView screen, std::size_t d, ScoreView scores, float* coordinates,
                       std::int64_t* bad_row) {
  __shared__ __align__(32) float slices[coordinate_rows][padded_slice];
  __shared__ __align__(32) float basis[slice_features][padded_directions];
  const std::size_t R = screen.n_directions;
  const std::size_t tiles = R / tensor::columns;
  const unsigned lane = threadIdx.x % warp_size;
  const unsigned warp = threadIdx.x / warp_size;
  const std::size_t first = blockIdx.x * coordinate_rows + warp * tensor::rows;
  float(*own)[padded_slice] = slices + warp * tensor::rows;

  double squares[tensor::rows] = {};
  tensor::Accumulator sums[most_tiles];
  for (std::size_t t = 0; t < most_tiles; ++t) tensor::clear(sums[t]);
  for (std::size_t start = 0; start < d; start += slice_features) {
    const std::size_t j = start + lane;
    const float center = j < d ? screen.center[j] : 0.0f;
    const float scale = screen.scale == nullptr || j >= d ? 1.0f : screen.scale[j];
#pragma unroll
    for (unsigned r = 0; r < tensor::rows; ++r) {
      const std::size_t i = first + r;
      float value = 0.0f;
      if (j < d && i < scores.n && !scores.skips(i)) value = centered(rows.row(i)[j], center, scale);
      squares[r] += static_cast<double>(value) * static_cast<double>(value);
      own[r][lane] = tensor::round(value);
    }
    for (std::size_t e = threadIdx.x; e < slice_features * R; e += coordinate_threads)
      basis[e / R][e % R] = screen.basis[start * R + e];
    __syncthreads();
    for (unsigned p = 0; p < slice_features; p += tensor::depth) {
      tensor::Left left;
      tensor::load(left, &own[0][p], padded_slice);
#pragma unroll
      for (std::size_t t = 0; t < most_tiles; ++t) {
        if (t >= tiles) continue;
        tensor::Right right;
        tensor::load(right, &basis[p][t * tensor::columns], padded_directions);
        tensor::multiply_add(sums[t], left, right);
      }
    }
    __syncthreads();
  }
#pragma unroll
  for (std::size_t t = 0; t < most_tiles; ++t)
    if (t < tiles) tensor::store(coordinates + first * R + t * tensor::columns, sums[t], static_cast<unsigned>(R));
#pragma unroll
  for (unsigned r = 0; r < tensor::rows; ++r) {
    const double norm = warp_sum(squares[r]);
    const std::size_t i = first + r;
    if (lane != 0 || i >= scores.n) continue;
    scores.norms[i] = norm;
    if (!std::isfinite(norm)) report_bad_row(bad_row, rows.first + i);
  }
}

// Errors of coordinates that tensor cores have made, from where these start to move. One thread per row.
__global__ void start_coordinates_kernel(ScreenView screen, std::size_t d, ScoreView scores, ScreenSpace space) {
  const std::size_t i = task_index();
  if (i >= scores.n) return;
  space.errors[i] = core::tensor_coordinate_error(scores.norms[i], d, screen.basis_error);
  if (space.moving == nullptr) return;
  const std::size_t R = screen.n_directions;
  for (std::size_t r = i * R; r < (i + 1) * R; ++r) space.moving[r] = static_cast<double>(space.coordinates[r]);
}

// One thread per row.
__global__ void row_terms_kernel(ScreenView screen, ScoreView scores, ScreenSpace space) {
  const std::size_t i = task_index();
  if (i >= scores.n) return;
  const float* y = space.coordinates + i * screen.n_directions;
  double y_norm = 0.0;
  for (std::size_t r = 0; r < screen.n_directions; ++r) y_norm += static_cast<double>(y[r]) * static_cast<double>(y[r]);
  constexpr double margin = 4.0 * std::numeric_limits<float>::epsilon();
  const double shift = space.errors[i];
  space.terms[i] = {static_cast<float>(y_norm), static_cast<float>(shift * (1.0 + margin)),
                    static_cast<float>(core::outside_length(scores.norms[i], y_norm, shift) * (1.0 - margin))};
}

// One warp per row.
__global__ void move_coordinates_kernel(ModelView model, ScreenView screen, ScoreView scores, StepView steps,
                                        ScreenSpace space, std::size_t first_row, std::int64_t* bad_row) {
  const std::size_t i = task_index() / warp_size;
  if (i >= scores.n || steps.lengths[i] == 0.0) return;  // a whole warp
  const std::size_t K = model.n_components;
  const std::size_t L = model.n_factors;
  const std::size_t R = screen.n_directions;
  const unsigned lane = threadIdx.x % warp_size;
  constexpr std::size_t coordinates_of_lane = most_directions / warp_size;
  double* y = space.moving + i * R;
  double gradient[coordinates_of_lane] = {};
  double feedback = 0.0, size = 0.0;
  const double x_length = std::sqrt(scores.norms[i]);
  for (std::size_t begin = 0; begin < K; begin += warp_size) {
    const std::size_t own = begin + lane;
    const double own_share = own < K ? scores.errors[scores.at(i, own)] : 0.0;
    for (unsigned left = __ballot_sync(all_lanes, own_share != 0.0); left != 0; left &= left - 1) {
      const auto first = static_cast<unsigned>(__ffs(static_cast<int>(left)) - 1);
      const std::size_t k = begin + first;
      const double share = __shfl_sync(all_lanes, own_share, static_cast<int>(first));
      const double weight = share * model.inverse_scalars[k];
      const double* z = scores.factors + (i * K + k) * L;
      feedback += weight;
      size += std::abs(share) * core::precision_product_size(model.inverse_scalars[k], x_length, screen.mean_lengths[k],
                                                             screen.loading_lengths[k],
                                                             std::sqrt(core::squared_norm(L, z)));
#pragma unroll
      for (std::size_t c = 0; c < coordinates_of_lane; ++c) {
        const std::size_t r = lane + c * warp_size;
        if (r >= R) continue;
        double rest = y[r] - screen.means[k * R + r];
        for (std::size_t l = 0; l < L; ++l) rest -= screen.loadings[(k * L + l) * R + r] * z[l];
        gradient[c] += weight * rest;
      }
    }
  }
  const double a = steps.lengths[i];
  double square = 0.0;
#pragma unroll
  for (std::size_t c = 0; c < coordinates_of_lane; ++c) {
    const std::size_t r = lane + c * warp_size;
    if (r >= R) continue;
    y[r] -= a * gradient[c];
    space.coordinates[i * R + r] = static_cast<float>(y[r]);
    square += y[r] * y[r];
  }
  const double y_length = std::sqrt(warp_sum(square));
  if (lane != 0) return;
  const double norm = steps.norms[i];
  if (!std::isfinite(norm)) report_bad_row(bad_row, first_row + i);
  scores.norms[i] = norm;
  // The samples are rounded to a float or less coarsely, the coordinates to a float.
  space.errors[i] = core::moved_coordinate_error(space.errors[i], a * std::abs(feedback),
                                                 screen.center_length + std::sqrt(norm), y_length, a * size, L,
                                                 std::numeric_limits<float>::epsilon());
}

// One thread per entry, rows beside each other.
__global__ void bounds_kernel(ModelView model, ScreenView screen, ScoreView scores, ScreenSpace space) {
  const std::size_t K = model.n_components;
  const std::size_t L = model.n_factors;
  const auto [i, k] = cell_of_thread(scores);
  if (k >= K) return;
  const float* product = space.product + i * K * (L + 1);
  float explained = 0.0f, moved = 0.0f;
  for (std::size_t l = 0; l < L; ++l) {
    const float v = product[k * L + l] - screen.projected_means[k * L + l];
    explained += v * v;
    moved += v * v * screen.spreads_by_factor[k * L + l];
  }
  const RowTerms row = space.terms[i];
  const core::Outside<float> x{row.outside, row.shift};
  const core::Leftover<float> left{screen.means_left[k], screen.spreads[k], screen.inverse_noise_roots[k],
                                   screen.inverse_weights[k]};
  const float norms = row.y_norm * left.inverse_noise_root * left.inverse_noise_root + screen.mean_norms[k];
  const float c = core::shadow_distance(norms, product[K * L + k], explained);
  const float error =
      core::shadow_distance_error(norms, static_cast<float>(L), screen.epsilon, screen.model_errors[k]);
  const float q = core::mahalanobis_lower_bound(c, moved, error, x, left);
  const std::size_t at = scores.at(i, k);
  space.upper[at] = core::log_density_bound(screen.log_normalizers[k], q);
  space.guess[at] = screen.log_normalizers[k] - 0.5f * core::mahalanobis_guess(c, x, left);
  scores.values[at] = -std::numeric_limits<double>::infinity();
  scores.errors[at] = 0.0;
  scores.known[at] = known_nothing;
  scores.marks[at] = 0;
}

// The component of [begin, end) of the largest number, the lowest on a tie; the first where none can be compared.
__device__ std::size_t largest(const float* values, const ScoreView& scores, std::size_t i, std::size_t begin,
                               std::size_t end) {
  std::size_t best = begin;
  for (std::size_t k = begin + 1; k < end; ++k)
    if (values[scores.at(i, k)] > values[scores.at(i, best)]) best = k;
  return best;
}

// Marks the highest guess. One thread per row and group.
__global__ void candidates_kernel(GroupView groups, ScoreView scores, ScreenSpace space) {
  const auto [i, g] = cell_of_thread(scores);
  if (g >= groups.count || scores.skips(i)) return;
  const std::size_t best = largest(space.guess, scores, i, groups.begin(g), groups.end(g));
  scores.marks[scores.at(i, best)] = 1;
}

// What is proved to lie negligible_nats below the best value so far of its group is left out. One that is not a number is
// not below anything.
__global__ void survivors_kernel(GroupView groups, bool only_one, ScoreView scores, ScreenSpace space) {
  const auto [i, g] = cell_of_thread(scores);
  if (g >= groups.count || scores.skips(i)) return;
  const std::size_t begin = groups.begin(g);
  const std::size_t end = groups.end(g);
  const auto least = static_cast<float>(clear_and_find_floor(scores, groups, i, g) - core::negligible_nats);
  for (std::size_t k = begin; k < end; ++k)
    if (const std::size_t at = scores.at(i, k); scores.known[at] != known_nothing)
      space.upper[at] = -std::numeric_limits<float>::infinity();
  const auto stands = [&](std::size_t at) {
    return scores.known[at] == known_nothing && !(space.upper[at] < least);
  };
  if (only_one) {
    const std::size_t at = scores.at(i, largest(space.upper, scores, i, begin, end));
    if (stands(at)) scores.marks[at] = 1;
    return;
  }
  for (std::size_t k = begin; k < end; ++k)
    if (stands(scores.at(i, k))) scores.marks[scores.at(i, k)] = 1;
}

}  // namespace

template <class S>
void screen_rows(Stream stream, const Blas& blas, const Rows<S>& rows, const ModelView& model, const ScreenView& screen,
                 const GroupView& groups, const ScoreView& scores, const ScreenSpace& space, std::int64_t* bad_row) {
  launch(stream, ceil_div(scores.n, coordinate_rows), coordinate_threads, coordinates_kernel<S>, rows, screen,
         model.n_features, scores, space.coordinates, bad_row);
  launch_tasks(stream, scores.n, start_coordinates_kernel, screen, model.n_features, scores, space);
  screen_by_coordinates(stream, blas, model, screen, groups, scores, space);
}

void screen_by_coordinates(Stream stream, const Blas& blas, const ModelView& model, const ScreenView& screen,
                           const GroupView& groups, const ScoreView& scores, const ScreenSpace& space) {
  const std::size_t columns = model.n_components * (model.n_factors + 1);
  launch_tasks(stream, scores.n, row_terms_kernel, screen, scores, space);
  blas.multiply(space.coordinates, scores.n, screen.n_directions, screen.columns, columns, space.product);
  launch_tasks(stream, model.n_components * scores.n, bounds_kernel, model, screen, scores, space);
  launch_tasks(stream, groups.count * scores.n, candidates_kernel, groups, scores, space);
}

void move_coordinates(Stream stream, const ModelView& model, const ScreenView& screen, const ScoreView& scores,
                      const StepView& steps, const ScreenSpace& space, std::size_t first_row, std::int64_t* bad_row) {
  launch_tasks(stream, scores.n * warp_size, move_coordinates_kernel, model, screen, scores, steps, space, first_row,
               bad_row);
}

void mark_survivors(Stream stream, const GroupView& groups, bool only_one, const ScoreView& scores,
                    const ScreenSpace& space) {
  launch_tasks(stream, groups.count * scores.n, survivors_kernel, groups, only_one, scores, space);
}

#define MFA_INSTANTIATE(S)                                                                            \
  template void screen_rows(Stream, const Blas&, const Rows<S>&, const ModelView&, const ScreenView&, \
                            const GroupView&, const ScoreView&, const ScreenSpace&, std::int64_t*);
MFA_FOR_SAMPLE_TYPES(MFA_INSTANTIATE)
#undef MFA_INSTANTIATE

}  // namespace mfa::cuda
