// Products in double of a tile's rows with the loadings of a component, on tensor cores (tensor.hpp). The warps of a block have
// the same tile, and take its features in turn, sixteen at a time.
#pragma once

#include "device_model.hpp"
#include "rows.hpp"
#include "tensor.hpp"
#include "tiles.hpp"

namespace mfa::cuda {

inline constexpr unsigned tile_block_warps = 4;
inline constexpr unsigned tile_block_threads = tile_block_warps * warp_size;
inline constexpr unsigned matrix_rows = 8;
inline constexpr unsigned row_matrices = tile_entries / matrix_rows;
inline constexpr unsigned step_features = 16;
// Threads that share what is to be done once for a row.
inline constexpr unsigned tile_sharers = tile_block_threads / tile_entries;

// A lane's part of sixteen features: of rows 8 m + g features 4 c to 4 c + 3.
using TilePart = double[row_matrices][4];

// Computes  part -= z A: factor(m, l) is z_l of the lane's row 8 m + g, `loadings` (L, d).
// Cost      2 L flops for every number.
template <class Factor>
__device__ void subtract_explained(TilePart& part, const double* loadings, std::size_t L, std::size_t d, std::size_t start,
                                   const Factor& factor) {
  const tensor::Lane own = tensor::lane();
  // The products' columns 2 c and 2 c + 1 are to be the lane's own features.
  const std::size_t j = start + own.g / 2 * 4 + own.g % 2;
  double sums[2][row_matrices][2] = {};
  for (std::size_t first = 0; first < L; first += 4) {
    const std::size_t l = first + own.c;
    double loading[2];
#pragma unroll
    for (unsigned half = 0; half < 2; ++half)
      loading[half] = l < L && j + 2 * half < d ? loadings[l * d + j + 2 * half] : 0.0;
#pragma unroll
    for (unsigned m = 0; m < row_matrices; ++m) {
      const double z = l < L ? factor(m, l) : 0.0;
#pragma unroll
      for (unsigned half = 0; half < 2; ++half) tensor::multiply_add(sums[half][m], z, loading[half]);
    }
  }
#pragma unroll
  for (unsigned m = 0; m < row_matrices; ++m)
#pragma unroll
    for (unsigned f = 0; f < 4; ++f) part[m][f] -= sums[f / 2][m][f % 2];
}

// Computes  products += part A^T, of factors [first, first + 8 Tiles).
// Cost      2 flops for every number and factor.
template <unsigned Tiles>
__device__ void add_products(double (&products)[Tiles][row_matrices][2], const TilePart& part, const double* loadings,
                             std::size_t L, std::size_t d, std::size_t first, std::size_t start) {
  const tensor::Lane own = tensor::lane();
  const std::size_t j = start + 4 * own.c;
#pragma unroll
  for (unsigned t = 0; t < Tiles; ++t) {
    const std::size_t l = first + t * tile_columns + own.g;
    const auto left = static_cast<unsigned>(l < L && j < d ? d - j : 0);
    const Four<double> loading = load_four(loadings + l * d + j, left, d % 4 == 0);
#pragma unroll
    for (unsigned f = 0; f < 4; ++f)
#pragma unroll
      for (unsigned m = 0; m < row_matrices; ++m)
        tensor::multiply_add(products[t][m], part[m][f], loading.values[f]);
  }
}

// Puts a warp's products, and sums over its features of one more number of each row, where the block can add them up.
template <unsigned Tiles>
__device__ void store_parts(const double (&products)[Tiles][row_matrices][2], const double (&sums)[row_matrices],
                            double (*parts)[tile_columns * Tiles + 1]) {
  const tensor::Lane own = tensor::lane();
#pragma unroll
  for (unsigned m = 0; m < row_matrices; ++m) {
    double* to = parts[m * matrix_rows + own.g];
#pragma unroll
    for (unsigned t = 0; t < Tiles; ++t)
      for (unsigned e = 0; e < 2; ++e) to[t * tile_columns + 2 * own.c + e] = products[t][m][e];
    const double sum = tensor::row_sum(sums[m]);
    if (own.c == 0) to[tile_columns * Tiles] = sum;
  }
}

}  // namespace mfa::cuda
