#include "step.hpp"

#include <cmath>
#include <limits>
#include <type_traits>

#include "core/gaussian.hpp"
#include "core/quadric.hpp"

namespace mfa::cuda {
namespace {

// Rows that stay have steps of length 0; of the others the length is not known, which is not a number. One thread per row.
__global__ void mark_targets_kernel(PairView pairs, ScoreView scores, StepView steps) {
  const std::size_t i = task_index();
  if (i >= scores.n) return;
  const bool moves = !pairs.done[i];
  steps.lengths[i] = moves ? std::numeric_limits<double>::quiet_NaN() : 0.0;
  if (moves) scores.marks[scores.at(i, static_cast<std::size_t>(pairs.targets[i]))] = 1;
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

// Rows of one pair.
struct PairTile {
  Tile members;
  std::size_t components[2];  // source, target
};
__device__ double sign_of(unsigned end) { return end == 0 ? -1.0 : 1.0; }

// What the columns of both ends are multiplied by to be added to g: (2 L, factor_stride), rows beside each other and in other
// banks than those of the next factors.
constexpr unsigned factor_stride = tile_entries + 4;
std::size_t factor_count(std::size_t n_factors) { return 2 * n_factors * factor_stride; }

// Factors v = C^T z, signed.
__device__ void bring_factors(const ModelView& model, const ScoreView& scores, const PairTile& tile, double* factors) {
  const auto L = static_cast<unsigned>(model.n_factors);
  for (unsigned task = threadIdx.x; task < 2 * L * tile_entries; task += blockDim.x) {
    const unsigned row = task % tile_entries;
    const unsigned l = task / tile_entries % L;
    const unsigned end = task / tile_entries / L;
    const std::size_t k = tile.components[end];
    const double* z = scores.factors + (tile.members.row(row) * model.n_components + k) * L;
    const double v = core::lower_transposed_product(L, model.component_cholesky(k), z, l);
    factors[task / tile_entries * factor_stride + row] = -sign_of(end) * v;
  }
}

// Lines of a piece beside the columns of both ends: their means, the centre and, where features differ in it, their inverse
// noise.
constexpr unsigned center_line = 2;
constexpr unsigned mean_line(unsigned end) { return end; }
constexpr unsigned weight_line(unsigned end) { return 3 + end; }
constexpr unsigned n_singles(bool spherical) { return spherical ? 3 : 5; }
constexpr unsigned n_runs = 2;

template <class T, bool Spherical>
using PairSources = Sources<T, n_singles(Spherical), n_runs>;
template <class T, bool Spherical, bool Copied>
__device__ PairSources<T, Spherical> pair_sources(const Rows<T>& rows, const ModelView& model, const PairTile& tile) {
  const auto [source, target] = tile.components;
  const double* singles[n_singles(Spherical)] = {model.component_mean(source), model.component_mean(target), model.center};
  if constexpr (!Spherical) {
    singles[weight_line(0)] = model.component_inverse_noise(source);
    singles[weight_line(1)] = model.component_inverse_noise(target);
  }
  const std::size_t L = model.n_factors;
  const Run columns[n_runs] = {factor_run<Copied>(model.component_columns(source), L),
                               factor_run<Copied>(model.component_columns(target), L)};
  return sources(rows, tile.members, model.n_features, singles, columns, run_places<Copied>(L));
}

// A piece, and the parameters of both ends that belong to it.
template <class T, bool Spherical, bool Copied>
struct PairPiece {
  const Piece<T>& piece;
  const PairSources<T, Spherical>& from;
  const ModelView& model;
  const PairTile& tile;
  std::size_t start;

  __device__ LinePart line(unsigned single) const { return read_line(piece, from.single_line(single)); }
  // D^-1 of an end.
  __device__ LinePart weights(unsigned end) const {
    if constexpr (!Spherical) return line(weight_line(end));
    const double scalar = model.inverse_scalars[tile.components[end]];
    return {{{scalar, scalar}, {scalar, scalar}}};
  }
  __device__ FactorLines<T, Copied> columns(unsigned end) const {
    return factor_lines<Copied>(piece, from, end, model.component_columns(tile.components[end]), model.n_factors, start);
  }
};

// g = S_t^-1 (x - mu_t) - S_s^-1 (x - mu_s), with S^-1 r = D^-1 r - columns v. note(m, a, b) is called with the numbers a and b
// of both D^-1 r.
template <class T, bool Spherical, bool Copied, class Note>
__device__ void make_gradient(const PairPiece<T, Spherical, Copied>& now, const double* factors, const TilePart& x,
                              TilePart& g, const Note& note) {
  const LinePart source = now.line(mean_line(0)), target = now.line(mean_line(1));
  const LinePart by_source = now.weights(0), by_target = now.weights(1);
  // What is the same in all rows is made once: D_t^-1 (x - mu_t) - D_s^-1 (x - mu_s) = (D_t^-1 - D_s^-1) (x - mu_s) - apart.
  LinePart weight, apart;
#pragma unroll
  for (unsigned h = 0; h < 2; ++h)
#pragma unroll
    for (unsigned e = 0; e < 2; ++e) {
      weight.values[h][e] = by_target.values[h][e] - by_source.values[h][e];
      apart.values[h][e] = by_target.values[h][e] * (target.values[h][e] - source.values[h][e]);
    }
  for_tile_part([&](unsigned m, unsigned h, unsigned e) {
    const double offset = x[m][h][e] - source.values[h][e];
    g[m][h][e] = weight.values[h][e] * offset - apart.values[h][e];
    const double of_source = by_source.values[h][e] * offset;
    note(m, of_source, of_source + g[m][h][e]);
  });
  const auto L = static_cast<unsigned>(now.model.n_factors);
#pragma unroll
  for (unsigned end = 0; end < 2; ++end)
    add_explained(g, now.columns(end), [&](unsigned m, unsigned l) {
      return factors[(end * L + l) * factor_stride + tensor::lane().g + m * matrix_rows];
    });
}

// Numbers of a row that are summed over its features.
constexpr unsigned gradient_square = 0, terms_square = 1, curvature = 2, row_square = 3, first_numbers = 4;
constexpr unsigned end_square = 0, moved_square = 1, last_numbers = 2;
constexpr unsigned first_width = 2 * tile_columns + first_numbers;

// Computes  a for the thread's row, four threads to each.
template <class T, bool Spherical, bool Copied>
__device__ double step_length(const PairSources<T, Spherical>& from, bool in_line, const ModelView& model,
                              const PairTile& tile, double gap, double overshoot, const double* factors,
                              const PieceMemory& memory, double (*parts)[tile_entries][first_width]) {
  const auto L = static_cast<unsigned>(model.n_factors);
  const unsigned warp = threadIdx.x / warp_size;
  const unsigned row = threadIdx.x / tile_sharers;
  const unsigned sharer = threadIdx.x % tile_sharers;
  double numbers[first_numbers] = {}, explained = 0.0;
  for (unsigned first = 0; first == 0 || first < L; first += tile_columns) {
    double sums[2][row_matrices][2] = {};  // columns^T g, of both ends
    double squares[first_numbers][row_matrices] = {};
    for_each_piece(from, in_line, memory, [&](const Piece<T>& piece, std::size_t start) {
      const PairPiece<T, Spherical, Copied> now{piece, from, model, tile, start};
      TilePart x, g;
      read_rows(piece, x);
      make_gradient(now, factors, x, g, [&](unsigned m, double of_source, double of_target) {
        squares[terms_square][m] += of_source * of_source + of_target * of_target;
      });
      for_tile_part([&](unsigned m, unsigned h, unsigned e) {
        squares[gradient_square][m] += g[m][h][e] * g[m][h][e];
        squares[row_square][m] += x[m][h][e] * x[m][h][e];
      });
      if constexpr (!Spherical) {
        const LinePart source = now.weights(0), target = now.weights(1);
        for_tile_part([&](unsigned m, unsigned h, unsigned e) {
          squares[curvature][m] += 0.5 * (target.values[h][e] - source.values[h][e]) * g[m][h][e] * g[m][h][e];
        });
      }
#pragma unroll
      for (unsigned end = 0; end < 2; ++end) add_products(sums[end], g, now.columns(end), first);
    });
    store_products(sums, parts[warp]);
    store_numbers(squares, 2 * tile_columns, parts[warp]);
    __syncthreads();
    for (unsigned at = sharer; at < first_width; at += tile_sharers) {
      double sum = 0.0;
      for (unsigned w = 0; w < tile_block_warps; ++w) sum += parts[w][row][at];
      if (at >= 2 * tile_columns) numbers[at - 2 * tile_columns] = sum;
      else explained += 0.5 * sign_of(at / tile_columns) * sum * sum;
    }
    __syncthreads();
  }
  // g^T S^-1 g = g^T D^-1 g - |columns^T g|^2
  const auto of_row = [&](unsigned number) { return tensor::row_sum(numbers[number]); };
  const double b = of_row(gradient_square);
  const double terms = of_row(terms_square);
  const auto scalar = [&](unsigned end) { return model.inverse_scalars[tile.components[end]]; };
  const double of_noise = Spherical ? 0.5 * (scalar(1) - scalar(0)) * b : of_row(curvature);
  const double c = of_noise - tensor::row_sum(explained);
  const double x_norm = std::sqrt(of_row(row_square));
  // The two are one and the same, where g is what rounding leaves of its terms; or one has weight 0.
  constexpr double rounding = 64.0 * std::numeric_limits<double>::epsilon();
  if (!(b > rounding * rounding * terms) || !std::isfinite(gap)) return 0.0;
  const double norm = std::sqrt(b);
  return core::with_overshoot(std::abs(core::step_to_zero(gap, b, c)) * norm, overshoot, x_norm,
                              std::numeric_limits<T>::epsilon(), core::on_surface * model.least_noise_std) /
         norm;
}

// Moves the rows by their lengths along -g; returns the thread's row's |x - center|^2 and how far it was moved, squared, to the
// first of its four threads.
struct Moved {
  double square, distance;
};
template <class T, bool Spherical, bool Copied>
__device__ Moved move_rows(const PairSources<T, Spherical>& from, bool in_line, const ModelView& model, const PairTile& tile,
                           const double* factors, const double* lengths, const StepLimits& limits, T* out,
                           const PieceMemory& memory, double (*parts)[tile_entries][last_numbers]) {
  const std::size_t d = model.n_features;
  const unsigned warp = threadIdx.x / warp_size;
  const Rows<T> to{reinterpret_cast<const char*>(out), static_cast<std::ptrdiff_t>(d * sizeof(T)), 0};
  const bool to_line = to.has_aligned_fours();
  const bool clips = std::isfinite(limits.low) || std::isfinite(limits.high);
  double squares[last_numbers][row_matrices] = {};
  for_each_piece(from, in_line, memory, [&](const Piece<T>& piece, std::size_t start) {
    const PairPiece<T, Spherical, Copied> now{piece, from, model, tile, start};
    TilePart x, g;
    read_rows(piece, x);
    make_gradient(now, factors, x, g, [](unsigned, double, double) {});
    const LinePart center = now.line(center_line);
    const std::size_t j = start + 4 * tensor::lane().c;
    const auto left = static_cast<unsigned>(j < d ? d - j : 0);
#pragma unroll
    for (unsigned m = 0; m < row_matrices; ++m) {
      const unsigned r = m * matrix_rows + tensor::lane().g;
      const double length = lengths[r];
      Four<T> moved;
#pragma unroll
      for (unsigned f = 0; f < 4; ++f) {
        const double before = x[m][f / 2][f % 2];
        double there = length == 0.0 ? before : before - length * g[m][f / 2][f % 2];
        if (clips && length != 0.0) there = there < limits.low ? limits.low : there > limits.high ? limits.high : there;
        moved.values[f] = static_cast<T>(there);
        if (f >= left) continue;
        const auto after = static_cast<double>(moved.values[f]);
        const double from_center = after - center.values[f / 2][f % 2];
        squares[end_square][m] += from_center * from_center;
        squares[moved_square][m] += (after - before) * (after - before);
      }
      if (r < tile.members.count) store_four(moved, out + tile.members.row(r) * d + j, left, to_line);
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

// Calls visit(tile) for the tiles of rows of one pair. Blocks take tile after tile of one source, sorted by their targets.
template <class Visit>
__device__ void for_each_pair_tile(std::size_t n_components, const PairView& pairs, const EntryView& entries,
                                   const Visit& visit) {
  const unsigned place = threadIdx.x % warp_size;  // there are as many lanes as entries
  const int tiles = entries.tile_starts[n_components];
  for (int at = static_cast<int>(blockIdx.x); at < tiles; at += static_cast<int>(gridDim.x)) {
    const Tile all = tile_at(entries, n_components, at);
    const int target_of_place = pairs.targets[all.row(place)];
    for (unsigned begin = 0; begin < all.count;) {
      const int target = pairs.targets[all.rows[begin]];
      const auto count = static_cast<unsigned>(
          __popc(__ballot_sync(all_lanes, place >= begin && place < all.count && target_of_place == target)));
      const Tile members{all.component, all.rows + begin, count};
      begin += count;
      visit(PairTile{members, {members.component, static_cast<std::size_t>(target)}});
    }
  }
}

// A block's factors: beside the pieces, or in the scratch where there is no room for that.
template <bool Copied>
__device__ double* factors_of_block(const ModelView& model, const PieceMemory& memory, double* scratch) {
  if constexpr (Copied) return reinterpret_cast<double*>(block_memory() + memory.bytes());
  else return scratch + blockIdx.x * 2 * model.n_factors * factor_stride;
}

// Finds the lengths that are not known. With if_not_zero, nothing where that is 0.
template <class T, bool Spherical, bool Copied>
__global__ void __launch_bounds__(tile_block_threads, 2)
    lengths_kernel(Rows<T> rows, ModelView model, PairView pairs, EntryView entries, ScoreView scores, double overshoot,
                   const int* if_not_zero, StepView steps, double* scratch, PieceMemory memory) {
  __shared__ double parts[tile_block_warps][tile_entries][first_width];
  if (if_not_zero != nullptr && *if_not_zero == 0) return;
  const bool in_line = lies_in_line(rows, model.n_features);
  double* const factors = factors_of_block<Copied>(model, memory, scratch);
  const unsigned row = threadIdx.x / tile_sharers;
  for_each_pair_tile(model.n_components, pairs, entries, [&](const PairTile& tile) {
    const auto is_known = [&](unsigned of) { return !std::isnan(steps.lengths[tile.members.row(of)]); };
    // Every warp finds the same, as none goes on before all have.
    if (__ballot_sync(all_lanes, !is_known(threadIdx.x % warp_size)) == 0) return;
    const bool writes = threadIdx.x % tile_sharers == 0 && row < tile.members.count && !is_known(row);
    bring_factors(model, scores, tile, factors);
    __syncthreads();
    const PairSources<T, Spherical> from = pair_sources<T, Spherical, Copied>(rows, model, tile);
    const std::size_t i = tile.members.row(row);
    const double a =
        step_length<T, Spherical, Copied>(from, in_line, model, tile, pairs.gaps[i], overshoot, factors, memory, parts);
    if (writes) steps.lengths[i] = a;
  });
}

template <class T, bool Spherical, bool Copied>
__global__ void __launch_bounds__(tile_block_threads, 3)
    move_kernel(Rows<T> rows, ModelView model, PairView pairs, EntryView entries, ScoreView scores, StepLimits limits,
                StepView steps, StepOutput<T> out, double* scratch, PieceMemory memory) {
  __shared__ double parts[tile_block_warps][tile_entries][last_numbers];
  __shared__ double lengths[tile_entries];
  const bool in_line = lies_in_line(rows, model.n_features);
  double* const factors = factors_of_block<Copied>(model, memory, scratch);
  const unsigned row = threadIdx.x / tile_sharers;
  const bool first_of_row = threadIdx.x % tile_sharers == 0;
  for_each_pair_tile(model.n_components, pairs, entries, [&](const PairTile& tile) {
    const std::size_t i = tile.members.row(row);
    const double a = steps.lengths[i];
    if (first_of_row) lengths[row] = a;
    bring_factors(model, scores, tile, factors);
    __syncthreads();
    const PairSources<T, Spherical> from = pair_sources<T, Spherical, Copied>(rows, model, tile);
    const Moved moved =
        move_rows<T, Spherical, Copied>(from, in_line, model, tile, factors, lengths, limits, out.x, memory, parts);
    if (!first_of_row || row >= tile.members.count) return;
    steps.norms[i] = moved.square;
    if (a == 0.0) return;
    out.l2[i] = std::sqrt(moved.distance);
    ++out.n_steps[i];
  });
}

}  // namespace

template <class T>
void PairSteps<T>::lay_out(Arena& arena, const ModelView& model, std::size_t stride) {
  reduced_.lay_out(arena, model);
  by_target_ = lay_out_entries(arena, model.n_components, stride, stride);
  const std::size_t factors = factor_count(model.n_factors);
  const std::size_t bytes = factors * sizeof(double);
  const auto [pieces, copied] = memory_for<T>(n_singles(model.inverse_noise == nullptr), n_runs, model.n_factors, bytes);
  memory_ = {pieces, copied};
  scratch_ = copied ? nullptr : arena.take<double>(resident_blocks() * factors);
}

template <class T>
void PairSteps<T>::begin(Stream stream, const ModelView& model) {
  if (reduced_.applies()) reduced_.begin(stream, model);
}

template <class T>
void PairSteps<T>::step(Stream stream, const Rows<T>& rows, const Scorer<T>& scorer, const PairView& pairs,
                        const StepLimits& limits, const StepView& steps, const StepOutput<T>& out) {
  const ScoreView& scores = scorer.scores();
  const ModelView& model = scorer.model();
  const EntryView& entries = scorer.entries();
  const std::size_t K = model.n_components;
  const auto list = [&](const EntryView& to) {
    list_entries(stream, scores.marks, 1, K, scores.n, scores.stride, to);
  };
  fill_zero(stream, scores.marks, K * scores.stride);
  launch_tasks(stream, scores.n, mark_targets_kernel, pairs, scores, steps);
  list(by_target_);
  fill_zero(stream, scores.marks, K * scores.stride);
  launch_tasks(stream, scores.n, mark_sources_kernel, K, pairs, by_target_, scores);
  list(entries);
  launch_tasks(stream, scores.n, rows_of_places_kernel, K, by_target_, entries);
  if (reduced_.applies())
    reduced_.find(stream, model, pairs, entries, scores, limits.overshoot, std::numeric_limits<T>::epsilon(), steps);
  const int* const any_unknown = reduced_.any_unknown();
  const StepOutput<T> own{out.x + rows.first * model.n_features, out.l2 + rows.first, out.n_steps + rows.first};
  const auto [pieces, copied] = memory_;
  const std::size_t beside = copied ? factor_count(model.n_factors) * sizeof(double) : 0;
  const auto launch_all = [&, pieces = pieces](auto spherical, auto is_copied) {
    launch_with_memory(stream, resident_blocks(), tile_block_threads, pieces.bytes() + beside,
                       lengths_kernel<T, spherical, is_copied>, rows, model, pairs, entries, scores, limits.overshoot,
                       any_unknown, steps, scratch_, pieces);
    launch_with_memory(stream, resident_blocks(), tile_block_threads, pieces.bytes() + beside,
                       move_kernel<T, spherical, is_copied>, rows, model, pairs, entries, scores, limits, steps, own, scratch_,
                       pieces);
  };
  const auto launch_for = [&, copied = copied](auto spherical) {
    if (copied) launch_all(spherical, std::true_type{});
    else launch_all(spherical, std::false_type{});
  };
  if (model.inverse_noise == nullptr) launch_for(std::true_type{});
  else launch_for(std::false_type{});
}

template class PairSteps<float>;
template class PairSteps<double>;

}  // namespace mfa::cuda
