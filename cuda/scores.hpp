// What is known of the scores of some rows at some moment, on the device. Rows are the fast index, so that threads that
// stand beside each other, one per row, read beside each other; but for the factors, which are kept entry by entry.
#pragma once

#include <cstddef>
#include <cstdint>
#include <limits>

#include "core/views.hpp"
#include "device.hpp"

namespace mfa::cuda {

// Of an entry: nothing; its value, with factors v = C^T z; the same with z itself.
enum Known : std::uint8_t { known_nothing = 0, known_v = 1, known_z = 2 };

struct ScoreView {
  std::size_t n = 0;       // rows
  std::size_t stride = 0;  // places for rows
  double* norms;           // (stride) |x - center|^2 of the features looked at last, scaled as screening wants it
  double* values;          // (K, stride) log w_k + log N(x_i; mu_k, S_k), of what is known
  double* errors;          // (K, stride) bounds on how far off they are
  double* factors;         // (stride, K, L), or null where they are not wanted
  std::uint8_t* known;     // (K, stride)
  std::uint8_t* marks;     // (K, stride) entries that are to be computed
  std::uint8_t* coarse;    // (stride) 1 for rows of which something is known that is not right to the tolerance it was asked for
  // (stride) rows that are done with and left alone, or null; and a list of the others, with their number.
  const std::uint8_t* skip = nullptr;
  const int* live = nullptr;
  const int* live_count = nullptr;

  MFA_HD std::size_t at(std::size_t i, std::size_t k) const { return k * stride + i; }
  MFA_HD bool skips(std::size_t i) const { return skip != nullptr && skip[i] != 0; }
  // The rows that are not left alone, from the first to the last.
  MFA_HD std::size_t n_live() const { return live == nullptr ? n : static_cast<std::size_t>(*live_count); }
  MFA_HD std::size_t live_row(std::size_t at) const { return live == nullptr ? at : static_cast<std::size_t>(live[at]); }
};

inline ScoreView lay_out_scores(Arena& arena, std::size_t K, std::size_t L, bool with_factors, std::size_t stride) {
  ScoreView view;
  view.stride = stride;
  view.norms = arena.take<double>(stride);
  view.values = arena.take<double>(K * stride);
  view.errors = arena.take<double>(K * stride);
  view.factors = with_factors ? arena.take<double>(stride * K * L) : nullptr;
  view.known = arena.take<std::uint8_t>(K * stride);
  view.marks = arena.take<std::uint8_t>(K * stride);
  view.coarse = arena.take<std::uint8_t>(stride);
  return view;
}

#if defined(__CUDACC__) || defined(MFA_CUDA_EMULATION)

// What a thread does where there is one for every row and component, or row and group: rows beside each other. Threads
// too many have a column that does not exist.
struct Cell {
  std::size_t row, column;
};
__device__ inline Cell cell_of_thread(const ScoreView& scores) {
  const std::size_t task = task_index();
  return {task % scores.n, task / scores.n};
}

// Calls visit(k, load(k)) for components begin to end - 1, of which several are loaded at once: a thread that waited for one
// after the other would wait most of the time.
template <class Load, class Visit>
__device__ void for_each_loaded(std::size_t begin, std::size_t end, const Load& load, const Visit& visit) {
  constexpr std::size_t at_once = 8;
  for (std::size_t first = begin; first < end; first += at_once) {
    decltype(load(first)) loaded[at_once];
#pragma unroll
    for (std::size_t m = 0; m < at_once; ++m) loaded[m] = load(first + m < end ? first + m : first);
#pragma unroll
    for (std::size_t m = 0; m < at_once; ++m)
      if (first + m < end) visit(first + m, loaded[m]);
  }
}

// Calls visit(k) for those of them whose scores of row i are known. They are found before any is visited: threads beside each
// other, of rows that know different components, then visit their first ones together, their second ones, and so on.
template <class Visit>
__device__ void for_each_known(const ScoreView& scores, std::size_t begin, std::size_t end, std::size_t i, const Visit& visit) {
  constexpr std::size_t at_once = 32;
  for (std::size_t first = begin; first < end; first += at_once) {
    unsigned known = 0;
    for_each_loaded(
        first, first + at_once < end ? first + at_once : end, [&](std::size_t k) { return scores.known[scores.at(i, k)]; },
        [&](std::size_t k, std::uint8_t of) { known |= (of != known_nothing ? 1u : 0u) << (k - first); });
    for (; known != 0; known &= known - 1) visit(first + static_cast<unsigned>(__ffs(static_cast<int>(known)) - 1));
  }
}

// No best value of group g of row i is below it, by what is known.
__device__ inline double find_floor(const ScoreView& scores, const GroupView& groups, std::size_t i, std::size_t g) {
  double floor = -std::numeric_limits<double>::infinity();
  for_each_known(scores, groups.begin(g), groups.end(g), i, [&](std::size_t k) {
    const std::size_t at = scores.at(i, k);
    const double low = scores.values[at] - scores.errors[at];
    floor = low > floor ? low : floor;
  });
  return floor;
}

#endif

}  // namespace mfa::cuda
