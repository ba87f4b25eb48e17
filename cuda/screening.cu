#include "screening.hpp"

#include <cmath>
#include <limits>
#include <stdexcept>
#include <string>
#include <type_traits>

#include "core/rule.hpp"
#include "core/screening.hpp"
#include "tensor.hpp"

namespace mfa::cuda {
namespace {

// A warp has so many rows, a block some warps, as many as it has memory for.
constexpr unsigned warp_rows = 16;
constexpr unsigned most_bound_warps = 8;
// Tiles of columns that a block copies, and multiplies its rows by, at once.
constexpr unsigned tiles_at_once = 4;
constexpr unsigned column_stages = 2;

// A block's memory: coordinates, in rows that are longer than they need be, so that the lanes' parts of them lie in different
// banks; and columns with their terms.
constexpr unsigned padding = 8;
constexpr unsigned stage_terms = tiles_at_once * tile_columns;
inline std::size_t bound_memory(std::size_t n_directions, unsigned warps) {
  return warps * warp_rows * (n_directions + padding) * sizeof(float) +
         column_stages * (tiles_at_once * n_directions / tensor_depth * warp_size * sizeof(ColumnPart) +
                          stage_terms * sizeof(ColumnTerms));
}

// Of one row: what bounds are made of besides its product.
struct RowTerms {
  float y_norm, shift, outside;
};

// Of lane l: the terms of row l % 16 of a warp's rows.
__device__ RowTerms row_terms(const float* coordinates, const ScreenView& screen, const ScoreView& scores,
                              const ScreenSpace& space, std::size_t first) {
  const unsigned r = threadIdx.x % warp_rows;
  const float* y = coordinates + r * (screen.n_directions + padding);
  double part = 0.0;
  for (std::size_t j = threadIdx.x % warp_size / warp_rows; j < screen.n_directions; j += warp_size / warp_rows)
    part += static_cast<double>(y[j]) * static_cast<double>(y[j]);
  const double y_norm = part + __shfl_xor_sync(all_lanes, part, warp_rows);
  const std::size_t i = first + r < scores.n ? first + r : scores.n - 1;
  constexpr double margin = 4.0 * std::numeric_limits<float>::epsilon();
  const double shift = space.errors != nullptr
                           ? space.errors[i]
                           : core::tensor_coordinate_error(scores.norms[i], screen.n_features, screen.basis_error);
  return {static_cast<float>(y_norm), static_cast<float>(shift * (1.0 + margin)),
          static_cast<float>(core::outside_length(scores.norms[i], y_norm, shift) * (1.0 - margin))};
}

// What a component's columns add up to: |v|^2, sum_l beta_l v_l^2 and the product with the mean. Products are of the two rows of
// a lane, from the lane's own columns; RowProducts of one row, from those of two or four lanes.
struct Products {
  float explained[2] = {}, moved[2] = {}, dot[2] = {};
};
struct RowProducts {
  float explained = 0.0f, moved = 0.0f, dot = 0.0f;
};

// Of two lanes' columns, row g in even lanes and row g + 8 in odd ones.
__device__ RowProducts of_two_lanes(const Products& products, bool odd) {
  const auto sum = [odd](const float (&parts)[2]) {
    return (odd ? parts[1] : parts[0]) + __shfl_xor_sync(all_lanes, odd ? parts[0] : parts[1], 1);
  };
  return {sum(products.explained), sum(products.moved), sum(products.dot)};
}
// Of all four lanes' columns: of the first component in the first two lanes of a row, of the second one in the others.
__device__ RowProducts of_all_lanes(const RowProducts& first, const RowProducts& second, bool has_second) {
  const auto sum = [has_second](float of_first, float of_second) {
    return (has_second ? of_second : of_first) + __shfl_xor_sync(all_lanes, has_second ? of_first : of_second, 2);
  };
  return {sum(first.explained, second.explained), sum(first.moved, second.moved), sum(first.dot, second.dot)};
}

struct Bound {
  float upper, guess;
};
__device__ Bound bound(const ScreenView& screen, std::size_t n_factors, std::size_t k, const RowTerms& row,
                       const RowProducts& products) {
  const ComponentTerms terms = screen.terms[k];
  const core::Outside<float> x{row.outside, row.shift};
  const core::Leftover<float> left{terms.mean_left, terms.spread, terms.inverse_noise_root, terms.inverse_weight};
  const float norms = row.y_norm * left.inverse_noise_root * left.inverse_noise_root + terms.mean_norm;
  const float c = core::shadow_distance(norms, products.dot, products.explained);
  const float error =
      core::shadow_distance_error(norms, static_cast<float>(n_factors), screen.epsilon, terms.model_error);
  const float q = core::mahalanobis_lower_bound(c, products.moved, error, x, left);
  return {core::log_density_bound(terms.log_normalizer, q),
          terms.log_normalizer - 0.5f * core::mahalanobis_guess(q, c, x, left)};
}

// The best component of a group so far, the lowest one on a tie.
struct Best {
  float guess = -std::numeric_limits<float>::infinity();
  unsigned component;

  __device__ void add(float other, unsigned k) {
    if (!(other > guess || (other == guess && k < component))) return;
    guess = other;
    component = k;
  }
};

// A warp has sixteen rows; the block goes through all components together, whose columns stand in whole tiles. Bounds are made
// for two components of a group at once, by two lanes of a row each. In every group the highest guess is marked, unless it is
// known already.
template <unsigned Steps>
__global__ void __launch_bounds__(most_bound_warps * warp_size, 3)
    bounds_kernel(ModelView model, ScreenView screen, GroupView groups, ScoreView scores, ScreenSpace space) {
  __shared__ int any_wanted;
  constexpr unsigned R = Steps * tensor_depth;
  constexpr unsigned row_length = R + padding;
  const unsigned warps = blockDim.x / warp_size;
  auto* coordinates = reinterpret_cast<float*>(block_memory());
  auto* columns = reinterpret_cast<ColumnPart*>(coordinates + warps * warp_rows * row_length);
  const unsigned warp = threadIdx.x / warp_size;
  const unsigned lane = threadIdx.x % warp_size;
  const std::size_t first = (static_cast<std::size_t>(blockIdx.x) * warps + warp) * warp_rows;
  const std::size_t own_row = first + lane % warp_rows;
  if (threadIdx.x == 0) any_wanted = 0;
  __syncthreads();
  if (own_row < scores.n && !scores.skips(own_row)) any_wanted = 1;
  __syncthreads();
  if (any_wanted == 0) return;  // a whole block

  const std::size_t L = model.n_factors;
  const auto component_tiles = static_cast<unsigned>(screen.component_tiles);
  const auto all_tiles = static_cast<unsigned>(model.n_components) * component_tiles;
  constexpr unsigned stage_parts = tiles_at_once * Steps * warp_size;
  auto* column_terms = reinterpret_cast<TwoColumnTerms*>(columns + column_stages * stage_parts);
  const auto stage_of = [](unsigned start) { return start / tiles_at_once % column_stages; };
  const auto fetch = [&](unsigned start) {
    const unsigned tiles = all_tiles - start < tiles_at_once ? all_tiles - start : tiles_at_once;
    ColumnPart* to = columns + stage_of(start) * stage_parts;
    for (unsigned part = threadIdx.x; part < tiles * Steps * warp_size; part += blockDim.x)
      copy_to_block<sizeof(ColumnPart)>(to + part, screen.columns + static_cast<std::size_t>(start) * Steps * warp_size + part);
    const auto* terms =
        reinterpret_cast<const TwoColumnTerms*>(screen.column_terms + static_cast<std::size_t>(start) * tile_columns);
    if (threadIdx.x < tiles * tile_columns / 2)
      copy_to_block<sizeof(TwoColumnTerms)>(column_terms + stage_of(start) * stage_terms / 2 + threadIdx.x, terms + threadIdx.x);
  };
  fetch(0);

  float* y = coordinates + warp * warp_rows * row_length;
  constexpr unsigned row_fours = R / 4;
  for (unsigned part = lane; part < warp_rows * row_fours; part += warp_size) {
    const unsigned of_row = part / row_fours, j = part % row_fours * 4;
    float* to = y + of_row * row_length + j;
    if (first + of_row < scores.n) copy_to_block<sizeof(Four<float>)>(to, space.coordinates + (first + of_row) * R + j);
    else *reinterpret_cast<Four<float>*>(to) = {};
  }
  commit_copies();
  await_copies<0>();
  __syncwarp();
  const tensor::Lane own = tensor::lane();
  const bool odd = own.c % 2 != 0;
  const bool has_second = own.c / 2 != 0;
  const unsigned r = own.g + (odd ? 8 : 0);
  const RowTerms of_lane = row_terms(y, screen, scores, space, first);
  const auto from = static_cast<int>(r);
  const RowTerms row{__shfl_sync(all_lanes, of_lane.y_norm, from), __shfl_sync(all_lanes, of_lane.shift, from),
                     __shfl_sync(all_lanes, of_lane.outside, from)};
  const std::size_t i = first + r;
  unsigned k = 0, tile_of_component = 0, group = 0;
  std::size_t group_end = groups.end(0);
  Best best{.component = 0};
  Products products;
  RowProducts first_of_two;
  bool waits = false;  // the first of two components for the second
  for (unsigned start = 0; start < all_tiles; start += tiles_at_once) {
    await_copies<0>();
    __syncthreads();  // all have come, and the others are done with
    if (start + tiles_at_once < all_tiles) fetch(start + tiles_at_once);
    commit_copies();
    const ColumnPart* stage = columns + stage_of(start) * stage_parts;
    tensor::Sums sums[tiles_at_once] = {};
#pragma unroll
    for (unsigned s = 0; s < Steps; ++s) {
      tensor::Left8 high, low;
#pragma unroll
      for (unsigned e = 0; e < 4; ++e) {
        const float value = y[(own.g + 8 * (e % 2)) * row_length + s * tensor_depth + 2 * own.c + e / 2];
        high[e] = round_to_eleven(value);
        low[e] = value - high[e];
      }
      ColumnPart column[tiles_at_once];
#pragma unroll
      for (unsigned t = 0; t < tiles_at_once; ++t) column[t] = stage[(t * Steps + s) * warp_size + lane];
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
      const TwoColumnTerms two = column_terms[(stage_of(start) * stage_terms + t * tile_columns) / 2 + own.c];
#pragma unroll
      for (unsigned e = 0; e < 4; ++e) {
        const unsigned l = tile_of_component * tile_columns + 2 * own.c + e % 2;
        const ColumnTerms terms = two.of[e % 2];
        const float v = sums[t][e] - terms.projected_mean;
        if (l == L) {
          products.dot[e / 2] += v;
        } else {
          products.explained[e / 2] += v * v;
          products.moved[e / 2] += v * v * terms.spread;
        }
      }
      if (++tile_of_component < component_tiles) continue;
      tile_of_component = 0;
      const RowProducts half_of_row = of_two_lanes(products, odd);
      products = {};
      const bool ends_group = ++k == group_end;
      if (!waits && !ends_group) {
        first_of_two = half_of_row;
        waits = true;
        continue;
      }
      const unsigned first_component = waits ? k - 2 : k - 1;
      const unsigned own_component = first_component + (has_second ? 1 : 0);
      const RowProducts of_row =
          waits ? of_all_lanes(first_of_two, half_of_row, has_second) : of_all_lanes(half_of_row, {}, has_second);
      waits = false;
      if (own_component < k) {
        const Bound known = bound(screen, L, own_component, row, of_row);
        if (i < scores.n) space.upper[scores.at(i, own_component)] = known.upper;
        best.add(known.guess, own_component);
      }
      if (!ends_group) continue;
      const float other_guess = __shfl_xor_sync(all_lanes, best.guess, 2);
      best.add(other_guess, __shfl_xor_sync(all_lanes, best.component, 2));
      if (!has_second && i < scores.n && !scores.skips(i)) {
        const std::size_t at = scores.at(i, best.component);
        scores.marks[at] = scores.known[at] == known_nothing;
      }
      best = {.component = k};
      if (k < model.n_components) group_end = groups.end(++group);
    }
  }
}

// Calls visit(k) for those of a group's components that are not known and not proved to lie negligible_nats below `floor`. A
// bound that is not a number is not below anything.
template <class Visit>
__device__ void for_each_survivor(const GroupView& groups, const ScoreView& scores, const ScreenSpace& space, std::size_t i,
                                  std::size_t g, double floor, const Visit& visit) {
  const auto least = static_cast<float>(floor - core::negligible_nats);
  struct Entry {
    std::uint8_t known;
    float upper;
  };
  for_each_loaded(
      groups.begin(g), groups.end(g),
      [&](std::size_t k) {
        const std::size_t at = scores.at(i, k);
        return Entry{scores.known[at], space.upper[at]};
      },
      [&](std::size_t k, const Entry& entry) {
        if (entry.known == known_nothing && !(entry.upper < least)) visit(k);
      });
}

// One thread per row and group.
__global__ void survivors_kernel(GroupView groups, ScoreView scores, ScreenSpace space) {
  const auto [i, g] = cell_of_thread(scores);
  if (g >= groups.count || scores.skips(i)) return;
  for_each_survivor(groups, scores, space, i, g, find_floor(scores, groups, i, g),
                    [&](std::size_t k) { scores.marks[scores.at(i, k)] = 1; });
}

// One thread per row, of one group. What is skipped already is done.
__global__ void done_kernel(GroupView groups, ScoreView scores, ScreenSpace space, std::uint8_t* done) {
  const std::size_t i = task_index();
  if (i >= scores.n) return;
  if (scores.skips(i)) {
    done[i] = 1;
    return;
  }
  const double floor = find_floor(scores, groups, i, 0);
  bool is_done = std::isfinite(floor);
  for_each_survivor(groups, scores, space, i, 0, floor, [&](std::size_t) { is_done = false; });
  done[i] = is_done;
}

}  // namespace

void screen_by_coordinates(Stream stream, const ModelView& model, const ScreenView& screen, const GroupView& groups,
                           const ScoreView& scores, const ScreenSpace& space) {
  fill_zero(stream, scores.marks, model.n_components * scores.stride);
  unsigned warps = most_bound_warps;
  while (warps > 1 && bound_memory(screen.n_directions, warps) > room_in_block()) warps /= 2;
  const auto launch_for = [&](auto steps) {
    launch_with_memory(stream, ceil_div(scores.n, warps * warp_rows), warps * warp_size,
                       bound_memory(screen.n_directions, warps), bounds_kernel<steps>, model, screen, groups, scores,
                       space);
  };
  // Numbers of directions that a subspace may have.
  if (screen.n_directions == 16) launch_for(std::integral_constant<unsigned, 2>{});
  else if (screen.n_directions == 32) launch_for(std::integral_constant<unsigned, 4>{});
  else if (screen.n_directions == 48) launch_for(std::integral_constant<unsigned, 6>{});
  else if (screen.n_directions == 64) launch_for(std::integral_constant<unsigned, 8>{});
  else if (screen.n_directions == 96) launch_for(std::integral_constant<unsigned, 12>{});
  else if (screen.n_directions == 128) launch_for(std::integral_constant<unsigned, 16>{});
  else throw std::logic_error("screening has no kernel for " + std::to_string(screen.n_directions) + " directions");
}

void mark_survivors(Stream stream, std::size_t n_components, const GroupView& groups, const ScoreView& scores,
                    const ScreenSpace& space) {
  fill_zero(stream, scores.marks, n_components * scores.stride);
  launch_tasks(stream, groups.count * scores.n, survivors_kernel, groups, scores, space);
}

void find_done(Stream stream, const GroupView& groups, const ScoreView& scores, const ScreenSpace& space, std::uint8_t* done) {
  launch_tasks(stream, scores.n, done_kernel, groups, scores, space, done);
}

}  // namespace mfa::cuda
