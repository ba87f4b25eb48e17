#include "entries.hpp"

namespace mfa::cuda {
namespace {

// The one block that goes through all counts has as many threads as a block may have.
constexpr unsigned scan_threads = 1024;
static_assert(segment_rows == task_threads * thread_marks);

// What the threads of a block before this one have together, and what all have.
struct Place {
  int before, total;
};
template <unsigned Warps>
__device__ Place place_in_block(int count, int (&warp_counts)[Warps]) {
  const unsigned warp = threadIdx.x / warp_size;
  const unsigned lane = threadIdx.x % warp_size;
  int sum = count;
  for (unsigned step = 1; step < warp_size; step *= 2) {
    const int other = __shfl_up_sync(all_lanes, sum, step);
    if (lane >= step) sum += other;
  }
  if (lane == warp_size - 1) warp_counts[warp] = sum;
  __syncthreads();
  Place place{sum - count, 0};
  for (unsigned w = 0; w < Warps; ++w) {
    if (w < warp) place.before += warp_counts[w];
    place.total += warp_counts[w];
  }
  __syncthreads();
  return place;
}

struct alignas(thread_marks) Marks {
  std::uint8_t values[thread_marks];
};

// One block per component and segment of rows.
template <bool Fill>
__global__ void segment_kernel(const std::uint8_t* marks, std::uint8_t mark, std::size_t n, std::size_t stride,
                               std::size_t segments, const int* if_not_zero, const int* total, int* counts, int* rows) {
  __shared__ int warp_counts[task_threads / warp_size];
  if (if_not_zero != nullptr && *if_not_zero == 0) return;
  // Entries go from where a block's begin to where the next one's do.
  if (Fill && counts[blockIdx.x] == (blockIdx.x + 1 < gridDim.x ? counts[blockIdx.x + 1] : *total)) return;
  const std::size_t k = blockIdx.x / segments;
  const std::size_t first = blockIdx.x % segments * segment_rows + threadIdx.x * thread_marks;
  Marks own{};
  if (first < n) own = *reinterpret_cast<const Marks*>(marks + k * stride + first);
  const auto takes = [&](std::size_t e) { return first + e < n && own.values[e] == mark; };
  int found = 0;
#pragma unroll
  for (std::size_t e = 0; e < thread_marks; ++e) found += takes(e) ? 1 : 0;
  const Place place = place_in_block(found, warp_counts);
  if (!Fill) {
    if (threadIdx.x == 0) counts[blockIdx.x] = place.total;
    return;
  }
  int at = counts[blockIdx.x] + place.before;
#pragma unroll
  for (std::size_t e = 0; e < thread_marks; ++e)
    if (takes(e)) rows[at++] = static_cast<int>(first + e);
}

// Counts become where their entries begin. One block.
__global__ void __launch_bounds__(scan_threads)
    scan_kernel(std::size_t n_components, std::size_t segments, const int* if_not_zero, EntryView list) {
  __shared__ int warp_counts[scan_threads / warp_size];
  if (if_not_zero != nullptr && *if_not_zero == 0) return;
  const std::size_t all = n_components * segments;
  const std::size_t share = (all + scan_threads - 1) / scan_threads;
  const std::size_t begin = threadIdx.x * share;
  const std::size_t end = begin + share < all ? begin + share : all;
  // Several at once, as a thread waits for each.
  const auto for_each_count = [&](const auto& visit) {
    constexpr std::size_t at_once = 8;
    for (std::size_t first = begin; first < end; first += at_once) {
      int counts[at_once];
#pragma unroll
      for (std::size_t e = 0; e < at_once; ++e) counts[e] = first + e < end ? list.counts[first + e] : 0;
#pragma unroll
      for (std::size_t e = 0; e < at_once; ++e)
        if (first + e < end) visit(first + e, counts[e]);
    }
  };
  int sum = 0;
  for_each_count([&](std::size_t, int count) { sum += count; });
  const Place place = place_in_block(sum, warp_counts);
  int before = place.before;
  std::size_t component = (begin + segments - 1) / segments;
  for_each_count([&](std::size_t c, int count) {
    list.counts[c] = before;
    if (c == component * segments) list.starts[component++] = before;
    before += count;
  });
  if (threadIdx.x == 0) list.starts[n_components] = place.total;
  __syncthreads();
  int tiles = 0;
  for (std::size_t first = 0; first < n_components; first += scan_threads) {
    const std::size_t k = first + threadIdx.x;
    const int count = k < n_components ? list.starts[k + 1] - list.starts[k] : 0;
    constexpr int size = tile_entries;
    const Place tile = place_in_block((count + size - 1) / size, warp_counts);
    if (k < n_components) list.tile_starts[k] = tiles + tile.before;
    tiles += tile.total;
  }
  if (threadIdx.x == 0) list.tile_starts[n_components] = tiles;
}

}  // namespace

void list_entries(Stream stream, const std::uint8_t* marks, std::uint8_t mark, std::size_t n_components, std::size_t n,
                  std::size_t stride, const EntryView& out, const int* if_not_zero) {
  const std::size_t segments = ceil_div(n, segment_rows);
  launch(stream, n_components * segments, task_threads, segment_kernel<false>, marks, mark, n, stride, segments,
         if_not_zero, nullptr, out.counts, out.rows);
  launch(stream, 1, scan_threads, scan_kernel, n_components, segments, if_not_zero, out);
  launch(stream, n_components * segments, task_threads, segment_kernel<true>, marks, mark, n, stride, segments,
         if_not_zero, out.starts + n_components, out.counts, out.rows);
}

}  // namespace mfa::cuda
