#include "evaluation.hpp"

#include <cmath>
#include <limits>

#include "core/gaussian.hpp"
#include "tiles.hpp"

namespace mfa::cuda {
namespace {

// By how many times q the first factors may overestimate it: three digits of sixteen are lost in the difference.
constexpr double largest_correction = 1e3;
constexpr int most_passes = 4;
// Products that a warp keeps of a row at once.
constexpr std::size_t columns_at_once = 10;
// Terms that are added up in A before they go on in double.
constexpr std::size_t run = 16;

// One component as the difference form reads it, in the precision A.
template <class A>
struct Single {
  const A* mean;
  const A* columns;
  const A* inverse_noise;
};
template <class A>
__device__ Single<A> single(const ModelView& model, std::size_t k) {
  const std::size_t d = model.n_features;
  const std::size_t Ld = model.n_factors * d;
  if constexpr (sizeof(A) == sizeof(float))
    return {model.means_f32 + k * d, model.columns_f32 + k * Ld,
            model.inverse_noise_f32 == nullptr ? nullptr : model.inverse_noise_f32 + k * d};
  else
    return {model.means + k * d, model.columns + k * Ld, model.component_inverse_noise(k)};
}

// Products of a pair of rows with columns [l, l + count) of a component, and |x - mu|^2_D, summed by all lanes.
template <class S, class A>
__device__ void multiply_rows(const S* const* x, const Single<A>& c, std::size_t d, std::size_t l, std::size_t count,
                              double (&total)[rows_of_warp][columns_at_once + 1]) {
  for (unsigned r = 0; r < rows_of_warp; ++r)
    for (std::size_t m = 0; m <= columns_at_once; ++m) total[r][m] = 0.0;
  for (std::size_t begin = threadIdx.x % warp_size; begin < d; begin += run * warp_size) {
    A part[rows_of_warp][columns_at_once + 1] = {};
    for (std::size_t step = 0; step < run; ++step) {
      const std::size_t j = begin + step * warp_size;
      if (j >= d) break;
      const A mean = c.mean[j];
      const A weight = c.inverse_noise == nullptr ? A(1) : c.inverse_noise[j];
      A column[columns_at_once];
#pragma unroll
      for (std::size_t m = 0; m < columns_at_once; ++m) column[m] = m < count ? c.columns[(l + m) * d + j] : A(0);
#pragma unroll
      for (unsigned r = 0; r < rows_of_warp; ++r) {
        const A offset = to<A>(x[r][j]) - mean;
        part[r][columns_at_once] += offset * offset * weight;
#pragma unroll
        for (std::size_t m = 0; m < columns_at_once; ++m) part[r][m] += offset * column[m];
      }
    }
#pragma unroll
    for (unsigned r = 0; r < rows_of_warp; ++r)
#pragma unroll
      for (std::size_t m = 0; m <= columns_at_once; ++m) total[r][m] += static_cast<double>(part[r][m]);
  }
#pragma unroll
  for (unsigned r = 0; r < rows_of_warp; ++r)
#pragma unroll
    for (std::size_t m = 0; m <= columns_at_once; ++m) total[r][m] = warp_sum(total[r][m]);
}

// |x - mu|^2_D, but for a scalar D, and |v|^2 of a pair of rows; keep(r, l, v) is called for every factor v_l of row r.
struct DifferenceTerms {
  double square[rows_of_warp], explained[rows_of_warp];
};
template <class S, class A, class Keep>
__device__ DifferenceTerms difference_terms(const S* const* x, const Single<A>& c, std::size_t d, std::size_t L,
                                            const Keep& keep) {
  DifferenceTerms terms{};
  double total[rows_of_warp][columns_at_once + 1];
  std::size_t l = 0;
  do {
    const std::size_t count = L - l < columns_at_once ? L - l : columns_at_once;
    multiply_rows<S, A>(x, c, d, l, count, total);
#pragma unroll
    for (unsigned r = 0; r < rows_of_warp; ++r) {
      terms.square[r] = total[r][columns_at_once];
#pragma unroll
      for (std::size_t m = 0; m < columns_at_once; ++m) {
        terms.explained[r] += total[r][m] * total[r][m];
        if (m < count) keep(r, l + m, total[r][m]);
      }
    }
    l += columns_at_once;
  } while (l < L);
  return terms;
}

template <class S, class A>
__global__ void __launch_bounds__(tile_threads, 2)
    difference_kernel(Rows<S> rows, ModelView model, EntryView entries, ScoreView scores, double unit) {
  const std::size_t K = model.n_components;
  const std::size_t L = model.n_factors;
  const unsigned lane = threadIdx.x % warp_size;
  for_each_pair(rows, entries, K, [&](const Pair<S>& pair) {
    const std::size_t k = pair.component;
    const DifferenceTerms terms = difference_terms<S, A>(
        pair.x, single<A>(model, k), model.n_features, L, [&](unsigned r, std::size_t l, double v) {
          if (lane == 0 && r < pair.count) scores.factors[(pair.rows[r] * K + k) * L + l] = v;
        });
    if (lane >= pair.count) return;
    const double norm = (lane == 0 ? terms.square[0] : terms.square[1]) * model.inverse_scalars[k];
    const double q = core::difference_form(norm, 0.0, lane == 0 ? terms.explained[0] : terms.explained[1]);
    const std::size_t at = scores.at(lane == 0 ? pair.rows[0] : pair.rows[1], k);
    const double rounding = sizeof(A) == sizeof(float) ? model.mean_rounding[k] : 0.0;
    scores.values[at] = core::log_density(model.log_normalizers[k], q);
    scores.errors[at] =
        core::difference_form_error(norm, unit, model.model_errors[k]) + core::mean_rounding_error(norm, rounding);
    scores.known[at] = known_v;
  });
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
      const double* from = scores.factors + (i * K + k) * L;
      bool finite = true;
      for (std::size_t l = 0; l < L; ++l) finite = finite && std::isfinite(from[l]);
      for (std::size_t l = 0; l < L; ++l) own[l] = finite ? from[l] : 0.0;
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
    for (std::size_t l = 0; l < L; ++l) scores.factors[(i * K + k) * L + l] = own_scratch[lane * L + l];
  });
}

// The distance alone, of rows about a mean that is given.
__global__ void __launch_bounds__(tile_threads, 2)
    distance_kernel(Rows<double> rows, ModelView model, const double* mean, EntryView entries, ScoreView scores) {
  for_each_pair(rows, entries, model.n_components, [&](const Pair<double>& pair) {
    const std::size_t k = pair.component;
    Single<double> c = single<double>(model, k);
    c.mean = mean;
    const DifferenceTerms terms = difference_terms<double, double>(pair.x, c, model.n_features, model.n_factors,
                                                                   [](unsigned, std::size_t, double) {});
    if (threadIdx.x % warp_size != 0) return;
    for (unsigned r = 0; r < rows_of_warp; ++r)
      if (r < pair.count)
        scores.values[scores.at(pair.rows[r], k)] =
            core::difference_form(terms.square[r] * model.inverse_scalars[k], 0.0, terms.explained[r]);
  });
}

}  // namespace

void evaluate_distance(Stream stream, const Rows<double>& rows, const ModelView& model, const double* mean,
                       const EntryView& entries, const ScoreView& scores) {
  launch_over_tiles(stream, distance_kernel, rows, model, mean, entries, scores);
}

std::size_t residual_scratch(std::size_t n_factors) {
  return resident_blocks() * tile_warps * 2 * rows_of_warp * n_factors;
}

template <class S, class A>
void evaluate_difference(Stream stream, const Rows<S>& rows, const ModelView& model, const EntryView& entries,
                         const ScoreView& scores) {
  const std::size_t d = model.n_features;
  const double epsilon = std::numeric_limits<A>::epsilon();
  const double unit = sizeof(A) == sizeof(float) ? core::rounding_unit(epsilon, d)
                                                 : core::chained_rounding_unit(epsilon, ceil_div(d, warp_size) + run);
  launch_over_tiles(stream, difference_kernel<S, A>, rows, model, entries, scores, unit);
}

template <class S>
void evaluate_residual(Stream stream, const Rows<S>& rows, const ModelView& model, const EntryView& entries,
                       const ScoreView& scores, double* scratch) {
  launch_over_tiles(stream, residual_kernel<S>, rows, model, entries, scores, scratch);
}

#define MFA_INSTANTIATE(S)                                                                                       \
  template void evaluate_difference<S, double>(Stream, const Rows<S>&, const ModelView&, const EntryView&,       \
                                               const ScoreView&);                                                \
  template void evaluate_residual(Stream, const Rows<S>&, const ModelView&, const EntryView&, const ScoreView&, \
                                  double*);
MFA_FOR_SAMPLE_TYPES(MFA_INSTANTIATE)
#undef MFA_INSTANTIATE
template void evaluate_difference<float, float>(Stream, const Rows<float>&, const ModelView&, const EntryView&,
                                                const ScoreView&);
template void evaluate_difference<Bfloat16, float>(Stream, const Rows<Bfloat16>&, const ModelView&, const EntryView&,
                                                   const ScoreView&);

}  // namespace mfa::cuda
