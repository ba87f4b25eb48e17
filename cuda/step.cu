#include "step.hpp"

#include <cmath>
#include <limits>

#include "core/gaussian.hpp"
#include "core/quadric.hpp"
#include "tile_products.hpp"

namespace mfa::cuda {
namespace {

// One thread per row.
__global__ void mark_targets_kernel(PairView pairs, ScoreView scores) {
  const std::size_t i = task_index();
  if (i < scores.n && !pairs.done[i]) scores.marks[scores.at(i, static_cast<std::size_t>(pairs.targets[i]))] = 1;
}

// One thread per place in the list by targets: it is marked under its row's source.
__global__ void mark_sources_kernel(std::size_t n_components, PairView pairs, EntryView by_target, ScoreView scores) {
  const std::size_t place = task_index();
  if (place >= static_cast<std::size_t>(by_target.starts[n_components])) return;
  const int source = pairs.sources[by_target.rows[place]];
  scores.marks[scores.at(place, static_cast<std::size_t>(source))] = 1;
}

// Places become their rows. One thread per entry.
__global__ void rows_of_places_kernel(std::size_t n_components, EntryView by_target, EntryView entries) {
  const std::size_t entry = task_index();
  if (entry < static_cast<std::size_t>(entries.starts[n_components]))
    entries.rows[entry] = by_target.rows[entries.rows[entry]];
}

// Rows of one pair, and where this lane's factors of them are.
struct PairTile {
  Tile members;
  std::size_t components[2];  // source, target
  const double* z[2][row_matrices];
};

__device__ PairTile pair_tile(const ScoreView& scores, const Tile& members, std::size_t target, std::size_t K,
                              std::size_t L) {
  PairTile tile{members, {members.component, target}, {}};
#pragma unroll
  for (unsigned m = 0; m < row_matrices; ++m) {
    const std::size_t i = members.row(m * matrix_rows + tensor::lane().g);
    for (unsigned e = 0; e < 2; ++e) tile.z[e][m] = scores.factors + (i * K + tile.components[e]) * L;
  }
  return tile;
}

// Lines of a stage: of each end its mean and, where there is one, its inverse noise; then the centre, and both loadings.
__device__ unsigned mean_line(unsigned e) { return 2 * e; }
__device__ unsigned weight_line(unsigned e) { return 2 * e + 1; }
constexpr unsigned center_line = 4;
__device__ unsigned loadings_line(unsigned e, std::size_t L) { return 5 + e * static_cast<unsigned>(L); }
std::size_t line_count(std::size_t L) { return 5 + (L <= most_staged_factors ? 2 * L : 0); }

template <class T>
__device__ void fetch(const Stage<T>& stage, const Rows<T>& rows, bool in_line, const ModelView& model,
                      const PairTile& tile, std::size_t start) {
  const std::size_t L = model.n_factors;
  const std::size_t d = model.n_features;
  stage.fetch_rows([&](unsigned r) { return rows.row(tile.members.row(r)); }, in_line, start, d);
  for (unsigned e = 0; e < 2; ++e) {
    const std::size_t k = tile.components[e];
    const double* inverse_noise = model.component_inverse_noise(k);
    stage.fetch_lines(mean_line(e), 1, model.component_mean(k), start, d);
    if (inverse_noise != nullptr) stage.fetch_lines(weight_line(e), 1, inverse_noise, start, d);
    if (L <= most_staged_factors)
      stage.fetch_lines(loadings_line(e, L), static_cast<unsigned>(L), model.component_loadings(k), start, d);
  }
  stage.fetch_lines(center_line, 1, model.center, start, d);
}

template <class T>
__device__ double weight(const Stage<T>& stage, const ModelView& model, const PairTile& tile, unsigned e, unsigned f) {
  return model.inverse_noise == nullptr ? model.inverse_scalars[tile.components[e]]
                                        : stage.line(weight_line(e))[lane_feature(f)];
}

template <class T>
__device__ Loadings loadings_of(const Stage<T>& stage, const ModelView& model, const PairTile& tile, unsigned e,
                                std::size_t start) {
  const std::size_t L = model.n_factors;
  return loadings_in(stage, loadings_line(e, L), model.component_loadings(tile.components[e]), L, start,
                     model.n_features);
}

// g = S_t^-1 (x - mu_t) - S_s^-1 (x - mu_s), in the lane's part of a stage.
template <class T>
__device__ void make_gradient(const Stage<T>& stage, const ModelView& model, const PairTile& tile, std::size_t start,
                              TilePart& g) {
#pragma unroll
  for (unsigned e = 0; e < 2; ++e) {
    const double* mean = stage.line(mean_line(e));
    TilePart rest;
#pragma unroll
    for (unsigned f = 0; f < 4; ++f)
#pragma unroll
      for (unsigned m = 0; m < row_matrices; ++m) rest[m][f] = stage.value(m, f) - mean[lane_feature(f)];
    subtract_explained(rest, loadings_of(stage, model, tile, e, start), static_cast<unsigned>(model.n_factors),
                       model.n_features - start, [&](unsigned m, unsigned l) { return tile.z[e][m][l]; });
#pragma unroll
    for (unsigned f = 0; f < 4; ++f) {
      const double by = weight(stage, model, tile, e, f);
#pragma unroll
      for (unsigned m = 0; m < row_matrices; ++m) g[m][f] = e == 0 ? -rest[m][f] * by : g[m][f] + rest[m][f] * by;
    }
  }
}

// Numbers of a row that are summed over its features.
constexpr unsigned gradient_square = 0, curvature = 1, row_square = 2, first_numbers = 3;
constexpr unsigned end_square = 0, moved_square = 1, last_numbers = 2;
constexpr unsigned first_width = 2 * tile_columns + first_numbers;
using Parts = double (*)[tile_entries][first_width];

// Computes  a for the thread's row, four threads to each.
template <class T>
__device__ double step_length(const Rows<T>& rows, bool in_line, const ModelView& model, const PairTile& tile, double gap,
                              double overshoot, double* products, const StageMemory& memory, Parts parts) {
  const auto L = static_cast<unsigned>(model.n_factors);
  const unsigned warp = threadIdx.x / warp_size;
  const unsigned row = threadIdx.x / tile_sharers;
  const unsigned sharer = threadIdx.x % tile_sharers;
  double numbers[first_numbers] = {};
  for (unsigned first = 0; first == 0 || first < L; first += tile_columns) {
    double sums[2][row_matrices][2] = {};  // A^T D^-1 g, of both ends
    double squares[first_numbers][row_matrices] = {};
    for_each_stage<T>(
        memory, model.n_features,
        [&](const Stage<T>& stage, std::size_t start) { fetch(stage, rows, in_line, model, tile, start); },
        [&](const Stage<T>& stage, std::size_t start) {
          TilePart g;
          make_gradient(stage, model, tile, start, g);
#pragma unroll
          for (unsigned f = 0; f < 4; ++f)
#pragma unroll
            for (unsigned m = 0; m < row_matrices; ++m) {
              squares[gradient_square][m] += g[m][f] * g[m][f];
              squares[row_square][m] += stage.value(m, f) * stage.value(m, f);
            }
#pragma unroll
          for (unsigned e = 0; e < 2; ++e) {
            TilePart weighted;
#pragma unroll
            for (unsigned f = 0; f < 4; ++f) {
              const double by = weight(stage, model, tile, e, f);
#pragma unroll
              for (unsigned m = 0; m < row_matrices; ++m) {
                weighted[m][f] = g[m][f] * by;
                squares[curvature][m] += (e == 0 ? -0.5 : 0.5) * weighted[m][f] * g[m][f];
              }
            }
            add_products(sums[e], weighted, loadings_of(stage, model, tile, e, start), L, first);
          }
        });
    store_products(sums, parts[warp]);
    store_numbers(squares, 2 * tile_columns, parts[warp]);
    __syncthreads();
    for (unsigned at = sharer; at < first_width; at += tile_sharers) {
      double sum = 0.0;
      for (unsigned w = 0; w < tile_block_warps; ++w) sum += parts[w][row][at];
      const unsigned l = first + at % tile_columns;
      if (at >= 2 * tile_columns) numbers[at - 2 * tile_columns] = sum;
      else if (l < L) products[(at / tile_columns * tile_entries + row) * L + l] = sum;
    }
    __syncthreads();
  }
  // g^T S^-1 g = g^T D^-1 g - |C^-1 A^T D^-1 g|^2
  double explained = 0.0;
  if (sharer < 2) {
    double* b = products + (sharer * tile_entries + row) * L;
    core::solve_lower(L, model.component_cholesky(tile.components[sharer]), b);
    explained = (sharer == 0 ? 0.5 : -0.5) * core::squared_norm(L, b);
  }
  const auto of_row = [&](unsigned number) { return tensor::row_sum(numbers[number]); };
  const double b = of_row(gradient_square);
  const double c = of_row(curvature) + tensor::row_sum(explained);
  const double x_norm = std::sqrt(of_row(row_square));
  if (!(b > 0.0) || !std::isfinite(gap)) return 0.0;  // the two are one and the same, or one has weight 0
  const double norm = std::sqrt(b);
  return core::with_overshoot(std::abs(core::step_to_zero(gap, b, c)) * norm, overshoot, x_norm,
                              std::numeric_limits<T>::epsilon()) /
         norm;
}

// Moves the rows by their lengths along -g; returns the thread's row's |x - center|^2 and how far it was moved, squared, to the
// first of its four threads.
struct Moved {
  double square, distance;
};
template <class T>
__device__ Moved move_rows(const Rows<T>& rows, bool in_line, const ModelView& model, const PairTile& tile,
                           const double* lengths, const StepLimits& limits, T* out, const StageMemory& memory, Parts parts) {
  const std::size_t d = model.n_features;
  const unsigned warp = threadIdx.x / warp_size;
  double squares[last_numbers][row_matrices] = {};
  for_each_stage<T>(
      memory, d,
      [&](const Stage<T>& stage, std::size_t start) { fetch(stage, rows, in_line, model, tile, start); },
      [&](const Stage<T>& stage, std::size_t start) {
        TilePart g;
        make_gradient(stage, model, tile, start, g);
        const double* center = stage.line(center_line);
#pragma unroll
        for (unsigned m = 0; m < row_matrices; ++m) {
          const unsigned r = m * matrix_rows + tensor::lane().g;
          const double length = lengths[r];
#pragma unroll
          for (unsigned f = 0; f < 4; ++f) {
            const std::size_t j = start + warp * warp_features + lane_feature(f);
            const double before = stage.value(m, f);
            const double there = before - length * g[m][f];
            const double above = there < limits.low ? limits.low : there;
            const auto moved = static_cast<T>(length == 0.0 ? before : above > limits.high ? limits.high : above);
            const auto after = static_cast<double>(moved);
            if (j >= d) continue;
            squares[end_square][m] += (after - center[lane_feature(f)]) * (after - center[lane_feature(f)]);
            squares[moved_square][m] += (after - before) * (after - before);
            if (r < tile.members.count) out[tile.members.row(r) * d + j] = moved;
          }
        }
      });
  store_numbers(squares, 0, parts[warp]);
  __syncthreads();
  double sums[last_numbers] = {};
  for (unsigned number = 0; number < last_numbers; ++number)
    for (unsigned w = 0; w < tile_block_warps; ++w) sums[number] += parts[w][threadIdx.x / tile_sharers][number];
  __syncthreads();
  return {sums[end_square], sums[moved_square]};
}

// Blocks take tile after tile of rows of one source, sorted by their targets.
template <class T>
__global__ void __launch_bounds__(tile_block_threads, 2)
    step_kernel(Rows<T> rows, ModelView model, PairView pairs, EntryView entries, ScoreView scores, StepLimits limits,
                StepView steps, StepOutput<T> out, double* scratch, std::size_t stage_bytes, unsigned n_stages) {
  __shared__ double parts[tile_block_warps][tile_entries][first_width];
  __shared__ double lengths[tile_entries];
  const std::size_t K = model.n_components;
  const std::size_t L = model.n_factors;
  const bool in_line = rows.has_aligned_fours();
  const StageMemory memory{block_memory(), stage_bytes, n_stages};
  double* products = scratch + blockIdx.x * 2 * tile_entries * L;
  const unsigned row = threadIdx.x / tile_sharers;
  const unsigned place = threadIdx.x % warp_size;  // there are as many lanes as entries
  const int tiles = entries.tile_starts[K];
  for (int at = static_cast<int>(blockIdx.x); at < tiles; at += static_cast<int>(gridDim.x)) {
    const Tile all = tile_at(entries, K, at);
    const int target_of_place = pairs.targets[all.row(place)];
    for (unsigned begin = 0; begin < all.count;) {
      const int target = pairs.targets[all.rows[begin]];
      const auto count = static_cast<unsigned>(
          __popc(__ballot_sync(all_lanes, place >= begin && place < all.count && target_of_place == target)));
      const Tile members{all.component, all.rows + begin, count};
      begin += count;
      const PairTile tile = pair_tile(scores, members, static_cast<std::size_t>(target), K, L);
      const std::size_t i = members.row(row);
      const double a =
          step_length(rows, in_line, model, tile, pairs.gaps[i], limits.overshoot, products, memory, parts);
      const bool first_of_row = threadIdx.x % tile_sharers == 0;
      if (first_of_row) lengths[row] = a;
      __syncthreads();
      const Moved moved = move_rows(rows, in_line, model, tile, lengths, limits, out.x, memory, parts);
      if (!first_of_row || row >= count) continue;
      steps.lengths[i] = a;
      steps.norms[i] = moved.square;
      out.l2[i] = std::sqrt(moved.distance);
      if (a != 0.0) ++out.n_steps[i];
    }
  }
}

}  // namespace

void PairSteps::lay_out(Arena& arena, std::size_t n_components, std::size_t stride) {
  by_target_ = lay_out_entries(arena, n_components, stride, stride);
}

template <class T>
void PairSteps::step(Stream stream, const Rows<T>& rows, const Scorer<T>& scorer, const PairView& pairs,
                     const StepLimits& limits, const StepView& steps, const StepOutput<T>& out) {
  const ScoreView& scores = scorer.scores();
  const ModelView& model = scorer.model();
  const EntryView& entries = scorer.entries();
  const std::size_t K = model.n_components;
  const auto list = [&](const EntryView& to) {
    list_entries(stream, scores.marks, 1, K, scores.n, scores.stride, to);
  };
  fill_zero(stream, scores.marks, K * scores.stride);
  launch_tasks(stream, scores.n, mark_targets_kernel, pairs, scores);
  list(by_target_);
  fill_zero(stream, scores.marks, K * scores.stride);
  launch_tasks(stream, scores.n, mark_sources_kernel, K, pairs, by_target_, scores);
  list(entries);
  launch_tasks(stream, scores.n, rows_of_places_kernel, K, by_target_, entries);
  fill_zero(stream, steps.lengths, scores.n * sizeof(double));
  const StepOutput<T> own{out.x + rows.first * model.n_features, out.l2 + rows.first, out.n_steps + rows.first};
  const std::size_t bytes = Stage<T>::bytes(line_count(model.n_factors));
  const unsigned n_stages = stages_for(bytes);
  launch_with_memory(stream, resident_blocks(), tile_block_threads, n_stages * bytes, step_kernel<T>, rows, model, pairs,
                     entries, scores, limits, steps, own, scorer.scratch(), bytes, n_stages);
}

#define MFA_INSTANTIATE(T)                                                                                      \
  template void PairSteps::step(Stream, const Rows<T>&, const Scorer<T>&, const PairView&, const StepLimits&, \
                                const StepView&, const StepOutput<T>&);
MFA_INSTANTIATE(float)
MFA_INSTANTIATE(double)
#undef MFA_INSTANTIATE

}  // namespace mfa::cuda
