// How a block goes through tiles of entries: sixteen of one component, two to each of its warps.
#pragma once

#include "entries.hpp"

namespace mfa::cuda {

inline constexpr unsigned rows_of_warp = 2;
inline constexpr unsigned tile_warps = tile_entries / rows_of_warp;
inline constexpr unsigned tile_threads = tile_warps * warp_size;

// Two rows of one component, or one that stands for both.
struct Pair {
  std::size_t component;
  std::size_t rows[rows_of_warp];
  unsigned count;
};

// Calls visit(pair) for the pairs of this warp. Blocks take tile after tile, as their number is known to the device only.
template <class Visit>
__device__ void for_each_pair(const EntryView& entries, std::size_t n_components, const Visit& visit) {
  const int tiles = entries.tile_starts[n_components];
  const int warp = static_cast<int>(threadIdx.x / warp_size);
  for (int tile = static_cast<int>(blockIdx.x); tile < tiles; tile += static_cast<int>(gridDim.x)) {
    const std::size_t k = component_of(entries.tile_starts, n_components, tile);
    const int first = entries.starts[k] + (tile - entries.tile_starts[k]) * static_cast<int>(tile_entries) +
                      warp * static_cast<int>(rows_of_warp);
    const int left = entries.starts[k + 1] - first;
    if (left <= 0) continue;
    const auto row = static_cast<std::size_t>(entries.rows[first]);
    visit(Pair{k, {row, left > 1 ? static_cast<std::size_t>(entries.rows[first + 1]) : row}, left > 1 ? 2u : 1u});
  }
}

}  // namespace mfa::cuda
