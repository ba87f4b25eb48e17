#include "entries.hpp"

namespace mfa::cuda {
namespace {

constexpr unsigned block_warps = task_threads / warp_size;

// How many threads of the block before this one take something, and how many do in all.
struct Place {
  int before, total;
};
__device__ Place place_in_block(bool takes, int* warp_counts) {
  const unsigned warp = threadIdx.x / warp_size;
  const unsigned lane = threadIdx.x % warp_size;
  const unsigned votes = __ballot_sync(all_lanes, takes);
  if (lane == 0) warp_counts[warp] = __popc(votes);
  __syncthreads();
  Place place{__popc(votes & ((1u << lane) - 1u)), 0};
  for (unsigned w = 0; w < block_warps; ++w) {
    if (w < warp) place.before += warp_counts[w];
    place.total += warp_counts[w];
  }
  __syncthreads();
  return place;
}

// One block per component and segment of rows.
template <bool Fill>
__global__ void segment_kernel(const std::uint8_t* marks, std::uint8_t mark, std::size_t n, std::size_t stride,
                               std::size_t segments, int* counts, int* rows) {
  __shared__ int warp_counts[block_warps];
  const std::size_t k = blockIdx.x / segments;
  const std::size_t begin = blockIdx.x % segments * segment_rows;
  const std::size_t end = begin + segment_rows < n ? begin + segment_rows : n;
  int found = Fill ? counts[blockIdx.x] : 0;
  for (std::size_t first = begin; first < end; first += task_threads) {
    const std::size_t i = first + threadIdx.x;
    const bool takes = i < end && marks[k * stride + i] == mark;
    const Place place = place_in_block(takes, warp_counts);
    if (Fill && takes) rows[found + place.before] = static_cast<int>(i);
    found += place.total;
  }
  if (!Fill && threadIdx.x == 0) counts[blockIdx.x] = found;
}

// Counts become where their entries begin. One block.
__global__ void scan_kernel(std::size_t n_components, std::size_t segments, EntryView list) {
  __shared__ int sums[task_threads];
  const std::size_t all = n_components * segments;
  const std::size_t share = (all + task_threads - 1) / task_threads;
  const std::size_t begin = threadIdx.x * share;
  const std::size_t end = begin + share < all ? begin + share : all;
  int sum = 0;
  for (std::size_t c = begin; c < end; ++c) sum += list.counts[c];
  sums[threadIdx.x] = sum;
  __syncthreads();
  int before = 0;
  for (unsigned t = 0; t < threadIdx.x; ++t) before += sums[t];
  for (std::size_t c = begin; c < end; ++c) {
    const int count = list.counts[c];
    list.counts[c] = before;
    if (c % segments == 0) list.starts[c / segments] = before;
    before += count;
  }
  if (threadIdx.x == task_threads - 1) list.starts[n_components] = before;
  __syncthreads();
  if (threadIdx.x != 0) return;
  list.tile_starts[0] = 0;
  for (std::size_t k = 0; k < n_components; ++k) {
    const auto count = static_cast<std::size_t>(list.starts[k + 1] - list.starts[k]);
    list.tile_starts[k + 1] = list.tile_starts[k] + static_cast<int>((count + tile_entries - 1) / tile_entries);
  }
}

}  // namespace

void list_entries(Stream stream, const std::uint8_t* marks, std::uint8_t mark, std::size_t n_components, std::size_t n,
                  std::size_t stride, const EntryView& out) {
  const std::size_t segments = ceil_div(n, segment_rows);
  launch(stream, n_components * segments, task_threads, segment_kernel<false>, marks, mark, n, stride, segments,
         out.counts, out.rows);
  launch(stream, 1, task_threads, scan_kernel, n_components, segments, out);
  launch(stream, n_components * segments, task_threads, segment_kernel<true>, marks, mark, n, stride, segments,
         out.counts, out.rows);
}

}  // namespace mfa::cuda
