#include "screening.hpp"

#include <cmath>
#include <limits>

#include "core/rule.hpp"
#include "core/screening.hpp"
#include "short_floats.hpp"
#include "tensor.hpp"

namespace mfa::cuda {
namespace {

// A warp has so many rows, sixteen to a matrix, so that columns are read once for all of them; a block so many warps.
constexpr unsigned matrix_rows = 16, matrices = 2;
constexpr unsigned bound_warps = 4;
constexpr unsigned bound_threads = bound_warps * warp_size;
constexpr unsigned bound_rows = bound_warps * matrices * matrix_rows;
// Tiles of columns that a block copies at once, those that its rows are multiplied by at once, and such stages that it has.
constexpr unsigned tiles_at_once = 4;
constexpr unsigned tiles_in_hand = 2;
constexpr unsigned column_stages = 2;
template <unsigned Steps>
struct Stage {
  ColumnPart columns[tiles_at_once * Steps * warp_size];
  TwoColumnTerms terms[tiles_at_once * tile_columns / 2];
};

// Sixteen rows, as tensor cores take them, R directions in Steps of sixteen.
template <unsigned Steps>
struct MatrixRows {
  tensor::Left16 steps[Steps];

  // A lane has rows g and g + 8: those of `reads`, and 0 for others.
  __device__ void read(const FourHalves* coordinates, const std::size_t (&rows)[2], const bool (&reads)[2]) {
#pragma unroll
    for (unsigned s = 0; s < Steps; ++s)
#pragma unroll
      for (unsigned r = 0; r < 2; ++r) {
        const FourHalves four = reads[r] ? coordinates[(rows[r] * Steps + s) * 4 + tensor::lane().c] : FourHalves{};
        steps[s][r] = four.pairs[0];
        steps[s][2 + r] = four.pairs[1];
      }
  }
  // |y|^2 of one of the lane's rows.
  __device__ double norm(unsigned r) const {
    double part = 0.0;
    const auto add = [&](float value) { part += static_cast<double>(value) * static_cast<double>(value); };
#pragma unroll
    for (unsigned s = 0; s < Steps; ++s)
#pragma unroll
      for (unsigned half = 0; half < 2; ++half) {
        add(lower(steps[s][2 * half + r]));
        add(upper(steps[s][2 * half + r]));
      }
    return tensor::row_sum(part);
  }
};

// Of one row: what bounds are made of besides its product. The first is in screen.length_of_one.
struct RowTerms {
  float y_norm, shift, outside, likely_outside;  // the last as it comes, without rounding
};
__device__ RowTerms row_terms(double y_norm, double norm, float shift, const ScreenView& screen) {
  constexpr double margin = 4.0 * std::numeric_limits<float>::epsilon();
  const double square = y_norm * screen.length_of_one * screen.length_of_one;
  return {static_cast<float>(y_norm), shift, static_cast<float>(core::outside_length(norm, square, shift) * (1.0 - margin)),
          static_cast<float>(std::sqrt(core::positive(norm - square)))};
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
__device__ Bound bound(const ScreenView& screen, std::size_t n_factors, const ComponentTerms& terms, const RowTerms& row,
                       const RowProducts& products) {
  const core::Outside<float> x{row.outside, row.shift + terms.shift};
  const core::Leftover<float> left{terms.mean_left, terms.spread, terms.inverse_noise_root, terms.inverse_weight};
  const float norms = (row.y_norm + terms.mean_norm) * terms.inverse_noise;
  const float dot = products.dot * terms.inverse_noise;
  const float c = core::shadow_distance(norms, dot, products.explained * terms.inverse_scale);
  const float rounding =
      core::shadow_distance_error(norms, static_cast<float>(n_factors), screen.epsilon, terms.model_error);
  const float error = rounding + terms.column_error * (core::shadow_distance(norms, dot, 0.0f) + rounding);
  const float moved = products.moved * terms.inverse_scale;
  const float q = core::mahalanobis_lower_bound(c, moved, error, x, left, terms.spread_root);
  const float likely = core::mahalanobis_without_rounding(c, moved, row.likely_outside, left);
  return {core::log_density_bound(terms.log_normalizer, q),
          terms.log_normalizer - 0.5f * core::mahalanobis_guess(likely, c, row.likely_outside, left)};
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

// What a lane knows of its row of a matrix while a warp goes through the components. Of the four lanes of rows g and g + 8 two
// have a row each, of which each makes the bound of one of two components.
struct LaneRow {
  std::size_t i;
  bool is_row;
  RowTerms terms;
  Products products;
  RowProducts first_of_two;
  Best best;
};

// The block goes through all components together, whose columns stand in whole tiles. Bounds are made for two components of a
// group at once. In every group the highest guess is marked, unless it is known already.
template <unsigned Steps>
__global__ void __launch_bounds__(bound_threads, Steps > 6 ? 3 : 4)
    bounds_kernel(ModelView model, ScreenView screen, GroupView groups, ScoreView scores, ScreenSpace space) {
  __shared__ __align__(16) Stage<Steps> stages[column_stages];
  const unsigned warp = threadIdx.x / warp_size;
  const unsigned lane = threadIdx.x % warp_size;
  const std::size_t n = scores.n_live();
  const std::size_t block_first = static_cast<std::size_t>(blockIdx.x) * bound_rows;
  if (block_first >= n) return;  // a whole block

  const std::size_t L = model.n_factors;
  const auto component_tiles = static_cast<unsigned>(screen.component_tiles);
  const auto all_tiles = static_cast<unsigned>(model.n_components) * component_tiles;
  const auto stage_of = [&](unsigned start) -> Stage<Steps>& { return stages[start / tiles_at_once % column_stages]; };
  const auto fetch = [&](unsigned start) {
    const unsigned tiles = all_tiles - start < tiles_at_once ? all_tiles - start : tiles_at_once;
    Stage<Steps>& to = stage_of(start);
    const ColumnPart* columns = screen.columns + static_cast<std::size_t>(start) * Steps * warp_size;
    for (unsigned part = threadIdx.x; part < tiles * Steps * warp_size; part += bound_threads)
      copy_to_block<sizeof(ColumnPart)>(to.columns + part, columns + part);
    const auto* terms =
        reinterpret_cast<const TwoColumnTerms*>(screen.column_terms + static_cast<std::size_t>(start) * tile_columns);
    if (threadIdx.x < tiles * tile_columns / 2)
      copy_to_block<sizeof(TwoColumnTerms)>(to.terms + threadIdx.x, terms + threadIdx.x);
  };
  fetch(0);
  commit_copies();

  const tensor::Lane own = tensor::lane();
  const bool odd = own.c % 2 != 0;
  const bool has_second = own.c / 2 != 0;
  MatrixRows<Steps> y[matrices];
  LaneRow of_lane[matrices];
#pragma unroll
  for (unsigned m = 0; m < matrices; ++m) {
    std::size_t rows[2];
    bool reads[2];
#pragma unroll
    for (unsigned r = 0; r < 2; ++r) {
      const std::size_t place = block_first + (warp * matrices + m) * matrix_rows + own.g + 8 * r;
      reads[r] = place < n;
      rows[r] = reads[r] ? scores.live_row(place) : 0;
    }
    y[m].read(space.coordinates, rows, reads);
    const double y_norms[2] = {y[m].norm(0), y[m].norm(1)};
    LaneRow& row = of_lane[m];
    row.i = odd ? rows[1] : rows[0];
    row.is_row = odd ? reads[1] : reads[0];
    row.terms = row_terms(odd ? y_norms[1] : y_norms[0], scores.norms[row.i], space.shifts[row.i], screen);
    row.best = {.component = 0};
  }
  unsigned k = 0, tile_of_component = 0, group = 0;
  std::size_t group_end = groups.end(0);
  bool waits = false;  // the first of two components for the second
  const auto take_tile = [&](const Stage<Steps>& stage, unsigned t, const tensor::Sums (&sums)[matrices]) {
    const TwoColumnTerms two = stage.terms[t * tile_columns / 2 + own.c];
#pragma unroll
    for (unsigned e = 0; e < 4; ++e) {
      const bool is_mean = tile_of_component * tile_columns + 2 * own.c + e % 2 == L;
      const ColumnTerms terms = two.of[e % 2];
#pragma unroll
      for (unsigned m = 0; m < matrices; ++m) {
        const float v = sums[m][e] - terms.projected_mean;
        Products& products = of_lane[m].products;
        if (is_mean) {
          products.dot[e / 2] += v;
        } else {
          products.explained[e / 2] += v * v;
          products.moved[e / 2] += v * v * terms.spread;
        }
      }
    }
    if (++tile_of_component < component_tiles) return;
    tile_of_component = 0;
    RowProducts half_of_row[matrices];
#pragma unroll
    for (unsigned m = 0; m < matrices; ++m) {
      half_of_row[m] = of_two_lanes(of_lane[m].products, odd);
      of_lane[m].products = {};
    }
    const bool ends_group = ++k == group_end;
    if (!waits && !ends_group) {
#pragma unroll
      for (unsigned m = 0; m < matrices; ++m) of_lane[m].first_of_two = half_of_row[m];
      waits = true;
      return;
    }
    const unsigned own_component = (waits ? k - 2 : k - 1) + (has_second ? 1 : 0);
    RowProducts of_row[matrices];
#pragma unroll
    for (unsigned m = 0; m < matrices; ++m)
      of_row[m] = waits ? of_all_lanes(of_lane[m].first_of_two, half_of_row[m], has_second)
                        : of_all_lanes(half_of_row[m], {}, has_second);
    if (own_component < k) {
      const ComponentTerms terms = screen.terms[own_component];  // read once for all rows
#pragma unroll
      for (unsigned m = 0; m < matrices; ++m) {
        LaneRow& row = of_lane[m];
        const Bound known = bound(screen, L, terms, row.terms, of_row[m]);
        if (row.is_row) space.upper[scores.at(row.i, own_component)] = known.upper;
        row.best.add(known.guess, own_component);
      }
    }
#pragma unroll
    for (unsigned m = 0; m < matrices; ++m) {
      LaneRow& row = of_lane[m];
      if (!ends_group) continue;
      const float other_guess = __shfl_xor_sync(all_lanes, row.best.guess, 2);
      row.best.add(other_guess, __shfl_xor_sync(all_lanes, row.best.component, 2));
      if (!has_second && row.is_row) {
        const std::size_t at = scores.at(row.i, row.best.component);
        scores.marks[at] = scores.known[at] == known_nothing;
      }
      row.best = {.component = k};
    }
    waits = false;
    if (ends_group && k < model.n_components) group_end = groups.end(++group);
  };
  for (unsigned start = 0; start < all_tiles; start += tiles_at_once) {
    await_copies<0>();
    __syncthreads();  // all have come, and the others are done with
    if (start + tiles_at_once < all_tiles) fetch(start + tiles_at_once);
    commit_copies();
    const Stage<Steps>& stage = stage_of(start);
#pragma unroll 1
    for (unsigned in_hand = 0; in_hand < tiles_at_once; in_hand += tiles_in_hand) {
      if (start + in_hand >= all_tiles) continue;
      tensor::Sums sums[tiles_in_hand][matrices] = {};
#pragma unroll
      for (unsigned s = 0; s < Steps; ++s)
#pragma unroll
        for (unsigned t = 0; t < tiles_in_hand; ++t) {
          const ColumnPart column = stage.columns[((in_hand + t) * Steps + s) * warp_size + lane];
#pragma unroll
          for (unsigned m = 0; m < matrices; ++m) tensor::multiply_add(sums[t][m], y[m].steps[s], column.low.pairs);
#pragma unroll
          for (unsigned m = 0; m < matrices; ++m) tensor::multiply_add(sums[t][m], y[m].steps[s], column.high.pairs);
        }
#pragma unroll
      for (unsigned t = 0; t < tiles_in_hand; ++t)
        if (start + in_hand + t < all_tiles) take_tile(stage, in_hand + t, sums[t]);
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
  for_directions<tensor_depth>(screen.n_directions, [&](auto steps) {
    launch(stream, ceil_div(scores.n, bound_rows), bound_threads, bounds_kernel<steps>, model, screen, groups,
           scores, space);
  });
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
