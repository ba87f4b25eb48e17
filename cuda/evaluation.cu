#include "evaluation.hpp"

#include <algorithm>
#include <cmath>
#include <limits>
#include <type_traits>

#include "core/gaussian.hpp"
#include "tile_products.hpp"

namespace mfa::cuda {
namespace {

// A piece's lines: columns D^-1 A C^-T of as many factors as are multiplied at once, the mean, and the inverse noise where
// features differ in it.
constexpr unsigned n_singles(bool spherical) { return spherical ? 1 : 2; }
template <class S, unsigned Tiles, bool Spherical>
MFA_HD constexpr PieceMemory piece_memory() {
  return {Piece<S>::bytes(n_singles(Spherical) + Tiles * tile_columns), 3};
}

// What a lane has of a warp's sums: r^T columns, and |r|_D^2 or, where all features' noise is the same, |r|^2.
template <unsigned Tiles>
struct Sums {
  double products[Tiles][row_matrices][2] = {};
  double squares[1][row_matrices] = {};
};

// Columns that there are none of are multiplied all the same, whatever stands in their place: their products are no one's.
template <class S, unsigned Tiles, bool Spherical>
__device__ void add_piece(const Piece<S>& piece, const Sources<S, n_singles(Spherical), 1>& from, Sums<Tiles>& sums) {
  TilePart rest;
  read_rows(piece, rest);
#pragma unroll
  for (unsigned h = 0; h < 2; ++h) {
    const Two mean = piece.pair(from.single_line(0), lane_pair(h));
    Two weight{};
    if constexpr (!Spherical) weight = piece.pair(from.single_line(1), lane_pair(h));
#pragma unroll
    for (unsigned m = 0; m < row_matrices; ++m)
#pragma unroll
      for (unsigned e = 0; e < 2; ++e) {
        double& r = rest[m][h][e];
        r -= mean.values[e];
        sums.squares[0][m] += Spherical ? r * r : r * r * weight.values[e];
      }
#pragma unroll
    for (unsigned t = 0; t < Tiles; ++t)
      add_products(sums.products[t], rest, h, piece.pair(t * tile_columns + tensor::lane().g, lane_pair(h)).values);
  }
}

// Blocks take tile after tile. `mean` is one for all, or null for the components' own. keep(i, k, l, v) is called for all
// factors of every entry, and give(i, k, square, explained) then, with |r|_D^2 and |v|^2.
template <class S, unsigned Tiles, bool Spherical, class Keep, class Give>
__device__ void for_each_entry(const Rows<S>& rows, const ModelView& model, const double* mean, const EntryView& entries,
                               const Keep& keep, const Give& give) {
  constexpr unsigned width = tile_columns * Tiles;
  const auto L = static_cast<unsigned>(model.n_factors);
  const std::size_t d = model.n_features;
  const bool in_line = lies_in_line(rows, d);
  const unsigned warp = threadIdx.x / warp_size;
  const unsigned row = threadIdx.x / tile_sharers;
  const unsigned sharer = threadIdx.x % tile_sharers;
  // In place of the warps' pieces, once these are done with.
  auto* parts = reinterpret_cast<double (*)[tile_entries][width + 1]>(block_memory());
  const int tiles = entries.tile_starts[model.n_components];
  for (int tile = static_cast<int>(blockIdx.x); tile < tiles; tile += static_cast<int>(gridDim.x)) {
    const Tile members = tile_at(entries, model.n_components, tile);
    const std::size_t k = members.component;
    constexpr unsigned singles = n_singles(Spherical);
    const double* lines[singles] = {mean == nullptr ? model.component_mean(k) : mean};
    if constexpr (!Spherical) lines[1] = model.component_inverse_noise(k);
    double explained = 0.0, square = 0.0;
    for (unsigned first = 0; first == 0 || first < L; first += width) {
      const Run columns[1] = {{model.component_columns(k) + first * d, L - first < width ? L - first : width}};
      const Sources<S, singles, 1> from = sources(rows, members, d, lines, columns, width);
      Sums<Tiles> sums;
      for_each_piece(from, in_line, piece_memory<S, Tiles, Spherical>(), [&](const Piece<S>& piece, std::size_t) {
        add_piece<S, Tiles, Spherical>(piece, from, sums);
      });
      __syncthreads();  // all pieces are done with
      store_products(sums.products, parts[warp]);
      store_numbers(sums.squares, width, parts[warp]);
      __syncthreads();
      for (unsigned at = sharer; at <= width; at += tile_sharers) {
        double sum = 0.0;
        for (unsigned w = 0; w < tile_block_warps; ++w) sum += parts[w][row][at];
        if (at == width) {
          square = sum;
        } else if (first + at < L) {
          explained += sum * sum;
          if (row < members.count) keep(members.row(row), k, first + at, sum);
        }
      }
      __syncthreads();
    }
    explained = tensor::row_sum(explained);
    if constexpr (Spherical) square *= model.inverse_scalars[k];
    constexpr unsigned square_sharer = width % tile_sharers;
    if (sharer == square_sharer && row < members.count) give(members.row(row), k, square, explained);
  }
}

template <class S, unsigned Tiles, bool Spherical>
__global__ void __launch_bounds__(tile_block_threads, 4)
    evaluation_kernel(Rows<S> rows, ModelView model, double tolerance, double unit, EntryView entries, ScoreView scores,
                      int* any_coarse) {
  const std::size_t K = model.n_components;
  const std::size_t L = model.n_factors;
  for_each_entry<S, Tiles, Spherical>(
      rows, model, nullptr, entries,
      [&](std::size_t i, std::size_t k, unsigned l, double v) {
        if (scores.factors != nullptr) scores.factors[(i * K + k) * L + l] = v;
      },
      [&](std::size_t i, std::size_t k, double square, double explained) {
        const double value = core::log_density(model.log_normalizers[k], core::distance_of_difference(square - explained));
        const double error = core::difference_form_error(square, unit, model.model_errors[k]);
        const std::size_t at = scores.at(i, k);
        scores.values[at] = value;
        scores.errors[at] = error;
        scores.known[at] = known_v;
        if (error <= tolerance * std::abs(value)) return;
        scores.coarse[i] = 1;
        *any_coarse = 1;
      });
}

template <unsigned Tiles, bool Spherical>
__global__ void __launch_bounds__(tile_block_threads, 4)
    distance_kernel(Rows<double> rows, ModelView model, const double* mean, EntryView entries, ScoreView scores) {
  for_each_entry<double, Tiles, Spherical>(
      rows, model, mean, entries, [](std::size_t, std::size_t, unsigned, double) {},
      [&](std::size_t i, std::size_t k, double square, double explained) {
        scores.values[scores.at(i, k)] = core::distance_of_difference(square - explained);
      });
}

// Calls launch(tiles, spherical) with both as constants.
template <class Launch>
void for_shape(const ModelView& model, const Launch& launch) {
  const auto with = [&](auto tiles) {
    if (model.inverse_noise == nullptr) launch(tiles, std::true_type{});
    else launch(tiles, std::false_type{});
  };
  if (model.n_factors > tile_columns) with(std::integral_constant<unsigned, 2>{});
  else with(std::integral_constant<unsigned, 1>{});
}

// What a block's pieces take, or its sums.
template <class S, unsigned Tiles, bool Spherical>
constexpr std::size_t block_bytes =
    std::max(piece_memory<S, Tiles, Spherical>().bytes(),
             tile_block_warps * tile_entries * (Tiles * tile_columns + 1) * sizeof(double));

}  // namespace

template <class S>
void evaluate(Stream stream, const Rows<S>& rows, const ModelView& model, double tolerance, const EntryView& entries,
              const ScoreView& scores, int* any_coarse) {
  // A warp's sums are chains over every fourth piece.
  const std::size_t chain = ceil_div(model.n_features, tile_block_warps * piece_features) * piece_features;
  const double unit = core::chained_rounding_unit(std::numeric_limits<double>::epsilon(), chain);
  for_shape(model, [&](auto tiles, auto spherical) {
    launch_with_memory(stream, resident_blocks(), tile_block_threads, block_bytes<S, tiles, spherical>,
                       evaluation_kernel<S, tiles, spherical>, rows, model, tolerance, unit, entries, scores, any_coarse);
  });
}

void evaluate_distance(Stream stream, const Rows<double>& rows, const ModelView& model, const double* mean,
                       const EntryView& entries, const ScoreView& scores) {
  for_shape(model, [&](auto tiles, auto spherical) {
    launch_with_memory(stream, resident_blocks(), tile_block_threads, block_bytes<double, tiles, spherical>,
                       distance_kernel<tiles, spherical>, rows, model, mean, entries, scores);
  });
}

#define MFA_INSTANTIATE(S)                                                                                        \
  template void evaluate(Stream, const Rows<S>&, const ModelView&, double, const EntryView&, const ScoreView&, int*);
MFA_FOR_SAMPLE_TYPES(MFA_INSTANTIATE)
#undef MFA_INSTANTIATE

}  // namespace mfa::cuda
