#include "coordinates.hpp"

#include <cmath>
#include <limits>
#include <type_traits>

#include "core/gaussian.hpp"
#include "core/screening.hpp"
#include "tensor.hpp"

namespace mfa::cuda {
namespace {

// What a warp makes: the coordinates of sixteen rows in some directions, eight tiles of them at most. Where there are more,
// several blocks have the same rows.
constexpr unsigned coordinate_warps = 8;
constexpr unsigned coordinate_threads = coordinate_warps * warp_size;
constexpr unsigned warp_rows = 16;
constexpr unsigned block_rows = coordinate_warps * warp_rows;
constexpr unsigned most_block_tiles = 8;
// Features that are copied at once, some such slices ahead; and the steps of sixteen that are summed on tensor cores before
// the sums go on by ordinary additions.
constexpr unsigned slice_features = 32;
constexpr unsigned slice_steps = slice_features / basis_features;
template <class S>
constexpr unsigned slices_at_once = sizeof(S) == sizeof(double) ? 2 : 3;
constexpr unsigned run_steps = 4;

// A slice: of every warp's rows g and g + 8, features 4 c to 4 c + 3 of every sixteen, which the lane that multiplies them has
// copied itself; and what is the same for all rows, which the block copies together.
template <class S, unsigned Tiles>
struct Slice {
  Four<S> fours[coordinate_warps][slice_steps][2][warp_size];
  BasisPart directions[slice_steps][Tiles * warp_size];
  float center[slice_features], scale[slice_features];
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

// Rows in eight bits, and what that leaves of them in eight more.
struct Split {
  tensor::Left16 high, low;
};
__device__ Split split(const float (&x)[2][4]) {
  Split out;
#pragma unroll
  for (unsigned half = 0; half < 2; ++half)
#pragma unroll
    for (unsigned r = 0; r < 2; ++r) {
      const float first = x[r][2 * half], second = x[r][2 * half + 1];
      const Halves high = round_to_eight(first, second);
      out.high[2 * half + r] = high;
      out.low[2 * half + r] = round_to_eight(first - lower(high), second - upper(high));
    }
  return out;
}

// The products of a warp: of a run of steps, and of those before.
template <unsigned Tiles>
struct CoordinateSums {
  tensor::Sums run[Tiles] = {}, sums[Tiles] = {};

  // Some tiles at a time, as the registers have room for.
  __device__ void add(const Split& x, const BasisPart* directions) {
    constexpr unsigned at_once = Tiles % 4 == 0 ? 4 : Tiles % 3 == 0 ? 3 : Tiles;
#pragma unroll
    for (unsigned first = 0; first < Tiles; first += at_once) {
      BasisPart own[at_once];
#pragma unroll
      for (unsigned t = 0; t < at_once; ++t) own[t] = directions[(first + t) * warp_size];
#pragma unroll
      for (unsigned t = 0; t < at_once; ++t) tensor::multiply_add(run[first + t], x.low, own[t].high);
#pragma unroll
      for (unsigned t = 0; t < at_once; ++t) tensor::multiply_add(run[first + t], x.high, own[t].low);
#pragma unroll
      for (unsigned t = 0; t < at_once; ++t) tensor::multiply_add(run[first + t], x.high, own[t].high);
    }
  }
  __device__ void end_run() {
#pragma unroll
    for (unsigned t = 0; t < Tiles; ++t)
#pragma unroll
      for (unsigned e = 0; e < 4; ++e) {
        sums[t][e] += run[t][e];
        run[t][e] = 0.0f;
      }
  }
};

// The coordinates of block_rows rows in Tiles tiles of directions, and |x|^2.
template <class S, unsigned Tiles>
__global__ void __launch_bounds__(coordinate_threads, 2)
    coordinates_kernel(Rows<S> rows, ScreenView screen, ScoreView scores, float* coordinates, std::int64_t* bad_row) {
  __shared__ int any_read;
  constexpr unsigned n_slices = slices_at_once<S>, ahead = n_slices - 1;
  const unsigned warp = threadIdx.x / warp_size;
  const unsigned lane = threadIdx.x % warp_size;
  const tensor::Lane own = tensor::lane();
  auto* slices = reinterpret_cast<Slice<S, Tiles>*>(block_memory());
  const auto R = static_cast<unsigned>(screen.n_directions);
  const unsigned all_tiles = R / tile_directions;
  const unsigned shares = (all_tiles + Tiles - 1) / Tiles;
  const unsigned share = blockIdx.x % shares;
  // The last share begins earlier where it would have fewer tiles: some of them are then made twice, alike.
  const unsigned first_tile = share * Tiles < all_tiles - Tiles ? share * Tiles : all_tiles - Tiles;
  const std::size_t first = static_cast<std::size_t>(blockIdx.x / shares) * block_rows + warp * warp_rows + own.g;
  const auto is_read = [&](std::size_t i) { return i < scores.n && !scores.skips(i); };
  const bool reads[2] = {is_read(first), is_read(first + 8)};
  if (threadIdx.x == 0) any_read = 0;
  __syncthreads();
  if (reads[0] || reads[1]) any_read = 1;
  __syncthreads();
  if (any_read == 0) return;  // a whole block
  const std::size_t d = screen.n_features;
  const S* from[2];
#pragma unroll
  for (unsigned r = 0; r < 2; ++r) {
    from[r] = rows.row(reads[r] ? first + 8 * r : 0) + 4 * own.c;
    if (reads[r]) continue;
    for (unsigned s = 0; s < n_slices; ++s)
      for (auto& step : slices[s].fours[warp]) step[r][lane] = {};
  }

  double squares[2] = {};
  CoordinateSums<Tiles> products;
  const bool scales = screen.scale != nullptr;
  const BasisPart* const basis = screen.basis + first_tile * warp_size;
  const auto add_step = [&](const Four<S> (&values)[2], const Frame& frame, unsigned left, const BasisPart* directions) {
    float x[2][4];
#pragma unroll
    for (unsigned r = 0; r < 2; ++r)
#pragma unroll
      for (unsigned f = 0; f < 4; ++f) x[r][f] = f < left ? centered(values[r].values[f], frame.center.values[f]) : 0.0f;
    if (scales) {
#pragma unroll
      for (unsigned r = 0; r < 2; ++r)
#pragma unroll
        for (unsigned f = 0; f < 4; ++f) x[r][f] *= frame.scale.values[f];
    }
#pragma unroll
    for (unsigned r = 0; r < 2; ++r)
#pragma unroll
      for (unsigned f = 0; f < 4; ++f) squares[r] += static_cast<double>(x[r][f]) * static_cast<double>(x[r][f]);
    products.add(split(x), directions + lane);
  };
  const auto fetch = [&](Slice<S, Tiles>& to, std::size_t s) {
#pragma unroll
    for (unsigned step = 0; step < slice_steps; ++step)
#pragma unroll
      for (unsigned r = 0; r < 2; ++r)
        if (reads[r])
          copy_to_block<sizeof(Four<S>), true>(&to.fours[warp][step][r][lane],
                                               from[r] + screen.place(s * slice_features) + step * basis_features);
    for (unsigned part = threadIdx.x; part < slice_steps * Tiles * warp_size; part += coordinate_threads) {
      const unsigned step = part / (Tiles * warp_size), at = part % (Tiles * warp_size);
      copy_to_block<sizeof(BasisPart)>(&to.directions[step][at], basis + (s * slice_steps + step) * all_tiles * warp_size + at);
    }
    if (threadIdx.x < slice_features / 4) {
      const std::size_t j = s * slice_features + threadIdx.x * 4;
      copy_to_block<sizeof(Four<float>)>(&to.center[threadIdx.x * 4], screen.center + j);
      if (scales) copy_to_block<sizeof(Four<float>)>(&to.scale[threadIdx.x * 4], screen.scale + j);
    }
  };

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
      const auto four_of = [&](const float* of) {
        return *reinterpret_cast<const Four<float>*>(of + step * basis_features + 4 * own.c);
      };
      const Frame frame{four_of(slice.center), scales ? four_of(slice.scale) : Four<float>{}};
      add_step({fours[0][lane], fours[1][lane]}, frame, 4, slice.directions[step]);
    }
    move_on(now);
    if ((s - ahead + 1) * slice_steps % run_steps == 0) products.end_run();
  }
  for (std::size_t step = whole * slice_steps; step * basis_features < d; ++step) {
    const std::size_t j = step * basis_features + 4 * own.c;
    const unsigned left = j >= d ? 0 : d - j < 4 ? static_cast<unsigned>(d - j) : 4;
    const auto values = [&](unsigned r) {
      return load_four(from[r] + screen.place(step * basis_features), reads[r] ? left : 0, rows.has_aligned_fours());
    };
    const Frame frame{load_four(screen.center + j, left, true),
                      scales ? load_four(screen.scale + j, left, true) : Four<float>{}};
    add_step({values(0), values(1)}, frame, left, basis + step * all_tiles * warp_size);
    if ((step + 1) % run_steps == 0) products.end_run();
  }
  products.end_run();
#pragma unroll
  for (unsigned r = 0; r < 2; ++r) {
    const std::size_t i = first + 8 * r;
    const double norm = tensor::row_sum(squares[r]);
    if (i >= scores.n) continue;
#pragma unroll
    for (unsigned t = 0; t < Tiles; ++t) {
      float* to = coordinates + i * R + (first_tile + t) * tile_directions + 2 * own.c;
      to[0] = products.sums[t][2 * r];
      to[1] = products.sums[t][2 * r + 1];
    }
    if (share != 0 || own.c != 0) continue;
    scores.norms[i] = norm;
    if (!std::isfinite(norm)) report_bad_row(bad_row, rows.first + i);
  }
}

// Errors of coordinates that tensor cores have made, from where these start to move. One thread per coordinate.
__global__ void start_coordinates_kernel(ScreenView screen, ScoreView scores, ScreenSpace space) {
  const std::size_t task = task_index();
  const std::size_t i = task / screen.n_directions;
  if (i >= scores.n || scores.skips(i)) return;
  space.moving[task] = static_cast<double>(space.coordinates[task]);
  if (task % screen.n_directions == 0)
    space.errors[i] = core::tensor_coordinate_error(scores.norms[i], screen.n_features, screen.basis_error);
}

// One warp per row. It waits for one number after the other: many warps at once hide that.
template <bool Pairs>
__global__ void __launch_bounds__(task_threads, 5)
    move_coordinates_kernel(ModelView model, ScreenView screen, ScoreView scores, StepView steps, ScreenSpace space,
                            std::size_t first_row, std::int64_t* bad_row) {
  const std::size_t i = task_index() / warp_size;
  if (i >= scores.n || steps.lengths[i] == 0.0) return;  // a whole warp
  const std::size_t K = model.n_components;
  const std::size_t L = model.n_factors;
  const std::size_t R = screen.n_directions;
  const unsigned lane = threadIdx.x % warp_size;
  constexpr std::size_t coordinates_of_lane = most_directions / warp_size;
  double* y = space.moving + i * R;
  double gradient[coordinates_of_lane] = {};
  double feedback = 0.0, size = 0.0;
  const double x_length = std::sqrt(scores.norms[i]);
  const auto add_term = [&](std::size_t k, double share) {
    const double weight = share * model.inverse_scalars[k];
    const double* z = scores.factors + (i * K + k) * L;
    feedback += weight;
    size += std::abs(share) * core::precision_product_size(model.inverse_scalars[k], x_length, screen.mean_lengths[k],
                                                           screen.loading_lengths[k],
                                                           std::sqrt(core::squared_norm(L, z)));
#pragma unroll
    for (std::size_t c = 0; c < coordinates_of_lane; ++c) {
      const std::size_t r = lane + c * warp_size;
      if (r >= R) continue;
      double rest = y[r] - screen.means[k * R + r];
      for (std::size_t l = 0; l < L; ++l) rest -= screen.loadings[(k * L + l) * R + r] * z[l];
      gradient[c] += weight * rest;
    }
  };
  if constexpr (Pairs) {
#pragma unroll 1
    for (int sign = -1; sign <= 1; sign += 2)
      add_term(static_cast<std::size_t>((sign < 0 ? steps.sources : steps.targets)[i]), sign);
  } else {
    for (std::size_t begin = 0; begin < K; begin += warp_size) {
      const double own_share = begin + lane < K ? scores.errors[scores.at(i, begin + lane)] : 0.0;
      for (unsigned left = __ballot_sync(all_lanes, own_share != 0.0); left != 0; left &= left - 1) {
        const int first = __ffs(static_cast<int>(left)) - 1;
        add_term(begin + static_cast<unsigned>(first), __shfl_sync(all_lanes, own_share, first));
      }
    }
  }
  const double a = steps.lengths[i];
  double square = 0.0;
#pragma unroll
  for (std::size_t c = 0; c < coordinates_of_lane; ++c) {
    const std::size_t r = lane + c * warp_size;
    if (r >= R) continue;
    y[r] -= a * gradient[c];
    space.coordinates[i * R + r] = static_cast<float>(y[r]);
    square += y[r] * y[r];
  }
  const double y_length = std::sqrt(warp_sum(square));
  if (lane != 0) return;
  const double norm = steps.norms[i];
  if (!std::isfinite(norm)) report_bad_row(bad_row, first_row + i);
  scores.norms[i] = norm;
  // The samples are rounded to a float or less coarsely, the coordinates to a float.
  space.errors[i] = core::moved_coordinate_error(space.errors[i], a * std::abs(feedback),
                                                 screen.center_length + std::sqrt(norm), y_length, a * size, L,
                                                 std::numeric_limits<float>::epsilon());
}

}  // namespace

template <class S>
void make_coordinates(Stream stream, const Rows<S>& rows, const ScreenView& screen, const ScoreView& scores,
                      const ScreenSpace& space, std::int64_t* bad_row) {
  const std::size_t tiles = screen.n_directions / tile_directions;
  const std::size_t shares = ceil_div(tiles, most_block_tiles);
  const std::size_t share_tiles = ceil_div(tiles, 2 * shares) * 2;
  const auto launch_for = [&](auto n_tiles) {
    launch_with_memory(stream, shares * ceil_div(scores.n, block_rows), coordinate_threads,
                       slices_at_once<S> * sizeof(Slice<S, n_tiles>), coordinates_kernel<S, n_tiles>, rows, screen,
                       scores, space.coordinates, bad_row);
  };
  if (share_tiles == 2) launch_for(std::integral_constant<unsigned, 2>{});
  else if (share_tiles == 4) launch_for(std::integral_constant<unsigned, 4>{});
  else if (share_tiles == 6) launch_for(std::integral_constant<unsigned, 6>{});
  else launch_for(std::integral_constant<unsigned, most_block_tiles>{});
  if (space.moving != nullptr)
    launch_tasks(stream, scores.n * screen.n_directions, start_coordinates_kernel, screen, scores, space);
}

void move_coordinates(Stream stream, const ModelView& model, const ScreenView& screen, const ScoreView& scores,
                      const StepView& steps, const ScreenSpace& space, std::size_t first_row, std::int64_t* bad_row) {
  const auto kernel = steps.sources != nullptr ? move_coordinates_kernel<true> : move_coordinates_kernel<false>;
  launch_tasks(stream, scores.n * warp_size, kernel, model, screen, scores, steps, space, first_row, bad_row);
}

#define MFA_INSTANTIATE(S)                                                                                            \
  template void make_coordinates(Stream, const Rows<S>&, const ScreenView&, const ScoreView&, const ScreenSpace&, \
                                 std::int64_t*);
MFA_FOR_SAMPLE_TYPES(MFA_INSTANTIATE)
#undef MFA_INSTANTIATE

}  // namespace mfa::cuda
