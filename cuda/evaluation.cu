#include "evaluation.hpp"

#include <cmath>
#include <limits>

#include "core/gaussian.hpp"
#include "tensor.hpp"
#include "tiles.hpp"

namespace mfa::cuda {
namespace {

// By how many times q the first factors may overestimate it: three digits of sixteen are lost in the difference.
constexpr double largest_correction = 1e3;
constexpr int most_passes = 4;
// Products that a warp keeps of a row at once, in residual form.
constexpr std::size_t columns_at_once = 10;

// The warps of a block have the same entries, a tile of them, and each its part of the features.
constexpr unsigned difference_warps = 4;
constexpr unsigned difference_threads = difference_warps * warp_size;
constexpr unsigned matrix_rows = 8;
constexpr unsigned row_matrices = tile_entries / matrix_rows;
constexpr unsigned step_features = 16;

// What the difference form is made of, by component.
struct Distance {
  const double* means;          // one for every component, or one for all
  std::size_t mean_stride;      // d, or 0
  const double* columns;        // (K, L, d)
  const double* inverse_noise;  // (K, d), or null for 1
};

// Computes  the products of a tile's rows with columns [first, first + 8 Tiles) of a component, where there are so many, and
//           |x - mu|^2_D, each warp of its features. Row i of the tile and column m are parts[warp][i][m], the norm the last.
template <class S, unsigned Tiles>
__device__ void multiply_rows(const S* const (&x)[row_matrices], bool in_line, const Distance& by, std::size_t k,
                              std::size_t L, std::size_t d, std::size_t first,
                              double (*parts)[tile_entries][tile_columns * Tiles + 1]) {
  const tensor::Lane own = tensor::lane();
  const unsigned warp = threadIdx.x / warp_size;
  const bool fours = d % 4 == 0;
  const double* mean = by.means + k * by.mean_stride;
  const double* weight = by.inverse_noise == nullptr ? nullptr : by.inverse_noise + k * d;
  const double* columns = by.columns + (k * L + first + own.g) * d;
  double sums[row_matrices][Tiles][2] = {};
  double norms[row_matrices] = {};
#pragma unroll 2
  for (std::size_t start = warp * step_features; start < d; start += difference_warps * step_features) {
    const std::size_t j = start + 4 * own.c;
    const auto left = static_cast<unsigned>(j < d ? d - j : 0);
    Four<S> values[row_matrices];
#pragma unroll
    for (unsigned m = 0; m < row_matrices; ++m) values[m] = load_four(x[m] + j, left, in_line);
    const Four<double> center = load_four(mean + j, left, fours);
    Four<double> column[Tiles];
#pragma unroll
    for (unsigned t = 0; t < Tiles; ++t) {
      const bool exists = first + t * tile_columns + own.g < L;
      column[t] = load_four(columns + t * tile_columns * d + j, exists ? left : 0, fours);
    }
    Four<double> share{{1.0, 1.0, 1.0, 1.0}};
    if (weight != nullptr) share = load_four(weight + j, left, fours);
#pragma unroll
    for (unsigned f = 0; f < 4; ++f)
#pragma unroll
      for (unsigned m = 0; m < row_matrices; ++m) {
        const double offset = to<double>(values[m].values[f]) - center.values[f];
        norms[m] += offset * offset * share.values[f];
#pragma unroll
        for (unsigned t = 0; t < Tiles; ++t) tensor::multiply_add(sums[m][t], offset, column[t].values[f]);
      }
  }
#pragma unroll
  for (unsigned m = 0; m < row_matrices; ++m) {
    double* to = parts[warp][m * matrix_rows + own.g];
#pragma unroll
    for (unsigned t = 0; t < Tiles; ++t)
      for (unsigned e = 0; e < 2; ++e) to[t * tile_columns + 2 * own.c + e] = sums[m][t][e];
    const double norm = tensor::row_sum(norms[m]);
    if (own.c == 0) to[tile_columns * Tiles] = norm;
  }
}

// Blocks take tile after tile. keep(i, k, l, v) is called for every factor of an entry, give(i, k, |x - mu|^2_D, |v|^2) for the
// entry; four threads share a row.
template <class S, unsigned Tiles, class Keep, class Give>
__device__ void for_each_distance(const Rows<S>& rows, const EntryView& entries, std::size_t n_components, std::size_t L,
                                  std::size_t d, const Distance& by, const Keep& keep, const Give& give) {
  __shared__ double parts[difference_warps][tile_entries][tile_columns * Tiles + 1];
  constexpr unsigned sharers = difference_threads / tile_entries;
  const bool in_line = rows.has_aligned_fours();
  const int tiles = entries.tile_starts[n_components];
  for (int tile = static_cast<int>(blockIdx.x); tile < tiles; tile += static_cast<int>(gridDim.x)) {
    const Tile members = tile_at(entries, n_components, tile);
    const std::size_t k = members.component;
    const S* x[row_matrices];
#pragma unroll
    for (unsigned m = 0; m < row_matrices; ++m) {
      const unsigned at = m * matrix_rows + tensor::lane().g;
      x[m] = rows.row(static_cast<std::size_t>(members.rows[at < members.count ? at : members.count - 1]));
    }
    const unsigned own = threadIdx.x / sharers;
    const auto i = static_cast<std::size_t>(members.rows[own < members.count ? own : members.count - 1]);
    double square = 0.0, explained = 0.0;
    for (std::size_t first = 0; first == 0 || first < L; first += tile_columns * Tiles) {
      multiply_rows<S, Tiles>(x, in_line, by, k, L, d, first, parts);
      __syncthreads();
      for (unsigned m = threadIdx.x % sharers; m <= tile_columns * Tiles; m += sharers) {
        double sum = 0.0;
        for (unsigned w = 0; w < difference_warps; ++w) sum += parts[w][own][m];
        if (m == tile_columns * Tiles) {
          square = sum;
        } else if (first + m < L) {
          explained += sum * sum;
          if (own < members.count) keep(i, k, first + m, sum);
        }
      }
      __syncthreads();
    }
    // The norm is the last of the numbers that a row's threads have taken in turn.
    explained = tensor::row_sum(explained);
    if (threadIdx.x % sharers == tile_columns * Tiles % sharers && own < members.count) give(i, k, square, explained);
  }
}

template <class S, unsigned Tiles>
__global__ void __launch_bounds__(difference_threads)
    difference_kernel(Rows<S> rows, ModelView model, EntryView entries, ScoreView scores, double unit) {
  const std::size_t K = model.n_components;
  const std::size_t L = model.n_factors;
  const Distance by{model.means, model.n_features, model.columns, model.inverse_noise};
  const auto keep = [&](std::size_t i, std::size_t k, std::size_t l, double v) {
    if (scores.factors != nullptr) scores.factors[(i * K + k) * L + l] = v;
  };
  const auto give = [&](std::size_t i, std::size_t k, double square, double explained) {
    const double norm = square * model.inverse_scalars[k];
    const std::size_t at = scores.at(i, k);
    scores.values[at] = core::log_density(model.log_normalizers[k], core::difference_form(norm, 0.0, explained));
    scores.errors[at] = core::difference_form_error(norm, unit, model.model_errors[k]);
    scores.known[at] = known_v;
  };
  for_each_distance<S, Tiles>(rows, entries, K, L, model.n_features, by, keep, give);
}

// The distance alone, of rows about one mean.
template <unsigned Tiles>
__global__ void __launch_bounds__(difference_threads)
    distance_kernel(Rows<double> rows, ModelView model, const double* mean, EntryView entries, ScoreView scores) {
  const Distance by{mean, 0, model.columns, model.inverse_noise};
  const auto give = [&](std::size_t i, std::size_t k, double square, double explained) {
    scores.values[scores.at(i, k)] = core::difference_form(square * model.inverse_scalars[k], 0.0, explained);
  };
  for_each_distance<double, Tiles>(rows, entries, model.n_components, model.n_factors, model.n_features, by,
                                   [](std::size_t, std::size_t, std::size_t, double) {}, give);
}

// Half the negative gradient over the factors, and q, at the factors z (L) of each of a pair of rows: one pass.
template <class S>
__device__ void residual_pass(const S* const* x, const ModelView& model, std::size_t k, const double* const* z,
                              double (&q)[rows_of_warp], double* const* gradient) {
  const std::size_t L = model.n_factors;
  const std::size_t d = model.n_features;
  const unsigned lane = threadIdx.x % warp_size;
  const double* mean = model.component_mean(k);
  const double* loadings = model.component_loadings(k);
  const double* inverse_noise = model.component_inverse_noise(k);
  std::size_t l = 0;
  do {
    const std::size_t count = L - l < columns_at_once ? L - l : columns_at_once;
    double total[rows_of_warp][columns_at_once + 1] = {};
    for (std::size_t j = lane; j < d; j += warp_size) {
      const double weight = inverse_noise == nullptr ? model.inverse_scalars[k] : inverse_noise[j];
      double rest[rows_of_warp];
      for (unsigned r = 0; r < rows_of_warp; ++r) rest[r] = to<double>(x[r][j]) - mean[j];
      for (std::size_t m = 0; m < L; ++m) {
        const double loading = loadings[m * d + j];
        for (unsigned r = 0; r < rows_of_warp; ++r) rest[r] -= loading * z[r][m];
      }
#pragma unroll
      for (unsigned r = 0; r < rows_of_warp; ++r) {
        const double weighted = rest[r] * weight;
        total[r][columns_at_once] += rest[r] * weighted;
#pragma unroll
        for (std::size_t m = 0; m < columns_at_once; ++m)
          if (m < count) total[r][m] += loadings[(l + m) * d + j] * weighted;
      }
    }
#pragma unroll
    for (unsigned r = 0; r < rows_of_warp; ++r) {
      q[r] = warp_sum(total[r][columns_at_once]);
#pragma unroll
      for (std::size_t m = 0; m < columns_at_once; ++m) {
        const double sum = warp_sum(total[r][m]);
        if (lane == 0 && m < count) gradient[r][l + m] = sum - z[r][l + m];
      }
    }
    l += columns_at_once;
  } while (l < L);
  for (unsigned r = 0; r < rows_of_warp; ++r) q[r] += core::squared_norm(L, z[r]);
  __syncwarp();
}

template <class S>
__global__ void __launch_bounds__(tile_threads)
    residual_kernel(Rows<S> rows, ModelView model, EntryView entries, ScoreView scores, double* scratch) {
  const std::size_t K = model.n_components;
  const std::size_t L = model.n_factors;
  const unsigned lane = threadIdx.x % warp_size;
  double* own_scratch = scratch + (blockIdx.x * tile_warps + threadIdx.x / warp_size) * 2 * rows_of_warp * L;
  for_each_pair(rows, entries, K, [&](const Pair<S>& pair) {
    const std::size_t k = pair.component;
    double* z[rows_of_warp];
    double* gradient[rows_of_warp];
    for (unsigned r = 0; r < rows_of_warp; ++r) {
      z[r] = own_scratch + r * L;
      gradient[r] = own_scratch + (rows_of_warp + r) * L;
    }
    if (lane < rows_of_warp) {
      double* own = own_scratch + lane * L;
      const std::size_t i = lane == 0 ? pair.rows[0] : pair.rows[1];
      const double* from = scores.factors == nullptr ? nullptr : scores.factors + (i * K + k) * L;
      bool usable = from != nullptr;
      for (std::size_t l = 0; usable && l < L; ++l) usable = std::isfinite(from[l]);
      for (std::size_t l = 0; l < L; ++l) own[l] = usable ? from[l] : 0.0;
      if (scores.known[scores.at(i, k)] == known_v) core::solve_lower_transposed(L, model.component_cholesky(k), own);
    }
    __syncwarp();

    double mahalanobis[rows_of_warp] = {};
    bool settled[rows_of_warp] = {};
    for (int pass = 0; pass < most_passes && !(settled[0] && settled[1]); ++pass) {
      double q[rows_of_warp];
      residual_pass(pair.x, model, k, z, q, gradient);
      for (unsigned r = 0; r < rows_of_warp; ++r) {
        if (settled[r]) continue;  // so that no row depends on the one beside it
        double taken_off = 0.0;
        if (lane == 0)
          taken_off = core::complete_residual_form(L, model.component_cholesky(k), z[r], gradient[r]);
        taken_off = __shfl_sync(all_lanes, taken_off, 0);
        const double rest = q[r] - taken_off;
        mahalanobis[r] = rest < 0.0 ? 0.0 : rest;  // not a number stays what it is
        settled[r] = taken_off <= largest_correction * mahalanobis[r];
      }
      __syncwarp();
    }
    if (lane >= pair.count) return;
    const std::size_t i = lane == 0 ? pair.rows[0] : pair.rows[1];
    const std::size_t at = scores.at(i, k);
    scores.values[at] = core::log_density(model.log_normalizers[k], lane == 0 ? mahalanobis[0] : mahalanobis[1]);
    scores.errors[at] = 0.0;  // as good as it gets
    scores.known[at] = known_z;
    if (scores.factors == nullptr) return;
    for (std::size_t l = 0; l < L; ++l) scores.factors[(i * K + k) * L + l] = own_scratch[lane * L + l];
  });
}

}  // namespace

void evaluate_distance(Stream stream, const Rows<double>& rows, const ModelView& model, const double* mean,
                       const EntryView& entries, const ScoreView& scores) {
  const auto kernel = model.n_factors > tile_columns ? distance_kernel<2> : distance_kernel<1>;
  launch(stream, resident_blocks(), difference_threads, kernel, rows, model, mean, entries, scores);
}

std::size_t residual_scratch(std::size_t n_factors) {
  return resident_blocks() * tile_warps * 2 * rows_of_warp * n_factors;
}

template <class S>
void evaluate_difference(Stream stream, const Rows<S>& rows, const ModelView& model, const EntryView& entries,
                         const ScoreView& scores) {
  const auto kernel = model.n_factors > tile_columns ? difference_kernel<S, 2> : difference_kernel<S, 1>;
  // A lane adds up a part of its warp's features.
  const double unit = core::chained_rounding_unit(std::numeric_limits<double>::epsilon(),
                                                  ceil_div(model.n_features, difference_warps));
  launch(stream, resident_blocks(), difference_threads, kernel, rows, model, entries, scores, unit);
}

template <class S>
void evaluate_residual(Stream stream, const Rows<S>& rows, const ModelView& model, const EntryView& entries,
                       const ScoreView& scores, double* scratch) {
  launch_over_tiles(stream, residual_kernel<S>, rows, model, entries, scores, scratch);
}

#define MFA_INSTANTIATE(S)                                                                                       \
  template void evaluate_difference(Stream, const Rows<S>&, const ModelView&, const EntryView&, const ScoreView&); \
  template void evaluate_residual(Stream, const Rows<S>&, const ModelView&, const EntryView&, const ScoreView&, \
                                  double*);
MFA_FOR_SAMPLE_TYPES(MFA_INSTANTIATE)
#undef MFA_INSTANTIATE

}  // namespace mfa::cuda
