#include "screening.hpp"

#include <cmath>
#include <limits>

#include "core/gaussian.hpp"
#include "core/screening.hpp"
#include "tensor.hpp"

namespace mfa::cuda {
namespace {

constexpr unsigned coordinate_warps = 8;
constexpr unsigned coordinate_threads = coordinate_warps * warp_size;
// What a warp makes: the coordinates of sixteen rows in some directions. Where there are more directions, several warps have
// the same rows.
constexpr unsigned warp_rows = 16;
constexpr unsigned warp_tiles = 8;
constexpr unsigned warp_directions = warp_tiles * tile_directions;
// Features that are multiplied at once, and that are summed on tensor cores before the sums go on by ordinary additions.
constexpr unsigned step_features = basis_features;
constexpr unsigned run_features = 64;
constexpr unsigned run_steps = run_features / step_features;
// Steps that rows are read ahead.
template <class S>
constexpr unsigned steps_ahead = sizeof(S) == sizeof(double) ? 2 : run_steps;

template <class S>
__device__ float centered(S value, float center, float scale) {
  if constexpr (std::is_same_v<S, double>)
    return static_cast<float>((value - static_cast<double>(center)) * static_cast<double>(scale));
  else return (to<float>(value) - center) * scale;
}

// What a lane has of two rows at one step: four features each.
template <class S>
struct Ahead {
  Four<S> rows[2];
};

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

// Warps that share rows stand beside each other, so that what one has read the next finds in the cache. None waits for
// another.
template <class S>
__global__ void __launch_bounds__(coordinate_threads, 2)
    coordinates_kernel(Rows<S> rows, ScreenView screen, std::size_t d, ScoreView scores, float* coordinates,
                       std::int64_t* bad_row) {
  const auto R = static_cast<unsigned>(screen.n_directions);
  const unsigned shares = (R + warp_directions - 1) / warp_directions;
  const unsigned warp = threadIdx.x / warp_size;
  const unsigned share = warp % shares;
  const unsigned all_tiles = R / tile_directions;
  const unsigned tiles = all_tiles - share * warp_tiles < warp_tiles ? all_tiles - share * warp_tiles : warp_tiles;
  const unsigned block_shares = coordinate_warps / shares;
  const std::size_t first = (static_cast<std::size_t>(blockIdx.x) * block_shares + warp / shares) * warp_rows;
  if (warp / shares >= block_shares || first >= scores.n) return;  // a whole warp
  const tensor::Lane own = tensor::lane();
  const bool in_line = rows.has_aligned_fours();
  const auto width = static_cast<unsigned>(d);
  const S* from[2];
  bool reads[2];
#pragma unroll
  for (unsigned r = 0; r < 2; ++r) {
    const std::size_t i = first + own.g + 8 * r;
    reads[r] = i < scores.n && !scores.skips(i);
    from[r] = rows.row(reads[r] ? i : first);
  }
  const auto left = [width](unsigned j) { return j < width ? width - j : 0; };
  const auto read = [&](unsigned j) {
    Ahead<S> next;
#pragma unroll
    for (unsigned r = 0; r < 2; ++r) next.rows[r] = load_four(from[r] + j, reads[r] ? left(j) : 0, in_line);
    return next;
  };
  const BasisPart* basis = screen.basis + share * warp_tiles * warp_size + threadIdx.x % warp_size;

  double squares[2] = {};
  tensor::Sums sums[warp_tiles] = {};
  Ahead<S> queue[steps_ahead<S>];
#pragma unroll
  for (unsigned q = 0; q < steps_ahead<S>; ++q) queue[q] = read(q * step_features + 4 * own.c);
  for (unsigned start = 0; start < width; start += run_features) {
    tensor::Sums run[warp_tiles] = {};
#pragma unroll
    for (unsigned step = 0; step < run_steps; ++step) {
      if (start + step * step_features >= width) continue;
      const unsigned j = start + step * step_features + 4 * own.c;
      const Ahead<S> now = queue[step % steps_ahead<S>];
      queue[step % steps_ahead<S>] = read(j + steps_ahead<S> * step_features);
      const Four<float> center = load_four(screen.center + j, left(j), width % 4 == 0);
      Four<float> scale{{1.0f, 1.0f, 1.0f, 1.0f}};
      if (screen.scale != nullptr) scale = load_four(screen.scale + j, left(j), width % 4 == 0);
      float x[2][4];
#pragma unroll
      for (unsigned r = 0; r < 2; ++r)
#pragma unroll
        for (unsigned f = 0; f < 4; ++f) {
          x[r][f] = reads[r] && j + f < width ? centered(now.rows[r].values[f], center.values[f], scale.values[f]) : 0.0f;
          squares[r] += static_cast<double>(x[r][f]) * static_cast<double>(x[r][f]);
        }
      const Split parts = split(x);
#pragma unroll
      for (unsigned t = 0; t < warp_tiles; ++t) {
        if (t >= tiles) continue;
        const BasisPart direction = basis[((start / step_features + step) * all_tiles + t) * warp_size];
        tensor::multiply_add(run[t], parts.low, direction.high);
        tensor::multiply_add(run[t], parts.high, direction.low);
        tensor::multiply_add(run[t], parts.high, direction.high);
      }
    }
#pragma unroll
    for (unsigned t = 0; t < warp_tiles; ++t)
#pragma unroll
      for (unsigned e = 0; e < 4; ++e) sums[t][e] += run[t][e];
  }
#pragma unroll
  for (unsigned r = 0; r < 2; ++r) {
    const std::size_t i = first + own.g + 8 * r;
    const double norm = tensor::row_sum(squares[r]);
    if (i >= scores.n) continue;
#pragma unroll
    for (unsigned t = 0; t < warp_tiles; ++t) {
      if (t >= tiles) continue;
      float* to = coordinates + i * R + (share * warp_tiles + t) * tile_directions + 2 * own.c;
      to[0] = sums[t][2 * r];
      to[1] = sums[t][2 * r + 1];
    }
    if (share != 0 || own.c != 0) continue;
    scores.norms[i] = norm;
    if (!std::isfinite(norm)) report_bad_row(bad_row, rows.first + i);
  }
}

// Errors of coordinates that tensor cores have made, from where these start to move. One thread per row.
__global__ void start_coordinates_kernel(ScreenView screen, std::size_t d, ScoreView scores, ScreenSpace space) {
  const std::size_t i = task_index();
  if (i >= scores.n) return;
  space.errors[i] = core::tensor_coordinate_error(scores.norms[i], d, screen.basis_error);
  const std::size_t R = screen.n_directions;
  for (std::size_t r = i * R; r < (i + 1) * R; ++r) space.moving[r] = static_cast<double>(space.coordinates[r]);
}

// One warp per row.
__global__ void move_coordinates_kernel(ModelView model, ScreenView screen, ScoreView scores, StepView steps,
                                        ScreenSpace space, std::size_t first_row, std::int64_t* bad_row) {
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
  for (std::size_t begin = 0; begin < K; begin += warp_size) {
    const std::size_t own = begin + lane;
    const double own_share = own < K ? scores.errors[scores.at(i, own)] : 0.0;
    for (unsigned left = __ballot_sync(all_lanes, own_share != 0.0); left != 0; left &= left - 1) {
      const auto first = static_cast<unsigned>(__ffs(static_cast<int>(left)) - 1);
      const std::size_t k = begin + first;
      const double share = __shfl_sync(all_lanes, own_share, static_cast<int>(first));
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

constexpr unsigned bound_warps = 4;
constexpr unsigned bound_threads = bound_warps * warp_size;
// Tiles of columns that a warp multiplies its rows by at once.
constexpr unsigned tiles_at_once = 4;
// Shared rows are longer than they need be, so that the lanes' parts of them lie in different banks.
constexpr std::size_t padded_directions = most_directions + 8;

// Of one row: what bounds are made of besides its product.
struct RowTerms {
  float y_norm, shift, outside;
};

// Of lane l: the terms of row l % 16 of a warp's rows.
__device__ RowTerms row_terms(const float (*y)[padded_directions], const ScreenView& screen, std::size_t d,
                              const ScoreView& scores, const ScreenSpace& space, std::size_t first) {
  const unsigned r = threadIdx.x % warp_rows;
  double part = 0.0;
  for (std::size_t j = threadIdx.x % warp_size / warp_rows; j < screen.n_directions; j += warp_size / warp_rows)
    part += static_cast<double>(y[r][j]) * static_cast<double>(y[r][j]);
  const double y_norm = part + __shfl_xor_sync(all_lanes, part, warp_rows);
  const std::size_t i = first + r < scores.n ? first + r : first;
  constexpr double margin = 4.0 * std::numeric_limits<float>::epsilon();
  const double shift = space.errors != nullptr
                           ? space.errors[i]
                           : core::tensor_coordinate_error(scores.norms[i], d, screen.basis_error);
  return {static_cast<float>(y_norm), static_cast<float>(shift * (1.0 + margin)),
          static_cast<float>(core::outside_length(scores.norms[i], y_norm, shift) * (1.0 - margin))};
}

// What a component's columns add up to in the two rows of a lane: |v|^2, sum_l beta_l v_l^2 and the product with the mean.
struct Products {
  float explained[2] = {}, moved[2] = {}, dot[2] = {};
};

// The sum over the lanes of a row, of row g in even lanes and of row g + 8 in odd ones.
__device__ float own_row_sum(const float (&parts)[2], bool odd) {
  float sum = odd ? parts[1] : parts[0];
  sum += __shfl_xor_sync(all_lanes, odd ? parts[0] : parts[1], 1);
  return sum + __shfl_xor_sync(all_lanes, sum, 2);
}

struct Bound {
  float upper, guess;
};
__device__ Bound bound(const ScreenView& screen, std::size_t n_factors, std::size_t k, const RowTerms& row, float explained,
                       float moved, float dot) {
  const core::Outside<float> x{row.outside, row.shift};
  const core::Leftover<float> left{screen.means_left[k], screen.spreads[k], screen.inverse_noise_roots[k],
                                   screen.inverse_weights[k]};
  const float norms = row.y_norm * left.inverse_noise_root * left.inverse_noise_root + screen.mean_norms[k];
  const float c = core::shadow_distance(norms, dot, explained);
  const float error =
      core::shadow_distance_error(norms, static_cast<float>(n_factors), screen.epsilon, screen.model_errors[k]);
  const float q = core::mahalanobis_lower_bound(c, moved, error, x, left);
  return {core::log_density_bound(screen.log_normalizers[k], q),
          screen.log_normalizers[k] - 0.5f * core::mahalanobis_guess(c, x, left)};
}

// A warp has sixteen rows and goes through all components, whose columns stand in whole tiles. In every group it marks the
// highest guess, the lowest component on a tie.
__global__ void __launch_bounds__(bound_threads)
    bounds_kernel(ModelView model, ScreenView screen, std::size_t d, GroupView groups, ScoreView scores,
                  ScreenSpace space) {
  __shared__ __align__(16) float shared[bound_warps][warp_rows][padded_directions];
  const unsigned warp = threadIdx.x / warp_size;
  float(*y)[padded_directions] = shared[warp];
  const std::size_t first = (static_cast<std::size_t>(blockIdx.x) * bound_warps + warp) * warp_rows;
  const unsigned lane = threadIdx.x % warp_size;
  const std::size_t own_row = first + lane % warp_rows;
  const bool wanted = own_row < scores.n && !scores.skips(own_row);
  if (__ballot_sync(all_lanes, wanted) == 0) return;  // a whole warp
  const auto R = static_cast<unsigned>(screen.n_directions);
  for (unsigned r = 0; r < warp_rows; ++r)
    for (unsigned j = lane; j < R; j += warp_size)
      y[r][j] = first + r < scores.n ? space.coordinates[(first + r) * R + j] : 0.0f;
  __syncwarp();
  const tensor::Lane own = tensor::lane();
  const bool odd = own.c % 2 != 0;
  const unsigned r = own.g + (odd ? 8 : 0);
  const RowTerms of_lane = row_terms(y, screen, d, scores, space, first);
  const auto from = static_cast<int>(r);
  const RowTerms row{__shfl_sync(all_lanes, of_lane.y_norm, from), __shfl_sync(all_lanes, of_lane.shift, from),
                     __shfl_sync(all_lanes, of_lane.outside, from)};
  const std::size_t i = first + r;
  const bool writes = own.c < 2 && i < scores.n;

  const std::size_t L = model.n_factors;
  const std::size_t component_tiles = screen.component_tiles;
  const std::size_t all_tiles = model.n_components * component_tiles;
  const unsigned steps = R / tensor_depth;
  std::size_t k = 0, tile_of_component = 0, group = 0, best = 0;
  float best_guess = -std::numeric_limits<float>::infinity();
  Products products;
  for (std::size_t start = 0; start < all_tiles; start += tiles_at_once) {
    tensor::Sums sums[tiles_at_once] = {};
    for (unsigned s = 0; s < steps; ++s) {
      tensor::Left8 high, low;
#pragma unroll
      for (unsigned e = 0; e < 4; ++e) {
        const float value = y[own.g + 8 * (e % 2)][s * tensor_depth + 2 * own.c + e / 2];
        high[e] = round_to_eleven(value);
        low[e] = value - high[e];
      }
#pragma unroll
      for (unsigned t = 0; t < tiles_at_once; ++t) {
        if (start + t >= all_tiles) continue;
        const ColumnPart column = screen.columns[((start + t) * steps + s) * warp_size + lane];
        tensor::multiply_add(sums[t], low, column.high);
        tensor::multiply_add(sums[t], high, column.low);
        tensor::multiply_add(sums[t], high, column.high);
      }
    }
#pragma unroll
    for (unsigned t = 0; t < tiles_at_once; ++t) {
      if (start + t >= all_tiles) continue;
#pragma unroll
      for (unsigned e = 0; e < 4; ++e) {
        const std::size_t l = tile_of_component * tile_columns + 2 * own.c + e % 2;
        const ColumnTerms terms = screen.column_terms[(start + t) * tile_columns + 2 * own.c + e % 2];
        const float v = sums[t][e] - terms.projected_mean;
        if (l == L) {
          products.dot[e / 2] += v;
        } else {
          products.explained[e / 2] += v * v;
          products.moved[e / 2] += v * v * terms.spread;
        }
      }
      if (++tile_of_component < component_tiles) continue;
      const float explained = own_row_sum(products.explained, odd);
      const float moved = own_row_sum(products.moved, odd);
      const float dot = own_row_sum(products.dot, odd);
      const Bound known = bound(screen, L, k, row, explained, moved, dot);
      if (writes) space.upper[scores.at(i, k)] = known.upper;
      if (known.guess > best_guess) {
        best_guess = known.guess;
        best = k;
      }
      products = {};
      tile_of_component = 0;
      if (++k < groups.end(group)) continue;
      if (writes && !scores.skips(i)) scores.marks[scores.at(i, best)] = 1;
      ++group;
      best = k;
      best_guess = -std::numeric_limits<float>::infinity();
    }
  }
}

// What is proved to lie negligible_nats below the best value so far of its group is left out. One that is not a number is
// not below anything. One thread per row and group.
__global__ void survivors_kernel(GroupView groups, ScoreView scores, ScreenSpace space) {
  const auto [i, g] = cell_of_thread(scores);
  if (g >= groups.count || scores.skips(i)) return;
  const auto least = static_cast<float>(clear_and_find_floor(scores, groups, i, g) - core::negligible_nats);
  for (std::size_t k = groups.begin(g); k < groups.end(g); ++k)
    if (const std::size_t at = scores.at(i, k); scores.known[at] == known_nothing && !(space.upper[at] < least))
      scores.marks[at] = 1;
}

}  // namespace

template <class S>
void screen_rows(Stream stream, const Rows<S>& rows, const ModelView& model, const ScreenView& screen,
                 const GroupView& groups, const ScoreView& scores, const ScreenSpace& space, std::int64_t* bad_row) {
  const std::size_t shares = ceil_div(screen.n_directions, warp_directions);
  const std::size_t block_rows = coordinate_warps / shares * warp_rows;
  launch(stream, ceil_div(scores.n, block_rows), coordinate_threads, coordinates_kernel<S>, rows, screen,
         model.n_features, scores, space.coordinates, bad_row);
  if (space.moving != nullptr)
    launch_tasks(stream, scores.n, start_coordinates_kernel, screen, model.n_features, scores, space);
  screen_by_coordinates(stream, model, screen, groups, scores, space);
}

void screen_by_coordinates(Stream stream, const ModelView& model, const ScreenView& screen, const GroupView& groups,
                           const ScoreView& scores, const ScreenSpace& space) {
  fill_zero(stream, scores.known, model.n_components * scores.stride);
  fill_zero(stream, scores.marks, model.n_components * scores.stride);
  launch(stream, ceil_div(scores.n, bound_warps * warp_rows), bound_threads, bounds_kernel, model, screen,
         model.n_features, groups, scores, space);
}

void move_coordinates(Stream stream, const ModelView& model, const ScreenView& screen, const ScoreView& scores,
                      const StepView& steps, const ScreenSpace& space, std::size_t first_row, std::int64_t* bad_row) {
  launch_tasks(stream, scores.n * warp_size, move_coordinates_kernel, model, screen, scores, steps, space, first_row,
               bad_row);
}

void mark_survivors(Stream stream, const GroupView& groups, const ScoreView& scores, const ScreenSpace& space) {
  launch_tasks(stream, groups.count * scores.n, survivors_kernel, groups, scores, space);
}

#define MFA_INSTANTIATE(S)                                                                            \
  template void screen_rows(Stream, const Rows<S>&, const ModelView&, const ScreenView&, \
                            const GroupView&, const ScoreView&, const ScreenSpace&, std::int64_t*);
MFA_FOR_SAMPLE_TYPES(MFA_INSTANTIATE)
#undef MFA_INSTANTIATE

}  // namespace mfa::cuda
