#include "screening.hpp"

#include <cmath>
#include <limits>

#include "core/gaussian.hpp"
#include "core/screening.hpp"
#include "tensor.hpp"

namespace mfa::cuda {
namespace {

// What a warp makes: the coordinates of sixteen rows in some directions. Where there are more directions, several blocks
// have the same rows.
constexpr unsigned coordinate_warps = 8;
constexpr unsigned coordinate_threads = coordinate_warps * warp_size;
constexpr unsigned warp_rows = 16;
constexpr unsigned block_rows = coordinate_warps * warp_rows;
constexpr unsigned block_tiles = 8;
constexpr unsigned block_directions = block_tiles * tile_directions;
// Features that a block copies at once, a few such stages ahead; and that are summed on tensor cores before the sums go on
// by ordinary additions.
constexpr unsigned slice_features = 32;
constexpr unsigned slice_steps = slice_features / basis_features;
constexpr unsigned slice_fours = slice_features / 4;
constexpr unsigned stages = 3;
constexpr unsigned run_stages = 2;

template <class S>
struct CoordinateStage {
  Four<S> rows[block_rows][slice_fours];
  BasisPart basis[slice_steps][block_tiles][warp_size];

  // Rows beside each other begin in different banks.
  __device__ Four<S>& four(unsigned row, unsigned at) { return rows[row][at ^ (row % 2 * 4)]; }
};

template <class S>
__device__ float centered(S value, float center, float scale) {
  if constexpr (std::is_same_v<S, double>)
    return static_cast<float>((value - static_cast<double>(center)) * static_cast<double>(scale));
  else return (to<float>(value) - center) * scale;
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

template <class S>
__global__ void __launch_bounds__(coordinate_threads, sizeof(S) < 8 ? 2 : 1)
    coordinates_kernel(Rows<S> rows, ScreenView screen, std::size_t d, ScoreView scores, float* coordinates,
                       std::int64_t* bad_row) {
  auto* stage = reinterpret_cast<CoordinateStage<S>*>(block_memory());
  const auto R = static_cast<unsigned>(screen.n_directions);
  const auto width = static_cast<unsigned>(d);
  const unsigned shares = (R + block_directions - 1) / block_directions;
  const unsigned share = blockIdx.x % shares;
  const unsigned all_tiles = R / tile_directions;
  const unsigned tiles = all_tiles - share * block_tiles < block_tiles ? all_tiles - share * block_tiles : block_tiles;
  const std::size_t first = static_cast<std::size_t>(blockIdx.x / shares) * block_rows;
  const bool in_line = rows.has_aligned_fours();
  const auto left = [width](unsigned j) { return j < width ? width - j : 0; };
  const auto is_read = [&](unsigned row) { return first + row < scores.n && !scores.skips(first + row); };

  const auto fetch = [&](unsigned s) {
    CoordinateStage<S>& to = stage[s % stages];
    const unsigned at = threadIdx.x % slice_fours;
    const unsigned j = s * slice_features + 4 * at;
    for (unsigned row = threadIdx.x / slice_fours; row < block_rows; row += coordinate_threads / slice_fours) {
      const bool reads = is_read(row) && j < width;
      const S* from = rows.row(first + (reads ? row : 0)) + (reads ? j : 0);
      if (reads && in_line && left(j) >= 4) copy_to_block<sizeof(Four<S>)>(&to.four(row, at), from);
      else to.four(row, at) = load_four(from, reads ? left(j) : 0, false);
    }
    for (unsigned part = threadIdx.x; part < slice_steps * block_tiles * warp_size; part += coordinate_threads) {
      const unsigned step = part / (block_tiles * warp_size);
      const unsigned tile = part / warp_size % block_tiles;
      if (tile >= tiles || s * slice_features + step * basis_features >= width) continue;
      const BasisPart* from =
          screen.basis + ((s * slice_steps + step) * all_tiles + share * block_tiles + tile) * warp_size + part % warp_size;
      copy_to_block<sizeof(BasisPart)>(&to.basis[step][tile][part % warp_size], from);
    }
  };

  const tensor::Lane own = tensor::lane();
  const unsigned lane = threadIdx.x % warp_size;
  const unsigned warp_row = threadIdx.x / warp_size * warp_rows;
  const bool reads[2] = {is_read(warp_row + own.g), is_read(warp_row + own.g + 8)};
  double squares[2] = {};
  tensor::Sums sums[block_tiles] = {}, run[block_tiles] = {};
  const unsigned last = (width + slice_features - 1) / slice_features;
  for (unsigned s = 0; s + 1 < stages; ++s) {
    if (s < last) fetch(s);
    commit_copies();
  }
  for (unsigned s = 0; s < last; ++s) {
    await_copies<stages - 2>();
    __syncthreads();  // all have come, and the oldest are done with
    if (s + stages - 1 < last) fetch(s + stages - 1);
    commit_copies();
    CoordinateStage<S>& now = stage[s % stages];
#pragma unroll
    for (unsigned step = 0; step < slice_steps; ++step) {
      const unsigned begin = s * slice_features + step * basis_features;
      if (begin >= width) continue;
      const unsigned j = begin + 4 * own.c;
      const Four<float> center = load_four(screen.center + j, left(j), width % 4 == 0);
      Four<float> scale{{1.0f, 1.0f, 1.0f, 1.0f}};
      if (screen.scale != nullptr) scale = load_four(screen.scale + j, left(j), width % 4 == 0);
      float x[2][4];
#pragma unroll
      for (unsigned r = 0; r < 2; ++r) {
        const Four<S> values = now.four(warp_row + own.g + 8 * r, step * 4 + own.c);
#pragma unroll
        for (unsigned f = 0; f < 4; ++f) {
          x[r][f] = reads[r] && j + f < width ? centered(values.values[f], center.values[f], scale.values[f]) : 0.0f;
          squares[r] += static_cast<double>(x[r][f]) * static_cast<double>(x[r][f]);
        }
      }
      const Split parts = split(x);
      constexpr unsigned at_once = 4;
#pragma unroll
      for (unsigned some = 0; some < block_tiles; some += at_once) {
        if (some >= tiles) continue;
        BasisPart directions[at_once];
#pragma unroll
        for (unsigned t = 0; t < at_once; ++t)
          if (some + t < tiles) directions[t] = now.basis[step][some + t][lane];
#pragma unroll
        for (unsigned t = 0; t < at_once; ++t)
          if (some + t < tiles) tensor::multiply_add(run[some + t], parts.low, directions[t].high);
#pragma unroll
        for (unsigned t = 0; t < at_once; ++t)
          if (some + t < tiles) tensor::multiply_add(run[some + t], parts.high, directions[t].low);
#pragma unroll
        for (unsigned t = 0; t < at_once; ++t)
          if (some + t < tiles) tensor::multiply_add(run[some + t], parts.high, directions[t].high);
      }
    }
    if (s % run_stages + 1 != run_stages && s + 1 != last) continue;
#pragma unroll
    for (unsigned t = 0; t < block_tiles; ++t)
#pragma unroll
      for (unsigned e = 0; e < 4; ++e) {
        sums[t][e] += run[t][e];
        run[t][e] = 0.0f;
      }
  }
#pragma unroll
  for (unsigned r = 0; r < 2; ++r) {
    const std::size_t i = first + warp_row + own.g + 8 * r;
    const double norm = tensor::row_sum(squares[r]);
    if (i >= scores.n) continue;
#pragma unroll
    for (unsigned t = 0; t < block_tiles; ++t) {
      if (t >= tiles) continue;
      float* to = coordinates + i * R + (share * block_tiles + t) * tile_directions + 2 * own.c;
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

constexpr unsigned bound_warps = 8;
constexpr unsigned bound_threads = bound_warps * warp_size;
// Tiles of columns that a block copies, and multiplies its rows by, at once.
constexpr unsigned tiles_at_once = 4;
constexpr unsigned column_stages = 2;

// A block's memory: coordinates, in rows that are longer than they need be, so that the lanes' parts of them lie in different
// banks; and columns.
constexpr unsigned padding = 8;
inline std::size_t bound_memory(std::size_t n_directions) {
  return bound_warps * warp_rows * (n_directions + padding) * sizeof(float) +
         column_stages * tiles_at_once * n_directions / tensor_depth * warp_size * sizeof(ColumnPart);
}

// Of one row: what bounds are made of besides its product.
struct RowTerms {
  float y_norm, shift, outside;
};

// Of lane l: the terms of row l % 16 of a warp's rows.
__device__ RowTerms row_terms(const float* coordinates, const ScreenView& screen, std::size_t d, const ScoreView& scores,
                              const ScreenSpace& space, std::size_t first) {
  const unsigned r = threadIdx.x % warp_rows;
  const float* y = coordinates + r * (screen.n_directions + padding);
  double part = 0.0;
  for (std::size_t j = threadIdx.x % warp_size / warp_rows; j < screen.n_directions; j += warp_size / warp_rows)
    part += static_cast<double>(y[j]) * static_cast<double>(y[j]);
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

// A warp has sixteen rows; the block goes through all components together, whose columns stand in whole tiles. In every group
// the highest guess is marked, the lowest component on a tie.
__global__ void __launch_bounds__(bound_threads, 3)
    bounds_kernel(ModelView model, ScreenView screen, std::size_t d, GroupView groups, ScoreView scores,
                  ScreenSpace space) {
  __shared__ int any_wanted;
  const auto R = static_cast<unsigned>(screen.n_directions);
  const unsigned steps = R / tensor_depth;
  const unsigned row_length = R + padding;
  auto* coordinates = reinterpret_cast<float*>(block_memory());
  auto* columns = reinterpret_cast<ColumnPart*>(coordinates + bound_warps * warp_rows * row_length);
  const unsigned warp = threadIdx.x / warp_size;
  const unsigned lane = threadIdx.x % warp_size;
  const std::size_t first = (static_cast<std::size_t>(blockIdx.x) * bound_warps + warp) * warp_rows;
  const std::size_t own_row = first + lane % warp_rows;
  if (threadIdx.x == 0) any_wanted = 0;
  __syncthreads();
  if (own_row < scores.n && !scores.skips(own_row)) any_wanted = 1;
  __syncthreads();
  if (any_wanted == 0) return;  // a whole block

  const std::size_t L = model.n_factors;
  const auto component_tiles = static_cast<unsigned>(screen.component_tiles);
  const auto all_tiles = static_cast<unsigned>(model.n_components) * component_tiles;
  const unsigned stage_parts = tiles_at_once * steps * warp_size;
  const auto fetch = [&](unsigned start) {
    ColumnPart* to = columns + start / tiles_at_once % column_stages * stage_parts;
    const unsigned count = (all_tiles - start < tiles_at_once ? all_tiles - start : tiles_at_once) * steps * warp_size;
    for (unsigned part = threadIdx.x; part < count; part += bound_threads)
      copy_to_block<sizeof(ColumnPart)>(to + part, screen.columns + static_cast<std::size_t>(start) * steps * warp_size + part);
  };
  fetch(0);
  commit_copies();

  float* y = coordinates + warp * warp_rows * row_length;
  for (unsigned r = 0; r < warp_rows; ++r)
    for (unsigned j = lane; j < R; j += warp_size)
      y[r * row_length + j] = first + r < scores.n ? space.coordinates[(first + r) * R + j] : 0.0f;
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

  unsigned k = 0, tile_of_component = 0, group = 0, best = 0;
  float best_guess = -std::numeric_limits<float>::infinity();
  Products products;
  for (unsigned start = 0; start < all_tiles; start += tiles_at_once) {
    await_copies<0>();
    __syncthreads();  // all have come, and the others are done with
    if (start + tiles_at_once < all_tiles) fetch(start + tiles_at_once);
    commit_copies();
    const ColumnPart* stage = columns + start / tiles_at_once % column_stages * stage_parts;
    tensor::Sums sums[tiles_at_once] = {};
#pragma unroll 2
    for (unsigned s = 0; s < steps; ++s) {
      tensor::Left8 high, low;
#pragma unroll
      for (unsigned e = 0; e < 4; ++e) {
        const float value = y[(own.g + 8 * (e % 2)) * row_length + s * tensor_depth + 2 * own.c + e / 2];
        high[e] = round_to_eleven(value);
        low[e] = value - high[e];
      }
      ColumnPart column[tiles_at_once];
#pragma unroll
      for (unsigned t = 0; t < tiles_at_once; ++t) column[t] = stage[(t * steps + s) * warp_size + lane];
#pragma unroll
      for (unsigned t = 0; t < tiles_at_once; ++t) tensor::multiply_add(sums[t], low, column[t].high);
#pragma unroll
      for (unsigned t = 0; t < tiles_at_once; ++t) tensor::multiply_add(sums[t], high, column[t].low);
#pragma unroll
      for (unsigned t = 0; t < tiles_at_once; ++t) tensor::multiply_add(sums[t], high, column[t].high);
    }
#pragma unroll
    for (unsigned t = 0; t < tiles_at_once; ++t) {
      if (start + t >= all_tiles) continue;
#pragma unroll
      for (unsigned e = 0; e < 4; ++e) {
        const unsigned l = tile_of_component * tile_columns + 2 * own.c + e % 2;
        const ColumnTerms terms =
            screen.column_terms[static_cast<std::size_t>(start + t) * tile_columns + 2 * own.c + e % 2];
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
  const std::size_t shares = ceil_div(screen.n_directions, block_directions);
  launch_with_memory(stream, shares * ceil_div(scores.n, block_rows), coordinate_threads,
                     stages * sizeof(CoordinateStage<S>), coordinates_kernel<S>, rows, screen, model.n_features, scores,
                     space.coordinates, bad_row);
  if (space.moving != nullptr)
    launch_tasks(stream, scores.n, start_coordinates_kernel, screen, model.n_features, scores, space);
  screen_by_coordinates(stream, model, screen, groups, scores, space);
}

void screen_by_coordinates(Stream stream, const ModelView& model, const ScreenView& screen, const GroupView& groups,
                           const ScoreView& scores, const ScreenSpace& space) {
  fill_zero(stream, scores.known, model.n_components * scores.stride);
  fill_zero(stream, scores.marks, model.n_components * scores.stride);
  launch_with_memory(stream, ceil_div(scores.n, bound_warps * warp_rows), bound_threads,
                     bound_memory(screen.n_directions), bounds_kernel, model, screen, model.n_features, groups, scores,
                     space);
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
