// What blocks do with the rows of a tile and the loadings of a component, in double on tensor cores (tensor.hpp). The features
// come to a block's memory in stages, some of which are on their way while one is worked on; each warp has sixteen of a
// stage's.
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
inline constexpr unsigned warp_features = 16;
inline constexpr unsigned stage_features = tile_block_warps * warp_features;
// Threads that share what is to be done once for a row.
inline constexpr unsigned tile_sharers = tile_block_threads / tile_entries;

// A lane's part of its warp's features: of rows 8 m + g features 2 c, 2 c + 1, 8 + 2 c and 9 + 2 c.
using TilePart = double[row_matrices][4];
__device__ inline unsigned lane_feature(unsigned f) { return f / 2 * 8 + 2 * tensor::lane().c + f % 2; }

// Where a warp's features begin in a stage.
__device__ inline unsigned warp_begin() { return threadIdx.x / warp_size * warp_features; }

// Lines of a stage are longer than it, so that the lanes' parts of neighbouring lines lie in different banks.
template <class T>
inline constexpr unsigned line_length = stage_features + 32 / sizeof(T);

// One stage of rows, lying where they are copied to, and of what belongs to a component: lines of numbers in double.
template <class S>
class Stage {
 public:
  static std::size_t bytes(std::size_t n_lines) {
    return tile_entries * line_length<S> * sizeof(S) + n_lines * line_length<double> * sizeof(double);
  }
  __device__ explicit Stage(unsigned char* memory)
      : rows_(reinterpret_cast<S*>(memory)), lines_(reinterpret_cast<double*>(rows_ + tile_entries * line_length<S>)) {}

  // Starts to copy features [start, start + stage_features) of the rows; those from d on are 0.
  template <class Row>
  __device__ void fetch_rows(const Row& row, bool in_line, std::size_t start, std::size_t d) const {
    constexpr unsigned fours = stage_features / 4;
    const unsigned at = threadIdx.x % fours * 4;
    const auto left = static_cast<unsigned>(start + at < d ? d - start - at : 0);
    for (unsigned r = threadIdx.x / fours; r < tile_entries; r += tile_block_threads / fours) {
      auto* to = reinterpret_cast<Four<S>*>(rows_ + r * line_length<S> + at);
      const S* from = row(r) + (left > 0 ? start + at : 0);
      if (in_line && left >= 4) copy_to_block<sizeof(Four<S>)>(to, from);
      else *to = load_four(from, left, false);
    }
  }
  // The same of lines first, ..., first + count - 1, which are d apart.
  __device__ void fetch_lines(unsigned first, unsigned count, const double* from, std::size_t start, std::size_t d) const {
    const bool pairs = d % 2 == 0;
    const auto there = static_cast<unsigned>(d - start < stage_features ? d - start : stage_features);
    constexpr unsigned in_line = stage_features / 2;
    for (unsigned pair = threadIdx.x; pair < count * in_line; pair += tile_block_threads) {
      const unsigned at = pair % in_line * 2;
      double* to = lines_ + (first + pair / in_line) * line_length<double> + at;
      const double* of = from + pair / in_line * d + start + at;
      if (pairs && at < there) {
        copy_to_block<2 * sizeof(double)>(to, of);
      } else {
        for (unsigned e = 0; e < 2; ++e) to[e] = at + e < there ? of[e] : 0.0;
      }
    }
  }

  __device__ double value(unsigned m, unsigned f) const {
    return mfa::cuda::to<double>(
        rows_[(m * matrix_rows + tensor::lane().g) * line_length<S> + warp_begin() + lane_feature(f)]);
  }
  // This warp's features of a line.
  __device__ const double* line(unsigned at) const { return lines_ + at * line_length<double> + warp_begin(); }

 private:
  S* rows_;
  double* lines_;
};

// A warp's features of a component's loadings: in a stage, or, where there are too many, where they lie.
struct Loadings {
  const double* data;
  std::size_t stride;

  __device__ double at(unsigned l, unsigned feature) const { return data[l * stride + feature]; }
};
inline constexpr std::size_t most_staged_factors = 48;
template <class S>
__device__ Loadings loadings_in(const Stage<S>& stage, unsigned first_line, const double* loadings, std::size_t L,
                                std::size_t start, std::size_t d) {
  if (L <= most_staged_factors) return {stage.line(first_line), line_length<double>};
  return {loadings + start + warp_begin(), d};
}

// Computes  part -= z A: factor(m, l) is z_l of the lane's row 8 m + g. What is not one of the `left` features that a stage
//           still has is 0.
// Cost      2 L flops for every number.
template <class Factor>
__device__ void subtract_explained(TilePart& part, const Loadings& loadings, unsigned L, std::size_t left,
                                   const Factor& factor) {
  const tensor::Lane own = tensor::lane();
  double sums[2][row_matrices][2] = {};
  for (unsigned first = 0; first < L; first += 8) {
    double loading[2][2], z[row_matrices][2];
#pragma unroll
    for (unsigned p = 0; p < 2; ++p) {
      const unsigned l = first + 4 * p + own.c;
#pragma unroll
      for (unsigned half = 0; half < 2; ++half) loading[half][p] = l < L ? loadings.at(l, 8 * half + own.g) : 0.0;
#pragma unroll
      for (unsigned m = 0; m < row_matrices; ++m) z[m][p] = l < L ? factor(m, l) : 0.0;
    }
#pragma unroll
    for (unsigned m = 0; m < row_matrices; m += 2) {
      const double both[2][2] = {{z[m][0], z[m][1]}, {z[m + 1][0], z[m + 1][1]}};
#pragma unroll
      for (unsigned half = 0; half < 2; ++half)
        tensor::multiply_add(sums[half][m], sums[half][m + 1], both, loading[half]);
    }
  }
#pragma unroll
  for (unsigned m = 0; m < row_matrices; ++m)
#pragma unroll
    for (unsigned f = 0; f < 4; ++f)
      part[m][f] = warp_begin() + lane_feature(f) < left ? part[m][f] - sums[f / 2][m][f % 2] : 0.0;
}

// Computes  products += part A^T, of factors [first, first + 8).
// Cost      2 flops for every number and factor.
__device__ inline void add_products(double (&products)[row_matrices][2], const TilePart& part, const Loadings& loadings,
                                    unsigned L, unsigned first) {
  const unsigned l = first + tensor::lane().g;
#pragma unroll
  for (unsigned f = 0; f < 4; f += 2) {
    double loading[2];
#pragma unroll
    for (unsigned p = 0; p < 2; ++p) loading[p] = l < L ? loadings.at(l, lane_feature(f + p)) : 0.0;
#pragma unroll
    for (unsigned m = 0; m < row_matrices; m += 2) {
      const double both[2][2] = {{part[m][f], part[m][f + 1]}, {part[m + 1][f], part[m + 1][f + 1]}};
      tensor::multiply_add(products[m], products[m + 1], both, loading);
    }
  }
}

// A warp's sums over its features, put where the block can add them up: parts (tile_entries, Width).
template <unsigned Tiles, unsigned Width>
__device__ void store_products(const double (&products)[Tiles][row_matrices][2], double (*parts)[Width]) {
  const tensor::Lane own = tensor::lane();
#pragma unroll
  for (unsigned m = 0; m < row_matrices; ++m)
#pragma unroll
    for (unsigned t = 0; t < Tiles; ++t)
      for (unsigned e = 0; e < 2; ++e)
        parts[m * matrix_rows + own.g][t * tile_columns + 2 * own.c + e] = products[t][m][e];
}
// The same of further numbers, of which every lane has its features' part, from column `first` on.
template <unsigned Numbers, unsigned Width>
__device__ void store_numbers(const double (&numbers)[Numbers][row_matrices], unsigned first, double (*parts)[Width]) {
  const tensor::Lane own = tensor::lane();
#pragma unroll
  for (unsigned n = 0; n < Numbers; ++n)
#pragma unroll
    for (unsigned m = 0; m < row_matrices; ++m) {
      const double sum = tensor::row_sum(numbers[n][m]);
      if (own.c == 0) parts[m * matrix_rows + own.g][first + n] = sum;
    }
}

// Stages that are in a block's memory at once, as many as there is room for, but two at least.
inline unsigned stages_for(std::size_t stage_bytes) {
  constexpr std::size_t room = std::size_t{100} << 10;
  constexpr unsigned most = 3;
  return 2 * stage_bytes > room || 3 * stage_bytes > room ? 2 : most;
}

// Where a block's stages lie.
struct StageMemory {
  unsigned char* memory;
  std::size_t stage_bytes;
  unsigned n_stages;
};

// Calls fetch(stage, start) for all stages of the features, ahead of work(stage, start) for each of them.
template <class S, class Fetch, class Work>
__device__ void for_each_stage(const StageMemory& memory, std::size_t d, const Fetch& fetch, const Work& work) {
  const unsigned n_stages = memory.n_stages;
  const auto last = static_cast<unsigned>((d + stage_features - 1) / stage_features);
  const auto stage = [&](unsigned s) { return Stage<S>(memory.memory + s % n_stages * memory.stage_bytes); };
  const auto start_one = [&](unsigned s) {
    if (s < last) fetch(stage(s), static_cast<std::size_t>(s) * stage_features);
    commit_copies();
  };
  for (unsigned s = 0; s + 1 < n_stages; ++s) start_one(s);
  for (unsigned s = 0; s < last; ++s) {
    if (n_stages == 2) await_copies<0>();
    else await_copies<1>();
    __syncthreads();  // the stage has come, and the one before it is done with
    start_one(s + n_stages - 1);
    work(stage(s), static_cast<std::size_t>(s) * stage_features);
  }
  __syncthreads();
}

}  // namespace mfa::cuda
