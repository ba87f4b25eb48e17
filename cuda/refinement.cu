#include "refinement.hpp"

#include <cmath>

#include "core/gaussian.hpp"
#include "tile_products.hpp"

namespace mfa::cuda {
namespace {

// Factors and gradients (tile_entries, L) of the tile that a block is at.
struct Scratch {
  double* z;
  double* gradient;
};

// The first factors of row i: what is known of them, or 0.
__device__ void start_factors(const ModelView& model, const ScoreView& scores, std::size_t i, std::size_t k, double* z) {
  const std::size_t L = model.n_factors;
  const std::uint8_t known = scores.factors == nullptr ? std::uint8_t{known_nothing} : scores.known[scores.at(i, k)];
  const double* from = scores.factors + (i * model.n_components + k) * L;
  bool finite = known != known_nothing;
  for (std::size_t l = 0; l < L && finite; ++l) finite = std::isfinite(from[l]);
  for (std::size_t l = 0; l < L; ++l) z[l] = finite ? from[l] : 0.0;
  if (finite && known == known_v) core::solve_lower_transposed(L, model.component_cholesky(k), z);
}

// Lines of a piece beside the loadings: the mean and the inverse noise. Where that is one number, the mean is copied again in its
// place, and not read.
constexpr unsigned n_singles = 2;

// Computes  half the negative gradient over the factors, and |x - mu - A z|^2_D, of the tile's rows: one pass over the
//           features for every 8 Tiles factors. Four threads share a row; the last number that they take is its distance,
//           which that one returns.
template <class S, unsigned Tiles, bool Copied>
__device__ double residual_pass(const Rows<S>& rows, const Tile& members, const ModelView& model, const Scratch& scratch,
                                const PieceMemory& memory, double (*parts)[tile_entries][tile_columns * Tiles + 1]) {
  const auto L = static_cast<unsigned>(model.n_factors);
  const std::size_t d = model.n_features;
  const std::size_t k = members.component;
  const bool spherical = model.inverse_noise == nullptr;
  const double scalar = model.inverse_scalars[k];
  const double* mean = model.component_mean(k);
  const double* singles[n_singles] = {mean, spherical ? mean : model.component_inverse_noise(k)};
  const Run runs[1] = {factor_run<Copied>(model.component_loadings(k), L)};
  const Sources<S, n_singles, 1> from = sources(rows, members, d, singles, runs, run_places<Copied>(L));
  const auto minus_factor = [&](unsigned m, unsigned l) {
    return -scratch.z[(m * matrix_rows + tensor::lane().g) * L + l];
  };
  double distance = 0.0;
  for (unsigned first = 0; first == 0 || first < L; first += tile_columns * Tiles) {
    double products[Tiles][row_matrices][2] = {};
    double squares[1][row_matrices] = {};
    for_each_piece(from, lies_in_line(rows, d), memory, [&](const Piece<S>& piece, std::size_t start) {
      const auto loadings = factor_lines<Copied>(piece, from, 0, model.component_loadings(k), L, start);
      const LinePart center = read_line(piece, from.single_line(0));
      const LinePart weights = read_line(piece, from.single_line(1));
      TilePart rest;
      read_rows(piece, rest);
      for_tile_part([&](unsigned m, unsigned h, unsigned e) { rest[m][h][e] -= center.values[h][e]; });
      add_explained(rest, loadings, minus_factor);
      for_tile_part([&](unsigned m, unsigned h, unsigned e) {
        const double weighted = rest[m][h][e] * (spherical ? scalar : weights.values[h][e]);
        squares[0][m] += rest[m][h][e] * weighted;
        rest[m][h][e] = weighted;
      });
#pragma unroll
      for (unsigned t = 0; t < Tiles; ++t) add_products(products[t], rest, loadings, first + t * tile_columns);
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

// Blocks take tile after tile; those of which nothing is coarse are passed by.
template <class S, unsigned Tiles, bool Copied>
__global__ void __launch_bounds__(tile_block_threads, 3)
    refinement_kernel(Rows<S> rows, ModelView model, double tolerance, const int* if_not_zero, EntryView entries,
                      ScoreView scores, double* all_scratch, PieceMemory memory) {
  __shared__ double parts[tile_block_warps][tile_entries][tile_columns * Tiles + 1];
  __shared__ int said;
  if (if_not_zero != nullptr && *if_not_zero == 0) return;
  const std::size_t K = model.n_components;
  const std::size_t L = model.n_factors;
  double* own_scratch = all_scratch + blockIdx.x * 2 * tile_entries * L;
  const Scratch scratch{own_scratch, own_scratch + tile_entries * L};
  const int tiles = entries.tile_starts[K];
  const unsigned row = threadIdx.x / tile_sharers;
  constexpr unsigned square_sharer = tile_columns * Tiles % tile_sharers;
  // Whether any thread says so, for all of them.
  const auto any = [&](bool says) {
    if (threadIdx.x == 0) said = 0;
    __syncthreads();
    if (says) said = 1;
    __syncthreads();
    const bool found = said == 1;
    __syncthreads();
    return found;
  };
  for (int tile = static_cast<int>(blockIdx.x); tile < tiles; tile += static_cast<int>(gridDim.x)) {
    const Tile members = tile_at(entries, K, tile);
    const std::size_t k = members.component;
    const std::size_t i = members.row(row);
    const std::size_t at = scores.at(i, k);
    const bool gives = threadIdx.x % tile_sharers == square_sharer && row < members.count &&
                       !(scores.errors[at] <= tolerance * std::abs(scores.values[at]));
    if (!any(gives)) continue;
    double* z = scratch.z + row * L;
    if (threadIdx.x % tile_sharers == square_sharer) start_factors(model, scores, i, k, z);
    __syncthreads();
    double mahalanobis = 0.0;
    bool settled = !gives;
    for (int pass = 0; pass < core::most_residual_passes; ++pass) {
      const double distance = residual_pass<S, Tiles, Copied>(rows, members, model, scratch, memory, parts);
      if (!settled) {  // so that no row depends on the one beside it
        const double q = distance + core::squared_norm(L, z);
        const double taken_off =
            core::complete_residual_form(L, model.component_cholesky(k), z, scratch.gradient + row * L);
        mahalanobis = core::distance_of_difference(q - taken_off);
        settled = core::has_settled(taken_off, mahalanobis);
      }
      if (!any(!settled)) break;
    }
    if (!gives) continue;
    scores.values[at] = core::log_density(model.log_normalizers[k], mahalanobis);
    scores.errors[at] = 0.0;  // as good as it gets
    if (scores.factors == nullptr) continue;
    scores.known[at] = known_z;
    for (std::size_t l = 0; l < L; ++l) scores.factors[(i * K + k) * L + l] = z[l];
  }
}

}  // namespace

std::size_t refinement_scratch(std::size_t n_factors) { return resident_blocks() * 2 * tile_entries * n_factors; }

template <class S>
void refine(Stream stream, const Rows<S>& rows, const ModelView& model, double tolerance, const int* if_not_zero,
            const EntryView& entries, const ScoreView& scores, double* scratch) {
  const auto [pieces, copied] = memory_for<S>(n_singles, 1, model.n_factors, 0);
  const auto kernel = !copied                            ? refinement_kernel<S, 2, false>
                      : model.n_factors <= tile_columns ? refinement_kernel<S, 1, true>
                                                         : refinement_kernel<S, 2, true>;
  launch_with_memory(stream, resident_blocks(), tile_block_threads, pieces.bytes(), kernel, rows, model, tolerance,
                     if_not_zero, entries, scores, scratch, pieces);
}

#define MFA_INSTANTIATE(S)                                                                             \
  template void refine(Stream, const Rows<S>&, const ModelView&, double, const int*, const EntryView&, \
                       const ScoreView&, double*);
MFA_FOR_SAMPLE_TYPES(MFA_INSTANTIATE)
#undef MFA_INSTANTIATE

}  // namespace mfa::cuda
