// How blocks go through tiles of entries of one component, two at a time to each of a block's warps.
#pragma once

#include "entries.hpp"
#include "rows.hpp"

namespace mfa::cuda {

inline constexpr unsigned rows_of_warp = 2;
inline constexpr unsigned pair_warps = 8;
inline constexpr unsigned pair_threads = pair_warps * warp_size;

// Entries of one component.
struct Tile {
  std::size_t component;
  const int* rows;
  unsigned count;  // at least one

  // Where there are fewer, the last one stands for the others.
  __device__ std::size_t row(unsigned at) const {
    return static_cast<std::size_t>(rows[at < count ? at : count - 1]);
  }
};

__device__ inline Tile tile_at(const EntryView& entries, std::size_t n_components, int tile) {
  const std::size_t k = component_of(entries.tile_starts, n_components, tile);
  const int first = entries.starts[k] + (tile - entries.tile_starts[k]) * static_cast<int>(tile_entries);
  const int left = entries.starts[k + 1] - first;
  constexpr int most = static_cast<int>(tile_entries);
  return {k, entries.rows + first, static_cast<unsigned>(left < most ? left : most)};
}

// Two rows of one component, or one that stands for both.
template <class S>
struct Pair {
  std::size_t component;
  std::size_t rows[rows_of_warp];
  const S* x[rows_of_warp];
  unsigned count;
};

// Calls visit(pair) for the pairs of this warp. Blocks take tile after tile, as their number is known to the device only.
template <class S, class Visit>
__device__ void for_each_pair(const Rows<S>& rows, const EntryView& entries, std::size_t n_components,
                              const Visit& visit) {
  const int tiles = entries.tile_starts[n_components];
  for (int tile = static_cast<int>(blockIdx.x); tile < tiles; tile += static_cast<int>(gridDim.x)) {
    const Tile members = tile_at(entries, n_components, tile);
    for (unsigned first = threadIdx.x / warp_size * rows_of_warp; first < members.count;
         first += pair_warps * rows_of_warp) {
      const unsigned count = members.count - first > 1 ? 2 : 1;
      const auto one = static_cast<std::size_t>(members.rows[first]);
      const auto other = static_cast<std::size_t>(members.rows[first + count - 1]);
      visit(Pair<S>{members.component, {one, other}, {rows.row(one), rows.row(other)}, count});
    }
  }
}

// Queues a kernel that does.
template <class... Parameters, class... Arguments>
void launch_over_tiles(Stream stream, void (*kernel)(Parameters...), Arguments&&... arguments) {
  launch(stream, resident_blocks(), pair_threads, kernel, std::forward<Arguments>(arguments)...);
}

}  // namespace mfa::cuda
