#include "evaluation.hpp"

#include <cmath>

#include "core/gaussian.hpp"
#include "tile_products.hpp"

namespace mfa::cuda {
namespace {

// By how many times q the first factors may overestimate it: three digits of sixteen are lost in the difference.
constexpr double largest_correction = 1e3;
constexpr int most_passes = 4;

// Factors and gradients (tile_entries, L) of the tile that a block is at.
struct Scratch {
  double* z;
  double* gradient;
};

// The first factors of row i, of which this thread makes those from `part` on in steps of `parts`.
__device__ void start_factors(const ModelView& model, const ScoreView& scores, const FactorGuess& guess, std::size_t i,
                              std::size_t k, unsigned part, unsigned parts, double* z) {
  const std::size_t L = model.n_factors;
  if (scores.known[scores.at(i, k)] != known_nothing && scores.factors != nullptr) {
    if (part != 0) return;
    const double* from = scores.factors + (i * model.n_components + k) * L;
    bool finite = true;
    for (std::size_t l = 0; l < L; ++l) finite = finite && std::isfinite(from[l]);
    for (std::size_t l = 0; l < L; ++l) z[l] = finite ? from[l] : 0.0;
    if (scores.known[scores.at(i, k)] == known_v) core::solve_lower_transposed(L, model.component_cholesky(k), z);
    return;
  }
  for (std::size_t l = part; l < L; l += parts) {
    float sum = 0.0f;
    if (guess.coordinates != nullptr) {
      const std::size_t R = guess.n_directions;
      const float* slope = guess.slopes + (k * L + l) * R;
      for (std::size_t r = 0; r < R; ++r) sum += slope[r] * guess.coordinates[i * R + r];
      sum -= guess.offsets[k * L + l];
    }
    z[l] = std::isfinite(sum) ? static_cast<double>(sum) : 0.0;
  }
}

// Computes  half the negative gradient over the factors, and |x - mu - A z|^2_D, of the tile's rows: one pass over the
//           features for every 8 Tiles factors. Four threads share a row; the last number that they take is its distance,
//           which that one returns.
template <class S, unsigned Tiles>
__device__ double residual_pass(const Rows<S>& rows, const Tile& members, bool in_line, const ModelView& model,
                                const double* mean, const Scratch& scratch, const StageMemory& memory,
                                double (*parts)[tile_entries][tile_columns * Tiles + 1]) {
  const auto L = static_cast<unsigned>(model.n_factors);
  const std::size_t d = model.n_features;
  const std::size_t k = members.component;
  const tensor::Lane own = tensor::lane();
  const double* inverse_noise = model.component_inverse_noise(k);
  const double scalar = model.inverse_scalars[k];
  const auto factor = [&](unsigned m, unsigned l) { return scratch.z[(m * matrix_rows + own.g) * L + l]; };
  const auto fetch = [&](const Stage<S>& stage, std::size_t start) {
    stage.fetch_rows([&](unsigned r) { return rows.row(members.row(r)); }, in_line, start, d);
    stage.fetch_lines(0, 1, mean, start, d);
    if (inverse_noise != nullptr) stage.fetch_lines(1, 1, inverse_noise, start, d);
    if (L <= most_staged_factors) stage.fetch_lines(2, L, model.component_loadings(k), start, d);
  };
  double distance = 0.0;
  for (unsigned first = 0; first == 0 || first < L; first += tile_columns * Tiles) {
    double products[Tiles][row_matrices][2] = {};
    double squares[1][row_matrices] = {};
    for_each_stage<S>(memory, d, fetch,
                      [&](const Stage<S>& stage, std::size_t start) {
                        const double* center = stage.line(0);
                        const double* weights = stage.line(1);
                        const Loadings loadings = loadings_in(stage, 2, model.component_loadings(k), L, start, d);
                        TilePart rest;
#pragma unroll
                        for (unsigned f = 0; f < 4; ++f)
#pragma unroll
                          for (unsigned m = 0; m < row_matrices; ++m)
                            rest[m][f] = stage.value(m, f) - center[lane_feature(f)];
                        subtract_explained(rest, loadings, L, d - start, factor);
#pragma unroll
                        for (unsigned f = 0; f < 4; ++f) {
                          const double weight = inverse_noise == nullptr ? scalar : weights[lane_feature(f)];
#pragma unroll
                          for (unsigned m = 0; m < row_matrices; ++m) {
                            const double weighted = rest[m][f] * weight;
                            squares[0][m] += rest[m][f] * weighted;
                            rest[m][f] = weighted;
                          }
                        }
#pragma unroll
                        for (unsigned t = 0; t < Tiles; ++t)
                          add_products(products[t], rest, loadings, L, first + t * tile_columns);
                      });
    const unsigned warp = threadIdx.x / warp_size;
    store_products(products, parts[warp]);
    store_numbers(squares, tile_columns * Tiles, parts[warp]);
    __syncthreads();
    const unsigned row = threadIdx.x / tile_sharers;
    for (unsigned m = threadIdx.x % tile_sharers; m <= tile_columns * Tiles; m += tile_sharers) {
      double sum = 0.0;
      for (unsigned w = 0; w < tile_block_warps; ++w) sum += parts[w][row][m];
      if (m == tile_columns * Tiles) distance = sum;
      else if (first + m < L) scratch.gradient[row * L + first + m] = sum - scratch.z[row * L + first + m];
    }
    __syncthreads();
  }
  return distance;
}

// Blocks take tile after tile. `mean` is one for all, or null for the components' own; give(i, k, q, z) is called for every
// entry.
template <class S, unsigned Tiles, class Give>
__device__ void for_each_entry(const Rows<S>& rows, const ModelView& model, const double* mean, const FactorGuess& guess,
                               const EntryView& entries, const ScoreView& scores, double* all_scratch,
                               std::size_t stage_bytes, unsigned n_stages, const Give& give) {
  __shared__ double parts[tile_block_warps][tile_entries][tile_columns * Tiles + 1];
  __shared__ int unsettled;
  const std::size_t L = model.n_factors;
  const bool in_line = rows.has_aligned_fours();
  double* own_scratch = all_scratch + blockIdx.x * 2 * tile_entries * L;
  const Scratch scratch{own_scratch, own_scratch + tile_entries * L};
  const StageMemory memory{block_memory(), stage_bytes, n_stages};
  const int tiles = entries.tile_starts[model.n_components];
  const unsigned row = threadIdx.x / tile_sharers;
  const unsigned sharer = threadIdx.x % tile_sharers;
  constexpr unsigned last_sharer = tile_columns * Tiles % tile_sharers;
  for (int tile = static_cast<int>(blockIdx.x); tile < tiles; tile += static_cast<int>(gridDim.x)) {
    const Tile members = tile_at(entries, model.n_components, tile);
    const std::size_t k = members.component;
    const std::size_t i = members.row(row);
    double* z = scratch.z + row * L;
    start_factors(model, scores, guess, i, k, sharer, tile_sharers, z);
    __syncthreads();
    double mahalanobis = 0.0;
    bool settled = sharer != last_sharer;
    for (int pass = 0; pass < most_passes; ++pass) {
      const double* about = mean == nullptr ? model.component_mean(k) : mean;
      const double distance = residual_pass<S, Tiles>(rows, members, in_line, model, about, scratch, memory, parts);
      if (threadIdx.x == 0) unsettled = 0;
      __syncthreads();
      if (!settled) {  // so that no row depends on the one beside it
        const double q = distance + core::squared_norm(L, z);
        const double taken_off =
            core::complete_residual_form(L, model.component_cholesky(k), z, scratch.gradient + row * L);
        const double rest = q - taken_off;
        mahalanobis = rest < 0.0 ? 0.0 : rest;  // not a number stays what it is
        settled = taken_off <= largest_correction * mahalanobis;
        if (!settled) unsettled = 1;
      }
      __syncthreads();
      const bool done = unsettled == 0;
      __syncthreads();
      if (done) break;
    }
    if (sharer == last_sharer && row < members.count) give(i, k, mahalanobis, z);
    __syncthreads();
  }
}

template <class S, unsigned Tiles>
__global__ void __launch_bounds__(tile_block_threads, 3)
    evaluation_kernel(Rows<S> rows, ModelView model, FactorGuess guess, EntryView entries, ScoreView scores,
                      double* scratch, std::size_t stage_bytes, unsigned n_stages) {
  const std::size_t K = model.n_components;
  const std::size_t L = model.n_factors;
  for_each_entry<S, Tiles>(
      rows, model, nullptr, guess, entries, scores, scratch, stage_bytes, n_stages,
      [&](std::size_t i, std::size_t k, double q, const double* z) {
        const std::size_t at = scores.at(i, k);
        scores.values[at] = core::log_density(model.log_normalizers[k], q);
        scores.errors[at] = 0.0;  // as good as it gets
        scores.known[at] = known_z;
        if (scores.factors == nullptr) return;
        for (std::size_t l = 0; l < L; ++l) scores.factors[(i * K + k) * L + l] = z[l];
      });
}

// The distance alone, about a mean that is given.
template <unsigned Tiles>
__global__ void __launch_bounds__(tile_block_threads, 3)
    distance_kernel(Rows<double> rows, ModelView model, const double* mean, EntryView entries, ScoreView scores,
                    ScoreView nothing, double* scratch, std::size_t stage_bytes, unsigned n_stages) {
  for_each_entry<double, Tiles>(rows, model, mean, {}, entries, nothing, scratch, stage_bytes, n_stages,
                                [&](std::size_t i, std::size_t k, double q, const double*) {
                                  scores.values[scores.at(i, k)] = q;
                                });
}

std::size_t line_count(std::size_t n_factors) { return 2 + (n_factors <= most_staged_factors ? n_factors : 0); }

}  // namespace

std::size_t evaluation_scratch(std::size_t n_factors) { return resident_blocks() * 2 * tile_entries * n_factors; }

template <class S>
void evaluate(Stream stream, const Rows<S>& rows, const ModelView& model, const FactorGuess& guess,
              const EntryView& entries, const ScoreView& scores, double* scratch) {
  const auto kernel = model.n_factors > tile_columns ? evaluation_kernel<S, 2> : evaluation_kernel<S, 1>;
  const std::size_t bytes = Stage<S>::bytes(line_count(model.n_factors));
  const unsigned n_stages = stages_for(bytes);
  launch_with_memory(stream, resident_blocks(), tile_block_threads, n_stages * bytes, kernel, rows, model, guess, entries,
                     scores, scratch, bytes, n_stages);
}

void evaluate_distance(Stream stream, const Rows<double>& rows, const ModelView& model, const double* mean,
                       const EntryView& entries, const ScoreView& scores, double* scratch) {
  const auto kernel = model.n_factors > tile_columns ? distance_kernel<2> : distance_kernel<1>;
  ScoreView nothing = scores;  // whatever is known is about other rows
  nothing.factors = nullptr;
  const std::size_t bytes = Stage<double>::bytes(line_count(model.n_factors));
  const unsigned n_stages = stages_for(bytes);
  launch_with_memory(stream, resident_blocks(), tile_block_threads, n_stages * bytes, kernel, rows, model, mean, entries,
                     scores, nothing, scratch, bytes, n_stages);
}

#define MFA_INSTANTIATE(S)                                                                                \
  template void evaluate(Stream, const Rows<S>&, const ModelView&, const FactorGuess&, const EntryView&, \
                         const ScoreView&, double*);
MFA_FOR_SAMPLE_TYPES(MFA_INSTANTIATE)
#undef MFA_INSTANTIATE

}  // namespace mfa::cuda
