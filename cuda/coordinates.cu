#include "coordinates.hpp"

#include <cmath>
#include <limits>
#include <type_traits>

#include "core/gaussian.hpp"
#include "core/screening.hpp"
#include "short_floats.hpp"
#include "tensor.hpp"

namespace mfa::cuda {
namespace {

// What a warp makes: the coordinates of sixteen rows.
constexpr unsigned coordinate_warps = 8;
constexpr unsigned coordinate_threads = coordinate_warps * warp_size;
constexpr unsigned warp_rows = 16;
constexpr unsigned block_rows = coordinate_warps * warp_rows;
// Features that are copied at once, some such slices ahead.
constexpr unsigned slice_features = 32;
constexpr unsigned slice_steps = slice_features / basis_features;
template <class S>
constexpr unsigned slices_at_once = sizeof(S) == sizeof(double) ? 2 : 3;

// A warp copies fours of its rows, a row's slice in a line: so many lanes have a row, and as many rows a copy.
constexpr unsigned row_lanes = slice_features / 4;
constexpr unsigned rows_at_once = warp_size / row_lanes;
constexpr unsigned copies = warp_rows / rows_at_once;

// A slice: of every warp's rows g and g + 8, features 4 c to 4 c + 3 of every sixteen; and what is the same for all rows. The
// places of every other step are exchanged, so that what is copied at once lies in different banks.
template <class S, unsigned Tiles>
struct Slice {
  Four<S> fours[coordinate_warps][slice_steps][2][warp_size];
  FourHalves directions[slice_steps][Tiles * warp_size];
  float center[slice_features], scale[slice_features];

  __device__ static unsigned place(unsigned step, unsigned lane) { return lane ^ (step % 2 * 4); }
};
// Features 4 c to 4 c + 3 of what is the same for all rows.
struct Frame {
  Four<float> center, scale;
};

template <class S>
__device__ float centered(S value, float center) {
  if constexpr (std::is_same_v<S, double>) return static_cast<float>(value - static_cast<double>(center));
  else return to<float>(value) - center;
}

// |x|^2 of four numbers: in float, whose rounding is next to nothing beside that of the coordinates, where it is in range.
__device__ double square_of(const float (&x)[4]) {
  const float square = x[0] * x[0] + x[1] * x[1] + (x[2] * x[2] + x[3] * x[3]);
  if (square <= std::numeric_limits<float>::max()) return static_cast<double>(square);
  double exact = 0.0;
  for (const float number : x) exact += static_cast<double>(number) * static_cast<double>(number);
  return exact;
}

__device__ void round_rows(const float (&x)[2][4], tensor::Left16& out) {
#pragma unroll
  for (unsigned half = 0; half < 2; ++half)
#pragma unroll
    for (unsigned r = 0; r < 2; ++r) out[2 * half + r] = round_to_halves(x[r][2 * half], x[r][2 * half + 1]);
}

// |x|^2 of a row whose length in screen.length_of_one is none in float: float64 rows may be as long.
template <class S>
__device__ double norm_of_long_row(const S* row, const ScreenView& screen) {
  double norm = 0.0;
  for (std::size_t j = 0; j < screen.n_features; ++j) {
    const auto scale = static_cast<double>(screen.scale == nullptr ? screen.one : screen.scale[j]) * screen.length_of_one;
    const double x = (to<double>(row[screen.place(j)]) - static_cast<double>(screen.center[j])) * scale;
    norm += x * x;
  }
  return norm;
}

// What a row is off by in all: the coordinates before they were rounded, and that.
__device__ float rounded_shift(double error, double rounding) {
  constexpr double margin = 4.0 * std::numeric_limits<float>::epsilon();
  return static_cast<float>((error + rounding) * (1.0 + margin));
}

// The coordinates of block_rows rows in Tiles tiles of directions, what they may be off by, and |x|^2.
template <class S, unsigned Tiles>
__global__ void __launch_bounds__(coordinate_threads, 2)
    coordinates_kernel(Rows<S> rows, ScreenView screen, ScoreView scores, ScreenSpace space, std::int64_t* bad_row) {
  constexpr unsigned n_slices = slices_at_once<S>, ahead = n_slices - 1;
  constexpr unsigned R = Tiles * tile_directions;
  const unsigned warp = threadIdx.x / warp_size;
  const unsigned lane = threadIdx.x % warp_size;
  const tensor::Lane own = tensor::lane();
  auto* slices = reinterpret_cast<Slice<S, Tiles>*>(block_memory());
  const std::size_t n = scores.n_live();
  const std::size_t block_first = static_cast<std::size_t>(blockIdx.x) * block_rows;
  if (block_first >= n) return;  // a whole block
  const std::size_t first = block_first + warp * warp_rows;
  const std::size_t d = screen.n_features;

  const unsigned copied_four = lane % row_lanes;
  const S* from[copies];
  bool reads[copies];
#pragma unroll
  for (unsigned m = 0; m < copies; ++m) {
    const std::size_t place = first + m * rows_at_once + lane / row_lanes;
    reads[m] = place < n;
    from[m] = rows.row(reads[m] ? scores.live_row(place) : 0) + 4 * copied_four;
  }
  const auto four_of = [&](Slice<S, Tiles>& slice, unsigned m) -> Four<S>& {
    const unsigned row = m * rows_at_once + lane / row_lanes, step = copied_four / 4;
    return slice.fours[warp][step][row / 8][slice.place(step, row % 8 * 4 + copied_four % 4)];
  };
#pragma unroll
  for (unsigned m = 0; m < copies; ++m)
    for (unsigned s = 0; s < n_slices; ++s)
      if (!reads[m]) four_of(slices[s], m) = {};

  double squares[2] = {};
  tensor::Sums sums[Tiles] = {};
  const bool scales = screen.scale != nullptr;
  const auto add_step = [&](const Four<S> (&values)[2], const Frame& frame, unsigned left, const FourHalves* directions) {
    float x[2][4];
#pragma unroll
    for (unsigned r = 0; r < 2; ++r)
#pragma unroll
      for (unsigned f = 0; f < 4; ++f)
        x[r][f] = f < left ? centered(values[r].values[f], frame.center.values[f]) * frame.scale.values[f] : 0.0f;
#pragma unroll
    for (unsigned r = 0; r < 2; ++r) squares[r] += square_of(x[r]);
    tensor::Left16 rounded;
    round_rows(x, rounded);
#pragma unroll
    for (unsigned t = 0; t < Tiles; ++t) tensor::multiply_add(sums[t], rounded, directions[t * warp_size + lane].pairs);
  };
  const auto fetch = [&](Slice<S, Tiles>& to, std::size_t s) {
    const std::size_t begin = screen.place(s * slice_features);
#pragma unroll
    for (unsigned m = 0; m < copies; ++m)
      if (reads[m]) copy_to_block<sizeof(Four<S>), true>(&four_of(to, m), from[m] + begin);
    constexpr unsigned parts = slice_steps * Tiles * warp_size / 2;
    const auto* basis = reinterpret_cast<const EightHalves*>(screen.basis) + s * parts;
    for (unsigned part = threadIdx.x; part < parts; part += coordinate_threads)
      copy_to_block<sizeof(EightHalves)>(reinterpret_cast<EightHalves*>(to.directions) + part, basis + part);
    if (threadIdx.x < row_lanes) {
      const std::size_t j = s * slice_features + threadIdx.x * 4;
      copy_to_block<sizeof(Four<float>)>(&to.center[threadIdx.x * 4], screen.center + j);
      if (scales) copy_to_block<sizeof(Four<float>)>(&to.scale[threadIdx.x * 4], screen.scale + j);
    }
  };
  const Four<float> same_scale{{screen.one, screen.one, screen.one, screen.one}};

  const std::size_t whole = rows.has_aligned_fours() ? d / slice_features : 0;
  unsigned coming = 0, now = 0;
  const auto move_on = [](unsigned& slice) { slice = slice + 1 == n_slices ? 0 : slice + 1; };
  for (std::size_t s = 0; s < whole + ahead; ++s) {
    if (s >= ahead) {
      await_copies<ahead - 1>();
      __syncthreads();  // the others' copies have come as well, and all are done with the slice before
    }
    if (s < whole) {
      fetch(slices[coming], s);
      move_on(coming);
    }
    commit_copies();
    if (s < ahead) continue;
    const Slice<S, Tiles>& slice = slices[now];
#pragma unroll
    for (unsigned step = 0; step < slice_steps; ++step) {
      const auto& fours = slice.fours[warp][step];
      const unsigned at = slice.place(step, lane);
      const auto four_of_line = [&](const float* line) {
        return *reinterpret_cast<const Four<float>*>(line + step * basis_features + 4 * own.c);
      };
      const Frame frame{four_of_line(slice.center), scales ? four_of_line(slice.scale) : same_scale};
      add_step({fours[0][at], fours[1][at]}, frame, 4, slice.directions[step]);
    }
    move_on(now);
  }

  const auto place_of = [&](unsigned r) { return first + own.g + 8 * r; };
  for (std::size_t step = whole * slice_steps; step * basis_features < d; ++step) {
    const std::size_t j = step * basis_features + 4 * own.c;
    const unsigned left = j >= d ? 0 : d - j < 4 ? static_cast<unsigned>(d - j) : 4;
    const auto values = [&](unsigned r) {
      if (place_of(r) >= n) return Four<S>{};
      const S* row = rows.row(scores.live_row(place_of(r)));
      return load_four(row + screen.place(step * basis_features) + 4 * own.c, left, rows.has_aligned_fours());
    };
    const Frame frame{load_four(screen.center + j, left, true),
                      scales ? load_four(screen.scale + j, left, true) : same_scale};
    add_step({values(0), values(1)}, frame, left, screen.basis + step * Tiles * warp_size);
  }
#pragma unroll
  for (unsigned r = 0; r < 2; ++r) {
    double norm = tensor::row_sum(squares[r]) * screen.length_of_one * screen.length_of_one;
    const bool is_row = place_of(r) < n;
    const std::size_t i = is_row ? scores.live_row(place_of(r)) : 0;
    float rounding = 0.0f;
    // Two tiles' directions of a lane are next to each other (make_basis).
#pragma unroll
    for (unsigned t = 0; t < Tiles; t += 2) {
      FourHalves rounded;
#pragma unroll
      for (unsigned p = 0; p < 2; ++p) {
        const float one = sums[t + p][2 * r], other = sums[t + p][2 * r + 1];
        rounded.pairs[p] = round_to_halves(one, other);
        const float off = one - lower(rounded.pairs[p]), other_off = other - upper(rounded.pairs[p]);
        rounding += off * off + other_off * other_off;
        if (is_row && space.moving != nullptr) {
          double* to = space.moving + i * R + t * tile_directions + 4 * own.c + 2 * p;
          to[0] = static_cast<double>(one) * screen.length_of_one;
          to[1] = static_cast<double>(other) * screen.length_of_one;
        }
      }
      if (is_row)
        space.coordinates[(i * R + t * tile_directions) / 4 + own.c] = rounded;
    }
    rounding = tensor::row_sum(rounding);
    if (!is_row || own.c != 0) continue;
    if (!std::isfinite(norm)) norm = norm_of_long_row(rows.row(i), screen);
    scores.norms[i] = norm;
    if (!std::isfinite(norm)) report_bad_row(bad_row, rows.first + i);
    const double error = core::tensor_coordinate_error(norm, d, screen.basis_error, screen.length_of_one);
    space.shifts[i] = rounded_shift(error, 1.001 * std::sqrt(static_cast<double>(rounding)) * screen.length_of_one);
    if (space.moving != nullptr) space.errors[i] = error;
  }
}

// The square roots of three numbers, which lanes make at once: they take a while.
__device__ void take_roots(double (&values)[3]) {
  const unsigned lane = threadIdx.x % warp_size;
  const double root = std::sqrt(lane == 0 ? values[0] : lane == 1 ? values[1] : values[2]);
  for (int v = 0; v < 3; ++v) values[v] = __shfl_sync(all_lanes, root, v);
}

// One warp per row, of pairs in their list's order: warps that stand beside each other then read the same parameters. It waits
// for one number after the other: many warps at once hide that.
template <bool Pairs>
__global__ void __launch_bounds__(task_threads, 4)
    move_coordinates_kernel(ModelView model, ScreenView screen, ScoreView scores, StepView steps, EntryView by_pair,
                            ScreenSpace space, std::size_t first_row, std::int64_t* bad_row) {
  const std::size_t K = model.n_components;
  const std::size_t place = task_index() / warp_size;
  if (place >= (Pairs ? static_cast<std::size_t>(by_pair.starts[K]) : scores.n)) return;  // a whole warp
  const std::size_t i = Pairs ? static_cast<std::size_t>(by_pair.rows[place]) : place;
  if (steps.lengths[i] == 0.0) return;
  const std::size_t L = model.n_factors;
  const std::size_t R = screen.n_directions;
  const unsigned lane = threadIdx.x % warp_size;
  constexpr std::size_t coordinates_of_lane = most_directions / warp_size;
  double* y = space.moving + i * R;
  double gradient[coordinates_of_lane] = {};
  double feedback = 0.0, size = 0.0;
  // Returns |z|^2.
  const auto add_term = [&](std::size_t k, double share) {
    const double weight = share * model.inverse_scalars[k];
    const double* z = scores.factors + (i * K + k) * L;
    feedback += weight;
    double rest[coordinates_of_lane] = {};
#pragma unroll
    for (std::size_t c = 0; c < coordinates_of_lane; ++c) {
      const std::size_t r = lane + c * warp_size;
      if (r < R) rest[c] = y[r] - screen.means[k * R + r];
    }
    double z_square = 0.0;
#pragma unroll 4
    for (std::size_t l = 0; l < L; ++l) {
      const double factor = z[l];
      z_square += factor * factor;
#pragma unroll
      for (std::size_t c = 0; c < coordinates_of_lane; ++c) {
        const std::size_t r = lane + c * warp_size;
        if (r < R) rest[c] -= screen.loadings[(k * L + l) * R + r] * factor;
      }
    }
#pragma unroll
    for (std::size_t c = 0; c < coordinates_of_lane; ++c) gradient[c] += weight * rest[c];
    return z_square;
  };
  const auto add_size = [&](std::size_t k, double share, double x_length, double z_length) {
    size += std::abs(share) * core::precision_product_size(model.inverse_scalars[k], x_length, screen.mean_lengths[k],
                                                           screen.loading_lengths[k], z_length);
  };
  if constexpr (Pairs) {
    const auto source = static_cast<std::size_t>(steps.sources[i]), target = static_cast<std::size_t>(steps.targets[i]);
    double lengths[3] = {scores.norms[i], add_term(source, -1.0), add_term(target, 1.0)};
    take_roots(lengths);
    add_size(source, -1.0, lengths[0], lengths[1]);
    add_size(target, 1.0, lengths[0], lengths[2]);
  } else {
    const double x_length = std::sqrt(scores.norms[i]);
    for (std::size_t begin = 0; begin < K; begin += warp_size) {
      const double own_share = begin + lane < K ? scores.errors[scores.at(i, begin + lane)] : 0.0;
      for (unsigned left = __ballot_sync(all_lanes, own_share != 0.0); left != 0; left &= left - 1) {
        const int first = __ffs(static_cast<int>(left)) - 1;
        const std::size_t k = begin + static_cast<unsigned>(first);
        const double share = __shfl_sync(all_lanes, own_share, first);
        const double z_square = add_term(k, share);
        add_size(k, share, x_length, std::sqrt(z_square));
      }
    }
  }
  const double a = steps.lengths[i];
  double square = 0.0, rounding = 0.0;
#pragma unroll
  for (std::size_t c = 0; c < coordinates_of_lane; ++c) {
    const std::size_t r = lane + c * warp_size;
    if (r >= R) continue;
    y[r] -= a * gradient[c];
    const double scaled = y[r] * static_cast<double>(screen.one);
    const Halves rounded = round_to_halves(static_cast<float>(scaled), 0.0f);
    reinterpret_cast<std::uint16_t*>(space.coordinates)[i * R + r] = static_cast<std::uint16_t>(rounded);
    const double off = scaled - static_cast<double>(lower(rounded));
    square += y[r] * y[r];
    rounding += off * off;
  }
  const double norm = steps.norms[i];
  double lengths[3] = {norm, warp_sum(square), warp_sum(rounding)};
  take_roots(lengths);
  if (lane != 0) return;
  if (!std::isfinite(norm)) report_bad_row(bad_row, first_row + i);
  scores.norms[i] = norm;
  // The samples are rounded to a float or less coarsely, the coordinates to a float before they are to a half.
  const double error = core::moved_coordinate_error(space.errors[i], a * std::abs(feedback), model.center_length + lengths[0],
                                                    lengths[1], a * size, L, std::numeric_limits<float>::epsilon());
  space.errors[i] = error;
  space.shifts[i] = rounded_shift(error, lengths[2] * screen.length_of_one);
}

}  // namespace

template <class S>
void make_coordinates(Stream stream, const Rows<S>& rows, const ScreenView& screen, const ScoreView& scores,
                      const ScreenSpace& space, std::int64_t* bad_row) {
  const auto launch_for = [&](auto n_tiles) {
    launch_with_memory(stream, ceil_div(scores.n, block_rows), coordinate_threads,
                       slices_at_once<S> * sizeof(Slice<S, n_tiles>), coordinates_kernel<S, n_tiles>, rows, screen,
                       scores, space, bad_row);
  };
  for_directions<tile_directions>(screen.n_directions, launch_for);
}

void move_coordinates(Stream stream, const ModelView& model, const ScreenView& screen, const ScoreView& scores,
                      const StepView& steps, const EntryView& by_pair, const ScreenSpace& space, std::size_t first_row,
                      std::int64_t* bad_row) {
  const auto kernel = steps.sources != nullptr ? move_coordinates_kernel<true> : move_coordinates_kernel<false>;
  launch_tasks(stream, scores.n * warp_size, kernel, model, screen, scores, steps, by_pair, space, first_row, bad_row);
}

#define MFA_INSTANTIATE(S)                                                                                            \
  template void make_coordinates(Stream, const Rows<S>&, const ScreenView&, const ScoreView&, const ScreenSpace&, \
                                 std::int64_t*);
MFA_FOR_SAMPLE_TYPES(MFA_INSTANTIATE)
#undef MFA_INSTANTIATE

}  // namespace mfa::cuda
