#include "sums.hpp"

#include "tensor.hpp"

namespace mfa::cuda {
namespace {

// A block's warps have the same members, and each a slab of their numbers.
constexpr unsigned slab_numbers = 32;
constexpr unsigned most_slabs = 13;
// Members whose factors a block keeps at hand, and those that a warp asks for at once. A product sums over eight members, in two
// halves of four, of each of which a lane has one.
constexpr unsigned members_at_once = 128;
constexpr unsigned half_members = 4;
constexpr unsigned matrix_columns = 8;
constexpr unsigned step_halves = 4;
constexpr unsigned step_members = half_members * step_halves;
static_assert(members_at_once % step_members == 0);
// Numbers that a thread asks for at once when it brings them to hand.
constexpr unsigned tasks_at_once = 3;

__device__ std::size_t width(const Split& split) { return std::size_t{split.slabs} * slab_numbers; }
// Members of a part.
__device__ int part_size(const Split& split, int members) {
  const auto parts = static_cast<int>(split.parts);
  const int size = (members + parts - 1) / parts;
  constexpr int least = step_members;
  return size < least ? least : size;
}
// What a part has of a component that others have members of as well: of the one that it begins with, or ends with.
__device__ double* part_sums(const Split& split, int part, bool begins_with) {
  const std::size_t at = 2 * static_cast<std::size_t>(part) + (begins_with ? 0 : 1);
  return split.sums + at * (split.n_factors + 2) * width(split);
}
// Where a sum of component k belongs; null where there is none such. Column l is of factor l, the next of the one, and that
// after it of the squares.
__device__ double* place(const Split& split, const Statistics& out, std::size_t k, unsigned l, unsigned number) {
  const std::size_t L = split.n_factors;
  const std::size_t d = split.n_features;
  if (number < split.feature_slabs * slab_numbers) {
    if (number >= d) return nullptr;
    return l <= L ? out.cross + (k * (L + 1) + l) * d + number : out.squares + k * d + number;
  }
  const unsigned m = number - split.feature_slabs * slab_numbers;
  if (l < L && m < L) return out.factor_moments + (k * L + l) * L + m;
  if (l < L && m == L) return out.factor_sums + k * L + l;
  return l == L && m == L ? out.counts + k : nullptr;
}

// Of the members at hand: their rows, shares, and share times factor in the columns of a group. A member more changes the
// banks of shared memory by four doubles, so that the sixteen that half a warp reads lie in different ones.
template <unsigned Tiles>
struct AtHand {
  static constexpr unsigned n_columns = Tiles * matrix_columns;
  int rows[members_at_once];
  double shares[members_at_once];
  double weighted[members_at_once][n_columns + 4];
};

// What a lane has of the sums of a slab: products of its numbers 4 g + f with columns 8 t + 2 c and the one after; and, of a
// quarter of the members, weighted squares of the same numbers, and weights.
template <unsigned Tiles>
struct SlabSums {
  double products[Tiles][4][2] = {};
  double squares[4] = {};
  double weight = 0.0;
};

// Adds members, a multiple of step_members, of which load(i) gives the lane's four numbers of row i.
template <unsigned Tiles, class Load>
__device__ void add_slab(const AtHand<Tiles>& at_hand, unsigned count, const Four<double>& center, const Load& load,
                         SlabSums<Tiles>& sums) {
  const tensor::Lane own = tensor::lane();
  for (unsigned first = 0; first < count; first += step_members) {
    decltype(load(std::size_t{})) values[step_halves];
#pragma unroll
    for (unsigned q = 0; q < step_halves; ++q)
      values[q] = load(static_cast<std::size_t>(at_hand.rows[first + q * half_members + own.c]));
    __syncwarp();  // or a compiler that saves registers asks for one after the other
#pragma unroll
    for (unsigned q = 0; q < step_halves; q += 2) {
      double offsets[4][2], weighted[Tiles][2];
#pragma unroll
      for (unsigned half = 0; half < 2; ++half) {
        const unsigned member = first + (q + half) * half_members + own.c;
        const double share = at_hand.shares[member];
        sums.weight += share;
#pragma unroll
        for (unsigned t = 0; t < Tiles; ++t) weighted[t][half] = at_hand.weighted[member][t * matrix_columns + own.g];
#pragma unroll
        for (unsigned f = 0; f < 4; ++f) {
          offsets[f][half] = to<double>(values[q + half].values[f]) - center.values[f];
          sums.squares[f] += share * offsets[f][half] * offsets[f][half];
        }
      }
#pragma unroll
      for (unsigned f = 0; f < 4; f += 2) {
        const double both[2][2] = {{offsets[f][0], offsets[f][1]}, {offsets[f + 1][0], offsets[f + 1][1]}};
#pragma unroll
        for (unsigned t = 0; t < Tiles; ++t)
          tensor::multiply_add(sums.products[t][f], sums.products[t][f + 1], both, weighted[t]);
      }
    }
  }
}

// Brings members to hand, from `first` on as many as there is room for or are left. Returns how many they are with some of no
// weight, up to a multiple of step_members. For all threads of a block.
template <unsigned Tiles>
__device__ unsigned gather(const Members& members, std::size_t k, int first, int left, unsigned first_column,
                           AtHand<Tiles>& at_hand) {
  constexpr unsigned n_columns = AtHand<Tiles>::n_columns;
  constexpr int most = members_at_once;
  const auto L = static_cast<unsigned>(members.n_factors);
  const auto count = static_cast<unsigned>(left < most ? left : most);
  const unsigned padded = (count + step_members - 1) / step_members * step_members;
  __syncthreads();
  const unsigned tasks = padded * n_columns;
  for (unsigned first_task = threadIdx.x; first_task < tasks; first_task += tasks_at_once * blockDim.x) {
    int rows[tasks_at_once];
    double shares[tasks_at_once], factors[tasks_at_once];
#pragma unroll
    for (unsigned e = 0; e < tasks_at_once; ++e) {
      const unsigned member = (first_task + e * blockDim.x) / n_columns;
      rows[e] = members.entries.rows[first + static_cast<int>(member < count ? member : count - 1)];
    }
#pragma unroll
    for (unsigned e = 0; e < tasks_at_once; ++e) {
      const auto i = static_cast<std::size_t>(rows[e]);
      const unsigned l = first_column + (first_task + e * blockDim.x) % n_columns;
      shares[e] = members.share(i, k);
      factors[e] = l == L ? 1.0 : 0.0;
      if (l < L) factors[e] = members.z(i, k)[l];
    }
#pragma unroll
    for (unsigned e = 0; e < tasks_at_once; ++e) {
      const unsigned task = first_task + e * blockDim.x;
      if (task >= tasks) break;
      const unsigned member = task / n_columns;
      const double share = member < count ? shares[e] : 0.0;
      at_hand.weighted[member][task % n_columns] = share * factors[e];
      if (task % n_columns > 0) continue;
      at_hand.rows[member] = rows[e];
      at_hand.shares[member] = share;
    }
  }
  __syncthreads();
  return padded;
}

// Adds a slab's sums to those of component k, or puts them into `to` where that is not null.
template <unsigned Tiles>
__device__ void give(const Split& split, const double* covariances, std::size_t k, unsigned slab, unsigned first_column,
                     const SlabSums<Tiles>& sums, double* to, const Statistics& out) {
  const tensor::Lane own = tensor::lane();
  const unsigned L = split.n_factors;
  const auto put = [&](unsigned l, unsigned number, const Four<double>& four) {
    if (to != nullptr) {
      *reinterpret_cast<Four<double>*>(to + l * width(split) + number) = four;
      return;
    }
    for (unsigned f = 0; f < 4; ++f)
      if (double* sum = place(split, out, k, l, number + f); sum != nullptr) *sum += four.values[f];
  };
  const double weight = tensor::row_sum(sums.weight);
  Four<double> squares;
#pragma unroll
  for (unsigned f = 0; f < 4; ++f) squares.values[f] = tensor::row_sum(sums.squares[f]);
  const unsigned number = slab * slab_numbers + 4 * own.g;
  if (first_column == 0 && own.c == 0) put(L + 1, number, squares);
#pragma unroll
  for (unsigned t = 0; t < Tiles; ++t) {
    for (unsigned e = 0; e < 2; ++e) {
      const unsigned l = first_column + t * matrix_columns + 2 * own.c + e;
      if (l > L) continue;
      Four<double> four;
      for (unsigned f = 0; f < 4; ++f) {
        four.values[f] = sums.products[t][f][e];
        const unsigned m = number + f - split.feature_slabs * slab_numbers;
        if (covariances != nullptr && slab >= split.feature_slabs && l < L && m < L)
          four.values[f] += weight * covariances[(k * L + l) * L + m];
      }
      put(l, number, four);
    }
  }
}

// Blocks of a processor: where sums and the numbers under way leave the registers for more than one, two hide each other's
// waiting.
template <class S, unsigned Tiles>
inline constexpr int blocks_at_once = Tiles == 1 && sizeof(S) < sizeof(double) ? 2 : 1;

// One block per part, group of columns and as many slabs as it has warps. Sums of components that the part has all members
// of are added to `out`, others are left to add_parts_kernel.
template <class S, unsigned Tiles>
__global__ void __launch_bounds__(most_slabs* warp_size, blocks_at_once<S, Tiles>)
    sums_kernel(Rows<S> rows, Members members, const double* means, const double* covariances, Split split,
                Statistics out) {
  __shared__ AtHand<Tiles> at_hand;
  const unsigned L = split.n_factors;
  const unsigned d = split.n_features;
  const int* starts = members.entries.starts;
  const int n_members = starts[members.n_components];
  const unsigned slab = blockIdx.x % split.slab_blocks * (blockDim.x / warp_size) + threadIdx.x / warp_size;
  const unsigned first_column = blockIdx.x / split.slab_blocks % split.groups * AtHand<Tiles>::n_columns;
  const auto part = static_cast<int>(blockIdx.x / split.slab_blocks / split.groups);
  const int size = part_size(split, n_members);
  int begin = part * size;
  const int end = begin + size < n_members ? begin + size : n_members;
  if (begin >= end) return;

  // Four numbers of a member to a lane. What it reads in place of features that there are none of is not asked for.
  const bool in_line = rows.has_aligned_fours() && d % 4 == 0;
  const bool of_features = slab < split.feature_slabs;
  const unsigned first = (of_features ? slab : slab - split.feature_slabs) * slab_numbers + 4 * tensor::lane().g;
  const auto feature = [=](unsigned f) { return first + f < d ? first + f : d - 1; };
  const unsigned first_feature = first < d ? first : 0;
  const auto load_four_features = [&](std::size_t i) {
    return *reinterpret_cast<const Four<S>*>(rows.row(i) + first_feature);
  };
  const auto load_features = [&](std::size_t i) {
    Four<S> four;
    for (unsigned f = 0; f < 4; ++f) four.values[f] = rows.row(i)[feature(f)];
    return four;
  };

  for (std::size_t k = component_of(starts, members.n_components, begin); begin < end; ++k) {
    const int stop = starts[k + 1] < end ? starts[k + 1] : end;
    if (stop == begin) continue;
    const auto load_factors = [&](std::size_t i) {
      const double* z = members.z(i, k);
      Four<double> four;
      for (unsigned f = 0; f < 4; ++f) {
        const unsigned m = first + f;
        four.values[f] = m == L ? 1.0 : 0.0;
        if (m < L) four.values[f] = z[m];
      }
      return four;
    };
    SlabSums<Tiles> sums;
    Four<double> center{};
    if (of_features)
      for (unsigned f = 0; f < 4; ++f) center.values[f] = means[k * d + feature(f)];
    for (; begin < stop; begin += static_cast<int>(members_at_once)) {
      const unsigned count = gather(members, k, begin, stop - begin, first_column, at_hand);
      if (of_features) {
        if (in_line) add_slab(at_hand, count, center, load_four_features, sums);
        else add_slab(at_hand, count, center, load_features, sums);
      } else if (slab < split.slabs) {
        add_slab(at_hand, count, center, load_factors, sums);
      }
    }
    begin = stop;
    if (slab >= split.slabs) continue;
    const bool begins_with = starts[k] < part * size;
    const bool shared = begins_with || starts[k + 1] > end;
    give(split, covariances, k, slab, first_column, sums, shared ? part_sums(split, part, begins_with) : nullptr, out);
  }
}

// Adds what parts have of the components that they share. One thread per sum of a component.
__global__ void add_parts_kernel(EntryView entries, std::size_t n_components, Split split, Statistics out) {
  const std::size_t sums = (split.n_factors + 2) * width(split);
  const std::size_t k = task_index() / sums;
  const std::size_t at = task_index() % sums;
  if (k >= n_components) return;
  const int begin = entries.starts[k];
  const int end = entries.starts[k + 1];
  const int size = part_size(split, entries.starts[n_components]);
  const int first = begin / size;
  const int last = (end - 1) / size;
  const auto l = static_cast<unsigned>(at / width(split));
  double* to = place(split, out, k, l, static_cast<unsigned>(at % width(split)));
  if (begin == end || first == last || to == nullptr) return;
  double sum = part_sums(split, first, false)[at];
#pragma unroll 4
  for (int part = first + 1; part <= last; ++part) sum += part_sums(split, part, true)[at];
  *to += sum;
}

// Tiles of columns that a block multiplies at once, so that most models' rows are read once.
constexpr unsigned column_tiles(std::size_t n_factors) {
  return n_factors < matrix_columns ? 1 : n_factors < 2 * matrix_columns ? 2 : 4;
}

}  // namespace

Split lay_out_split(Arena& arena, std::size_t n_factors, std::size_t n_features) {
  const auto rounded = [](std::size_t a, std::size_t b) { return static_cast<unsigned>(ceil_div(a, b)); };
  Split split{};
  split.n_factors = static_cast<unsigned>(n_factors);
  split.n_features = static_cast<unsigned>(n_features);
  split.feature_slabs = rounded(n_features, slab_numbers);
  split.slabs = split.feature_slabs + rounded(n_factors + 1, slab_numbers);
  split.slab_blocks = rounded(split.slabs, most_slabs);
  split.groups = rounded(n_factors + 1, column_tiles(n_factors) * matrix_columns);
  // Blocks that keep the device busy twice over or more: each takes much of a processor.
  split.parts = rounded(resident_blocks(), 2 * split.slab_blocks * split.groups);
  split.sums = arena.take<double>(2 * split.parts * (n_factors + 2) * split.slabs * slab_numbers);
  return split;
}

template <class S>
void add_members(Stream stream, const Rows<S>& rows, const Members& members, const double* means,
                 const double* covariances, const Split& split, const Statistics& out) {
  const unsigned tiles = column_tiles(split.n_factors);
  const auto kernel = tiles == 1 ? sums_kernel<S, 1> : tiles == 2 ? sums_kernel<S, 2> : sums_kernel<S, 4>;
  const auto warps = static_cast<unsigned>(ceil_div(split.slabs, split.slab_blocks));
  const std::size_t blocks = std::size_t{split.parts} * split.groups * split.slab_blocks;
  launch(stream, blocks, warps * warp_size, kernel, rows, members, means, covariances, split, out);
  const std::size_t sums = members.n_components * (split.n_factors + 2) * split.slabs * slab_numbers;
  launch_tasks(stream, sums, add_parts_kernel, members.entries, members.n_components, split, out);
}

#define MFA_INSTANTIATE(S)                                                                                          \
  template void add_members(Stream, const Rows<S>&, const Members&, const double*, const double*, const Split&,     \
                            const Statistics&);
MFA_FOR_SAMPLE_TYPES(MFA_INSTANTIATE)
#undef MFA_INSTANTIATE

}  // namespace mfa::cuda
