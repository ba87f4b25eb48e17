// Entries (row, component) that have to be computed one by one, sorted by component and then by row.
#pragma once

#include <cstddef>
#include <cstdint>

#include "device.hpp"

namespace mfa::cuda {

// Entries of one component that are computed together, so that its parameters are read once for all of them.
inline constexpr std::size_t tile_entries = 32;
// Rows that one block looks through for entries, and a thread.
inline constexpr std::size_t thread_marks = 16;
inline constexpr std::size_t segment_rows = 256 * thread_marks;

struct EntryView {
  int* rows;         // (capacity) row of every entry
  int* starts;       // (K + 1) where a component's entries begin
  int* tile_starts;  // (K + 1) the same in tiles
  int* counts;       // (K, segments)
};

// For so many rows, and entries at most.
inline EntryView lay_out_entries(Arena& arena, std::size_t n_components, std::size_t capacity_rows,
                                 std::size_t capacity) {
  return {arena.take<int>(capacity), arena.take<int>(n_components + 1),
          arena.take<int>(n_components + 1),
          arena.take<int>(n_components * ceil_div(capacity_rows, segment_rows))};
}

// Computes  the list of all (i, k) with marks[k, i] equal to `mark`. Nothing is done where if_not_zero is given and
//           points to 0.
// Shapes    marks (K, stride), of which n rows count; the stride is a multiple of thread_marks.
// Cost      two passes over the marks; integers, so that the order is the same every time.
void list_entries(Stream stream, const std::uint8_t* marks, std::uint8_t mark, std::size_t n_components, std::size_t n,
                  std::size_t stride, const EntryView& out, const int* if_not_zero = nullptr);

#if defined(__CUDACC__) || defined(MFA_CUDA_EMULATION)

// The component that entry tile `tile` belongs to.
__device__ inline std::size_t component_of(const int* starts, std::size_t n_components, int tile) {
  std::size_t low = 0, high = n_components;  // starts[low] <= tile < starts[high]
  while (high - low > 1) {
    const std::size_t middle = (low + high) / 2;
    if (starts[middle] <= tile) low = middle;
    else high = middle;
  }
  return low;
}

#endif

}  // namespace mfa::cuda
