#include "screening.hpp"

#include <cmath>
#include <limits>

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
// Features that a warp copies at once, some such slices ahead; and the steps of sixteen that are summed on tensor cores before
// the sums go on by ordinary additions.
constexpr unsigned slice_features = 32;
constexpr unsigned slice_steps = slice_features / basis_features;
constexpr unsigned slices_at_once = 3;
constexpr unsigned run_steps = 4;

// Of rows g and g + 8, features 4 c to 4 c + 3 of every sixteen: what a lane multiplies, it has copied itself.
template <class S>
struct Slice {
  Four<S> fours[slice_steps][2][warp_size];
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

  __device__ void add(const Split& x, const BasisPart* directions) {
    BasisPart own[Tiles];
#pragma unroll
    for (unsigned t = 0; t < Tiles; ++t) own[t] = directions[t * warp_size];
#pragma unroll
    for (unsigned t = 0; t < Tiles; ++t) tensor::multiply_add(run[t], x.low, own[t].high);
#pragma unroll
    for (unsigned t = 0; t < Tiles; ++t) tensor::multiply_add(run[t], x.high, own[t].low);
#pragma unroll
    for (unsigned t = 0; t < Tiles; ++t) tensor::multiply_add(run[t], x.high, own[t].high);
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

// Warps need nothing of each other; directions they find in the processor's cache, as all read the same.
template <class S, unsigned Tiles>
__global__ void __launch_bounds__(coordinate_threads, 2)
    coordinates_kernel(Rows<S> rows, ScreenView screen, std::size_t d, ScoreView scores, float* coordinates,
                       std::int64_t* bad_row) {
  constexpr unsigned ahead = slices_at_once - 1;
  const unsigned warp = threadIdx.x / warp_size;
  const unsigned lane = threadIdx.x % warp_size;
  const tensor::Lane own = tensor::lane();
  auto* slices = reinterpret_cast<Slice<S>*>(block_memory()) + warp * slices_at_once;
  const auto R = static_cast<unsigned>(screen.n_directions);
  const unsigned all_tiles = R / tile_directions;
  const unsigned shares = (all_tiles + Tiles - 1) / Tiles;
  const unsigned share = blockIdx.x % shares;
  // Of the last share some tiles may be the one's before as well.
  const unsigned first_tile = share * Tiles < all_tiles - Tiles ? share * Tiles : all_tiles - Tiles;
  const std::size_t first = static_cast<std::size_t>(blockIdx.x / shares) * block_rows + warp * warp_rows + own.g;
  const auto is_read = [&](std::size_t i) { return i < scores.n && !scores.skips(i); };
  const bool reads[2] = {is_read(first), is_read(first + 8)};
  const S* from[2];
#pragma unroll
  for (unsigned r = 0; r < 2; ++r) {
    from[r] = rows.row(reads[r] ? first + 8 * r : 0) + 4 * own.c;
    if (reads[r]) continue;
    for (unsigned s = 0; s < slices_at_once; ++s)
      for (auto& step : slices[s].fours) step[r][lane] = {};
  }

  double squares[2] = {};
  CoordinateSums<Tiles> products;
  const BasisPart* const basis = screen.basis + first_tile * warp_size + lane;
  const auto add_step = [&](std::size_t step, const Four<S> (&values)[2], unsigned left) {
    const std::size_t j = step * basis_features + 4 * own.c;
    const Four<float> center = load_four(screen.center + j, left, true);
    float x[2][4];
#pragma unroll
    for (unsigned r = 0; r < 2; ++r)
#pragma unroll
      for (unsigned f = 0; f < 4; ++f) x[r][f] = f < left ? centered(values[r].values[f], center.values[f]) : 0.0f;
    if (screen.scale != nullptr) {
      const Four<float> scale = load_four(screen.scale + j, left, true);
#pragma unroll
      for (unsigned r = 0; r < 2; ++r)
#pragma unroll
        for (unsigned f = 0; f < 4; ++f) x[r][f] *= scale.values[f];
    }
#pragma unroll
    for (unsigned r = 0; r < 2; ++r)
#pragma unroll
      for (unsigned f = 0; f < 4; ++f) squares[r] += static_cast<double>(x[r][f]) * static_cast<double>(x[r][f]);
    products.add(split(x), basis + step * all_tiles * warp_size);
  };

  const std::size_t whole = rows.has_aligned_fours() ? d / slice_features : 0;
  unsigned coming = 0, now = 0;
  const auto move_on = [](unsigned& slice) { slice = slice + 1 == slices_at_once ? 0 : slice + 1; };
  for (std::size_t s = 0; s < whole + ahead; ++s) {
    if (s >= ahead) await_copies<ahead - 1>();
    if (s < whole) {
#pragma unroll
      for (unsigned step = 0; step < slice_steps; ++step)
#pragma unroll
        for (unsigned r = 0; r < 2; ++r)
          if (reads[r])
            copy_to_block<sizeof(Four<S>), true>(&slices[coming].fours[step][r][lane],
                                                 from[r] + s * slice_features + step * basis_features);
      move_on(coming);
    }
    commit_copies();
    if (s < ahead) continue;
#pragma unroll
    for (unsigned step = 0; step < slice_steps; ++step) {
      const auto& fours = slices[now].fours[step];
      add_step((s - ahead) * slice_steps + step, {fours[0][lane], fours[1][lane]}, 4);
    }
    move_on(now);
    if ((s - ahead + 1) * slice_steps % run_steps == 0) products.end_run();
  }
  for (std::size_t step = whole * slice_steps; step * basis_features < d; ++step) {
    const std::size_t j = step * basis_features + 4 * own.c;
    const unsigned left = j >= d ? 0 : d - j < 4 ? static_cast<unsigned>(d - j) : 4;
    const auto values = [&](unsigned r) {
      return load_four(from[r] + step * basis_features, reads[r] ? left : 0, rows.has_aligned_fours());
    };
    add_step(step, {values(0), values(1)}, left);
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

constexpr unsigned most_bound_warps = 8;
// Tiles of columns that a block copies, and multiplies its rows by, at once.
constexpr unsigned tiles_at_once = 4;
constexpr unsigned column_stages = 2;

// A block's memory: coordinates, in rows that are longer than they need be, so that the lanes' parts of them lie in different
// banks; and columns.
constexpr unsigned padding = 8;
inline std::size_t bound_memory(std::size_t n_directions, unsigned warps) {
  return warps * warp_rows * (n_directions + padding) * sizeof(float) +
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

// What a component's columns add up to: |v|^2, sum_l beta_l v_l^2 and the product with the mean. In the two rows of a lane; or
// in one, of all of its lanes' columns or of some.
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
          terms.log_normalizer - 0.5f * core::mahalanobis_guess(c, x, left)};
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
// for two components of a group at once, by two lanes of a row each. In every group the highest guess is marked.
__global__ void __launch_bounds__(most_bound_warps * warp_size, 3)
    bounds_kernel(ModelView model, ScreenView screen, std::size_t d, GroupView groups, ScoreView scores,
                  ScreenSpace space) {
  __shared__ int any_wanted;
  const auto R = static_cast<unsigned>(screen.n_directions);
  const unsigned steps = R / tensor_depth;
  const unsigned row_length = R + padding;
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
  const unsigned stage_parts = tiles_at_once * steps * warp_size;
  const auto fetch = [&](unsigned start) {
    ColumnPart* to = columns + start / tiles_at_once % column_stages * stage_parts;
    const unsigned count = (all_tiles - start < tiles_at_once ? all_tiles - start : tiles_at_once) * steps * warp_size;
    for (unsigned part = threadIdx.x; part < count; part += blockDim.x)
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
  const bool has_second = own.c / 2 != 0;
  const unsigned r = own.g + (odd ? 8 : 0);
  const RowTerms of_lane = row_terms(y, screen, d, scores, space, first);
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
      const auto* column_terms = reinterpret_cast<const Four<float>*>(
          screen.column_terms + static_cast<std::size_t>(start + t) * tile_columns + 2 * own.c);
      const Four<float> of_two = *column_terms;
#pragma unroll
      for (unsigned e = 0; e < 4; ++e) {
        const unsigned l = tile_of_component * tile_columns + 2 * own.c + e % 2;
        const float v = sums[t][e] - of_two.values[e % 2 * 2];
        if (l == L) {
          products.dot[e / 2] += v;
        } else {
          products.explained[e / 2] += v * v;
          products.moved[e / 2] += v * v * of_two.values[e % 2 * 2 + 1];
        }
      }
      if (++tile_of_component < component_tiles) continue;
      tile_of_component = 0;
      const RowProducts of_two_columns = of_two_lanes(products, odd);
      products = {};
      const bool ends_group = ++k == group_end;
      if (!waits && !ends_group) {
        first_of_two = of_two_columns;
        waits = true;
        continue;
      }
      const unsigned first_component = waits ? k - 2 : k - 1;
      const unsigned own_component = first_component + (has_second ? 1 : 0);
      const RowProducts of_row =
          waits ? of_all_lanes(first_of_two, of_two_columns, has_second) : of_all_lanes(of_two_columns, {}, has_second);
      waits = false;
      if (own_component < k) {
        const Bound known = bound(screen, L, own_component, row, of_row);
        if (i < scores.n) space.upper[scores.at(i, own_component)] = known.upper;
        best.add(known.guess, own_component);
      }
      if (!ends_group) continue;
      const float other_guess = __shfl_xor_sync(all_lanes, best.guess, 2);
      best.add(other_guess, __shfl_xor_sync(all_lanes, best.component, 2));
      if (!has_second && i < scores.n && !scores.skips(i)) scores.marks[scores.at(i, best.component)] = 1;
      best = {.component = k};
      if (k < model.n_components) group_end = groups.end(++group);
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
  const std::size_t tiles = screen.n_directions / tile_directions;
  const std::size_t shares = ceil_div(tiles, most_block_tiles);
  const std::size_t share_tiles = ceil_div(tiles, 2 * shares) * 2;
  const auto launch_one = [&](auto kernel) {
    launch_with_memory(stream, shares * ceil_div(scores.n, block_rows), coordinate_threads,
                       coordinate_warps * slices_at_once * sizeof(Slice<S>), kernel, rows, screen, model.n_features, scores,
                       space.coordinates, bad_row);
  };
  if (share_tiles == 2) launch_one(coordinates_kernel<S, 2>);
  else if (share_tiles == 4) launch_one(coordinates_kernel<S, 4>);
  else if (share_tiles == 6) launch_one(coordinates_kernel<S, 6>);
  else launch_one(coordinates_kernel<S, most_block_tiles>);
  if (space.moving != nullptr)
    launch_tasks(stream, scores.n, start_coordinates_kernel, screen, model.n_features, scores, space);
  screen_by_coordinates(stream, model, screen, groups, scores, space);
}

void screen_by_coordinates(Stream stream, const ModelView& model, const ScreenView& screen, const GroupView& groups,
                           const ScoreView& scores, const ScreenSpace& space) {
  fill_zero(stream, scores.known, model.n_components * scores.stride);
  fill_zero(stream, scores.marks, model.n_components * scores.stride);
  unsigned warps = most_bound_warps;
  while (warps > 1 && bound_memory(screen.n_directions, warps) > room_in_block()) warps /= 2;
  launch_with_memory(stream, ceil_div(scores.n, warps * warp_rows), warps * warp_size,
                     bound_memory(screen.n_directions, warps), bounds_kernel, model, screen, model.n_features, groups,
                     scores, space);
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
