#include "reduced_step.hpp"

#include <algorithm>
#include <cmath>
#include <limits>

#include "core/pair_step.hpp"
#include "core/quadric.hpp"
#include "tensor.hpp"

namespace mfa::cuda {
namespace {

// Rows and columns of products that a warp makes: a row of a matrix product is a loading or a mean.
constexpr unsigned product_rows = 16, product_columns = 32;
constexpr unsigned product_tiles = product_columns / 8;
constexpr unsigned depth = 8;
// Products that take no longer than a launch or two are made in every call, be it of one row: how a row steps does not depend on
// how many others there are.
constexpr std::size_t most_flops = std::size_t{1} << 31;
// A gigabyte of them, which few features reach before so many flops: rows need the rest of what a call may take.
constexpr std::size_t most_products = std::size_t{1} << 27;

MFA_HD std::size_t count_vectors(const ModelView& model) { return model.n_components * (model.n_factors + 1); }

// Loading or mean i is `scale` times what stands at `first`.
struct Vector {
  const double* first;
  double scale;
};
__device__ Vector vector(const ModelView& model, std::size_t i) {
  const std::size_t k = i / (model.n_factors + 1);
  const std::size_t l = i % (model.n_factors + 1);
  if (l < model.n_factors) return {model.component_loadings(k) + l * model.n_features, 1.0};
  return {model.weighted_means + k * model.n_features, 1.0 / model.inverse_scalars[k]};
}

// One warp per tile of products, those above the diagonal apart, which are the same.
__global__ void products_kernel(ModelView model, double* products) {
  const std::size_t n = count_vectors(model);
  const std::size_t across = (n + product_columns - 1) / product_columns;
  const std::size_t tile = task_index() / warp_size;
  const std::size_t row = tile / across * product_rows;
  const std::size_t column = tile % across * product_columns;
  if (row >= n || column >= row + product_rows) return;  // a whole warp
  const tensor::Lane own = tensor::lane();
  const std::size_t d = model.n_features;
  const auto vector_at = [&](std::size_t i) { return vector(model, i < n ? i : n - 1); };
  Vector left[2], right[product_tiles];
  for (unsigned r = 0; r < 2; ++r) left[r] = vector_at(row + own.g + 8 * r);
#pragma unroll
  for (unsigned t = 0; t < product_tiles; ++t) right[t] = vector_at(column + 8 * t + own.g);
  double sums[product_tiles][2][2] = {};
  for (std::size_t start = 0; start < d; start += depth) {
    const auto numbers = [&](const Vector& of, double (&out)[2]) {
      for (unsigned p = 0; p < 2; ++p) {
        const std::size_t j = start + own.c + 4 * p;
        out[p] = j < d ? of.first[j] : 0.0;
      }
    };
    double a[2][2], b[product_tiles][2];
    for (unsigned r = 0; r < 2; ++r) numbers(left[r], a[r]);
#pragma unroll
    for (unsigned t = 0; t < product_tiles; ++t) numbers(right[t], b[t]);
#pragma unroll
    for (unsigned t = 0; t < product_tiles; ++t) tensor::multiply_add(sums[t][0], sums[t][1], a, b[t]);
  }
#pragma unroll
  for (unsigned t = 0; t < product_tiles; ++t)
    for (unsigned r = 0; r < 2; ++r)
      for (unsigned e = 0; e < 2; ++e) {
        const std::size_t i = row + own.g + 8 * r;
        const std::size_t j = column + 8 * t + 2 * own.c + e;
        if (i >= n || j > i) continue;
        products[i * n + j] = products[j * n + i] = sums[t][r][e] * left[r].scale * vector(model, j).scale;
      }
}

// Small blocks, as there are fewer of them than of rows.
constexpr unsigned length_threads = 64;
// Of a warp: what m is made of, and its products, for both ends.
constexpr unsigned end_lanes = warp_size / 2;
MFA_HD unsigned numbers_of_warp(std::size_t n_factors) { return 4 * (static_cast<unsigned>(n_factors) + 1); }

// The sum over half a warp, for all of its lanes.
__device__ double sum_of_end(double value) {
  for (unsigned mask = end_lanes / 2; mask > 0; mask /= 2) value += __shfl_xor_sync(all_lanes, value, mask);
  return value;
}

// What is summed over the vectors of a row's pair: |m|^2, what its terms are no larger than, and of both ends |z|^2 and
// |C^-1 A^T g|^2 / s^2.
struct PairSums {
  double moved, size, z_squares[2], explained[2];
};

// Of row i. A warp together; half of it has the vectors of an end.
__device__ PairSums sum_vectors(const ModelView& model, const double* products, const double* factors, std::size_t i,
                                const std::size_t (&ends)[2], double* shares, double* projected) {
  const auto L = static_cast<unsigned>(model.n_factors);
  const std::size_t n = count_vectors(model);
  const unsigned own_end = threadIdx.x % warp_size / end_lanes;
  const unsigned lane = threadIdx.x % end_lanes;
  const std::size_t k = own_end == 0 ? ends[0] : ends[1];
  const double sign = own_end == 0 ? -1.0 : 1.0;
  double* const own_shares = shares + own_end * (L + 1);
  double* const own_projected = projected + own_end * (L + 1);

  const double weight = model.inverse_scalars[k];
  const double* z = factors + (i * model.n_components + k) * L;
  double z_square = 0.0;
  for (unsigned l = lane; l <= L; l += end_lanes) {
    const double factor = l < L ? z[l] : 1.0;
    own_shares[l] = -sign * factor;
    if (l < L) z_square += factor * factor;
  }
  __syncwarp();
  double moved = 0.0, size = 0.0;
  for (unsigned l = lane; l <= L; l += end_lanes) {
    const double* own_column = products + k * (L + 1) + l;
    double product = 0.0;
#pragma unroll
    for (unsigned end = 0; end < 2; ++end) {
      const double* column = own_column + ends[end] * (L + 1) * n;
#pragma unroll 8
      for (unsigned m = 0; m <= L; ++m) product += shares[end * (L + 1) + m] * column[m * n];
    }
    own_projected[l] = product;
    moved += own_shares[l] * product;
    size += own_shares[l] * own_shares[l] * own_column[(k * (L + 1) + l) * n];
  }
  const double other_weight = __shfl_xor_sync(all_lanes, weight, end_lanes);
  // A lane reads what it has written itself.
  for (unsigned l = lane; l < L; l += end_lanes)
    own_projected[l] =
        core::projected_pair_gradient(sign, weight, other_weight, -sign * own_shares[l], own_projected[l]);
  __syncwarp();
  double explained = 0.0;
  for (unsigned l = lane; l < L; l += end_lanes) {
    const double* covariance = model.covariances + (k * L + l) * L;
    double sum = 0.0;
#pragma unroll 8
    for (unsigned m = 0; m < L; ++m) sum += covariance[m] * own_projected[m];
    explained += weight * weight * own_projected[l] * sum;
  }
  __syncwarp();  // all have read the numbers
  PairSums sums{warp_sum(moved), warp_sum(size) * static_cast<double>(2 * (L + 1)), {}, {}};
  z_square = sum_of_end(z_square);
  explained = sum_of_end(explained);
#pragma unroll
  for (unsigned end = 0; end < 2; ++end) {
    sums.z_squares[end] = __shfl_sync(all_lanes, z_square, end * end_lanes);
    sums.explained[end] = __shfl_sync(all_lanes, explained, end * end_lanes);
  }
  return sums;
}

// A warp sums over the vectors of as many entries as it has lanes, one after the other. All else each lane does for its own.
__global__ void reduced_lengths_kernel(ModelView model, const double* products, PairView pairs, EntryView entries,
                                       ScoreView scores, double overshoot, double epsilon, StepView steps, int* any_unknown) {
  const auto all = static_cast<std::size_t>(entries.starts[model.n_components]);
  const std::size_t first = task_index() / warp_size * warp_size;
  if (first >= all) return;  // a whole warp
  const unsigned lane = threadIdx.x % warp_size;
  const auto count = static_cast<unsigned>(all - first < warp_size ? all - first : warp_size);
  double* const shares =
      reinterpret_cast<double*>(block_memory()) + threadIdx.x / warp_size * numbers_of_warp(model.n_factors);
  double* const projected = shares + 2 * (model.n_factors + 1);
  const int own_row = entries.rows[first + (lane < count ? lane : 0)];
  const auto i = static_cast<std::size_t>(own_row);
  const int source = pairs.sources[i], target = pairs.targets[i];
  PairSums sums{};
  for (unsigned e = 0; e < count; ++e) {
    const auto of_entry = [e](int value) { return static_cast<std::size_t>(__shfl_sync(all_lanes, value, e)); };
    const std::size_t ends[2] = {of_entry(source), of_entry(target)};
    const PairSums of_row = sum_vectors(model, products, scores.factors, of_entry(own_row), ends, shares, projected);
    if (e == lane) sums = of_row;
  }
  if (lane >= count) return;
  core::PairDistances distances{};
  // Products are sums made in one chain of d / 8.
  double unit = (64.0 + 0.125 * static_cast<double>(model.n_features)) * std::numeric_limits<double>::epsilon();
#pragma unroll
  for (unsigned end = 0; end < 2; ++end) {
    const auto k = static_cast<std::size_t>(end == 0 ? source : target);
    const std::size_t at = scores.at(i, k);
    distances.weights[end] = model.inverse_scalars[k];
    distances.residuals[end] = 2.0 * (model.log_normalizers[k] - scores.values[at]) - sums.z_squares[end];
    distances.error += 2.0 * scores.errors[at];
    unit += model.model_errors[k];
  }
  const core::PairCurve curve = core::pair_curve(distances, sums.moved, sums.size, sums.explained, unit);
  const double gap = pairs.gaps[i];
  if (!std::isfinite(gap)) {
    steps.lengths[i] = 0.0;
    return;
  }
  if (!core::is_known_well(curve)) {
    *any_unknown = 1;
    return;
  }
  const double norm = std::sqrt(curve.square);
  const double length = std::abs(core::step_to_zero(gap, curve.square, curve.curvature)) * norm;
  steps.lengths[i] = core::with_overshoot(length, overshoot, std::sqrt(scores.norms[i]) + model.center_length, epsilon,
                                          core::on_surface * model.least_noise_std) /
                     norm;
}

}  // namespace

void ReducedSteps::lay_out(Arena& arena, const ModelView& model) {
  const std::size_t n = count_vectors(model);
  const std::size_t most = std::min(most_flops / (2 * model.n_features), most_products);
  const bool applies = model.inverse_noise == nullptr && n * n <= most;
  products_ = applies ? arena.take<double>(n * n) : nullptr;
  any_unknown_ = applies ? arena.take<int>(1) : nullptr;
}

void ReducedSteps::begin(Stream stream, const ModelView& model) {
  const std::size_t n = count_vectors(model);
  launch_tasks(stream, ceil_div(n, product_rows) * ceil_div(n, product_columns) * warp_size, products_kernel, model, products_);
}

void ReducedSteps::find(Stream stream, const ModelView& model, const PairView& pairs, const EntryView& entries,
                        const ScoreView& scores, double overshoot, double epsilon, const StepView& steps) {
  fill_zero(stream, any_unknown_, sizeof(int));
  const std::size_t numbers = length_threads / warp_size * numbers_of_warp(model.n_factors);
  launch_with_memory(stream, ceil_div(scores.n, length_threads), length_threads, numbers * sizeof(double),
                     reduced_lengths_kernel, model, products_, pairs, entries, scores, overshoot, epsilon, steps, any_unknown_);
}

}  // namespace mfa::cuda
