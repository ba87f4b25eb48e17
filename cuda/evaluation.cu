#include "evaluation.hpp"

#include <algorithm>
#include <cmath>
#include <limits>
#include <type_traits>

#include "core/gaussian.hpp"
#include "tile_products.hpp"

namespace mfa::cuda {
namespace {

constexpr unsigned piece_features = 16;
constexpr unsigned piece_pairs = piece_features / 2;
constexpr unsigned piece_stages = 3;

struct alignas(16) Two {
  double values[2];
};

// Sixteen features of a tile's rows, of a component's mean, of its inverse noise where features differ in it, and of some of
// its columns D^-1 A C^-T. Of a row, each of four lanes has the four features that it copied itself; all have the other lines.
// Two features more or less change a line's banks with its number, so that the lanes' pairs of neighbouring lines lie in
// different ones.
template <class S, unsigned Tiles, bool Spherical>
class Piece {
 public:
  static constexpr unsigned columns_line = Spherical ? 1 : 2;  // after the mean's and the noise's
  static constexpr unsigned n_columns = Tiles * tile_columns;
  static constexpr std::size_t row_bytes = tile_entries * piece_features * sizeof(S);
  static constexpr std::size_t bytes = row_bytes + (columns_line + n_columns) * piece_features * sizeof(double);

  __device__ explicit Piece(unsigned char* memory)
      : rows_(reinterpret_cast<Four<S>*>(memory)), lines_(reinterpret_cast<Two*>(memory + row_bytes)) {}

  // Four features of row 8 m + g.
  __device__ Four<S>& four(unsigned m) const { return rows_[m * warp_size + threadIdx.x % warp_size]; }
  __device__ Two& pair(unsigned line, unsigned at) const { return lines_[line * piece_pairs + (at ^ (line % 2))]; }
  __device__ Two& mean(unsigned at) const { return pair(0, at); }
  __device__ Two& inverse_noise(unsigned at) const { return pair(1, at); }
  __device__ Two& column(unsigned l, unsigned at) const { return pair(columns_line + l, at); }

 private:
  Four<S>* rows_;
  Two* lines_;
};

// Lines that the lanes of a warp copy at once.
constexpr unsigned lines_at_once = warp_size / piece_pairs;

// What a lane copies of a piece, from its four or two features of the first sixteen on: of its rows, of every fourth column,
// and of one of the lines before them.
template <class S>
struct Sources {
  const S* rows[row_matrices];
  const double* columns;
  unsigned n_columns;
  const double* other;
};

template <class S>
__device__ Sources<S> sources(const Rows<S>& rows, const Tile& members, const ModelView& model, const double* mean) {
  const unsigned lane = threadIdx.x % warp_size;
  const unsigned line = lane / piece_pairs;
  const std::size_t begin = lane % piece_pairs * 2;
  const std::size_t k = members.component;
  const double* noise = model.component_inverse_noise(k);
  const double* center = mean == nullptr ? model.component_mean(k) : mean;
  Sources<S> of_lane{};
#pragma unroll
  for (unsigned m = 0; m < row_matrices; ++m)
    of_lane.rows[m] = rows.row(members.row(m * matrix_rows + tensor::lane().g)) + 4 * tensor::lane().c;
  of_lane.columns = model.columns + (k * model.n_factors + line) * model.n_features + begin;
  of_lane.other = (line == 1 && noise != nullptr ? noise : center) + begin;
  return of_lane;
}

// Starts to copy sixteen features, all of them there and in line.
template <class S, unsigned Tiles, bool Spherical>
__device__ void fetch(const Piece<S, Tiles, Spherical>& piece, const Sources<S>& from, std::size_t d) {
  const unsigned lane = threadIdx.x % warp_size;
  const unsigned line = lane / piece_pairs;
  const unsigned at = lane % piece_pairs;
#pragma unroll
  for (unsigned m = 0; m < row_matrices; ++m) copy_to_block<sizeof(Four<S>)>(&piece.four(m), from.rows[m]);
  if (line < piece.columns_line) copy_to_block<sizeof(Two)>(&piece.pair(line, at), from.other);
#pragma unroll
  for (unsigned first = 0; first < piece.n_columns; first += lines_at_once)
    if (first + line < from.n_columns)
      copy_to_block<sizeof(Two)>(&piece.column(first + line, at), from.columns + first * d);
}

// Copies those there are of them, wherever they lie; the others are 0.
template <class S, unsigned Tiles, bool Spherical>
__device__ void fetch_rest(const Piece<S, Tiles, Spherical>& piece, const Sources<S>& from, std::size_t start,
                           std::size_t d) {
  const unsigned lane = threadIdx.x % warp_size;
  const unsigned line = lane / piece_pairs;
  const unsigned at = lane % piece_pairs;
  const auto left = [start, d](unsigned own) {
    return start + own < d ? static_cast<unsigned>(d - start) - own : 0;
  };
  const unsigned row_left = left(4 * tensor::lane().c);
  for (unsigned m = 0; m < row_matrices; ++m) piece.four(m) = load_four(from.rows[m] + start, row_left, false);
  const unsigned line_left = left(2 * at);
  const auto copy = [&](Two& to, const double* of) {
    for (unsigned e = 0; e < 2; ++e) to.values[e] = e < line_left ? of[start + e] : 0.0;
  };
  if (line < piece.columns_line) copy(piece.pair(line, at), from.other);
  for (unsigned first = 0; first + line < from.n_columns; first += lines_at_once)
    copy(piece.column(first + line, at), from.columns + first * d);
}

// What a lane has of a warp's sums: r^T columns, and |r|_D^2 or, where all features' noise is the same, |r|^2.
template <unsigned Tiles>
struct Sums {
  double products[Tiles][row_matrices][2] = {};
  double squares[1][row_matrices] = {};
};

// Of eight features that are multiplied at once, a lane has two of its four. Columns that there are none of are multiplied all
// the same, whatever stands in their place: their products are no one's.
template <class S, unsigned Tiles, bool Spherical>
__device__ void add_piece(const Piece<S, Tiles, Spherical>& piece, Sums<Tiles>& sums) {
  const tensor::Lane own = tensor::lane();
  constexpr unsigned steps = 2;
  double rest[row_matrices][steps][2];
#pragma unroll
  for (unsigned m = 0; m < row_matrices; ++m) {
    const Four<S> x = piece.four(m);
#pragma unroll
    for (unsigned f = 0; f < 4; ++f) rest[m][f / 2][f % 2] = to<double>(x.values[f]);
  }
#pragma unroll
  for (unsigned s = 0; s < steps; ++s) {
    const unsigned at = 2 * own.c + s;
    const Two mean = piece.mean(at);
    Two weight{};
    if constexpr (!Spherical) weight = piece.inverse_noise(at);
#pragma unroll
    for (unsigned m = 0; m < row_matrices; ++m)
#pragma unroll
      for (unsigned e = 0; e < 2; ++e) {
        double& r = rest[m][s][e];
        r -= mean.values[e];
        sums.squares[0][m] += Spherical ? r * r : r * r * weight.values[e];
      }
#pragma unroll
    for (unsigned t = 0; t < Tiles; ++t) {
      const Two column = piece.column(t * tile_columns + own.g, at);
#pragma unroll
      for (unsigned m = 0; m < row_matrices; m += 2) {
        const double both[2][2] = {{rest[m][s][0], rest[m][s][1]}, {rest[m + 1][s][0], rest[m + 1][s][1]}};
        tensor::multiply_add(sums.products[t][m], sums.products[t][m + 1], both, column.values);
      }
    }
  }
}

// Adds up the pieces that are this warp's, every fourth: the next ones come while one is worked on. What lanes share is the
// warp's alone, so that no warp waits for another.
template <class S, unsigned Tiles, bool Spherical>
__device__ Sums<Tiles> add_pieces(const Sources<S>& from, bool in_line, std::size_t d, unsigned char* warp_memory) {
  using Part = Piece<S, Tiles, Spherical>;
  constexpr unsigned ahead = piece_stages - 1;
  constexpr std::size_t stride = tile_block_warps * piece_features;
  const std::size_t first = threadIdx.x / warp_size * piece_features;
  const auto steps_to = [first](std::size_t end) {
    return end > first ? static_cast<unsigned>((end - first + stride - 1) / stride) : 0;
  };
  const unsigned whole = in_line ? steps_to(d / piece_features * piece_features) : 0;
  Sums<Tiles> sums;
  Sources<S> next = from;
  const auto advance = [&next](std::size_t features) {
#pragma unroll
    for (unsigned m = 0; m < row_matrices; ++m) next.rows[m] += features;
    next.columns += features;
    next.other += features;
  };
  advance(first);
  unsigned char* coming = warp_memory;
  unsigned char* now = warp_memory;
  unsigned char* const end = warp_memory + piece_stages * Part::bytes;
  const auto move_on = [&](unsigned char*& stage) {
    stage += Part::bytes;
    if (stage == end) stage = warp_memory;
  };
  for (unsigned step = 0; step < whole + ahead; ++step) {
    if (step >= ahead) {
      await_copies<ahead - 1>();
      __syncwarp();  // the others' copies have come as well, and all are done with the piece before
    }
    if (step < whole) {
      fetch(Part(coming), next, d);
      advance(stride);
      move_on(coming);
    }
    commit_copies();
    if (step < ahead) continue;
    add_piece(Part(now), sums);
    move_on(now);
  }
  for (unsigned step = whole; step < steps_to(d); ++step) {
    __syncwarp();
    fetch_rest(Part(warp_memory), from, first + step * stride, d);
    __syncwarp();
    add_piece(Part(warp_memory), sums);
  }
  return sums;
}

// Blocks take tile after tile. `mean` is one for all, or null for the components' own. keep(i, k, l, v) is called for all
// factors of every entry, and give(i, k, square, explained) then, with |r|_D^2 and |v|^2.
template <class S, unsigned Tiles, bool Spherical, class Keep, class Give>
__device__ void for_each_entry(const Rows<S>& rows, const ModelView& model, const double* mean, const EntryView& entries,
                               const Keep& keep, const Give& give) {
  constexpr unsigned width = tile_columns * Tiles;
  const auto L = static_cast<unsigned>(model.n_factors);
  const std::size_t d = model.n_features;
  const bool in_line = rows.has_aligned_fours() && d % 2 == 0;
  const unsigned warp = threadIdx.x / warp_size;
  const unsigned row = threadIdx.x / tile_sharers;
  const unsigned sharer = threadIdx.x % tile_sharers;
  // The warps' pieces, and in their place the warps' sums.
  unsigned char* memory = block_memory();
  auto* parts = reinterpret_cast<double (*)[tile_entries][width + 1]>(memory);
  const int tiles = entries.tile_starts[model.n_components];
  for (int tile = static_cast<int>(blockIdx.x); tile < tiles; tile += static_cast<int>(gridDim.x)) {
    const Tile members = tile_at(entries, model.n_components, tile);
    const std::size_t k = members.component;
    Sources<S> from = sources(rows, members, model, mean);
    double explained = 0.0, square = 0.0;
    for (unsigned first = 0; first == 0 || first < L; first += width) {
      from.n_columns = L - first < width ? L - first : width;
      const Sums<Tiles> sums = add_pieces<S, Tiles, Spherical>(
          from, in_line, d, memory + warp * piece_stages * Piece<S, Tiles, Spherical>::bytes);
      from.columns += width * d;
      __syncthreads();  // all pieces are done with
      store_products(sums.products, parts[warp]);
      store_numbers(sums.squares, width, parts[warp]);
      __syncthreads();
      for (unsigned at = sharer; at <= width; at += tile_sharers) {
        double sum = 0.0;
        for (unsigned w = 0; w < tile_block_warps; ++w) sum += parts[w][row][at];
        if (at == width) {
          square = sum;
        } else if (first + at < L) {
          explained += sum * sum;
          if (row < members.count) keep(members.row(row), k, first + at, sum);
        }
      }
      __syncthreads();
    }
    explained = tensor::row_sum(explained);
    if (Spherical) square *= model.inverse_scalars[k];
    constexpr unsigned has_square = width % tile_sharers;
    if (sharer == has_square && row < members.count) give(members.row(row), k, square, explained);
  }
}

__device__ double difference(double square, double explained) {
  const double q = square - explained;
  return q < 0.0 ? 0.0 : q;  // not a number stays what it is
}

template <class S, unsigned Tiles, bool Spherical>
__global__ void __launch_bounds__(tile_block_threads, 4)
    evaluation_kernel(Rows<S> rows, ModelView model, double tolerance, double unit, EntryView entries, ScoreView scores,
                      int* any_coarse) {
  const std::size_t K = model.n_components;
  const std::size_t L = model.n_factors;
  for_each_entry<S, Tiles, Spherical>(
      rows, model, nullptr, entries,
      [&](std::size_t i, std::size_t k, unsigned l, double v) {
        if (scores.factors != nullptr) scores.factors[(i * K + k) * L + l] = v;
      },
      [&](std::size_t i, std::size_t k, double square, double explained) {
        const double value = core::log_density(model.log_normalizers[k], difference(square, explained));
        const double error = core::difference_form_error(square, unit, model.model_errors[k]);
        const std::size_t at = scores.at(i, k);
        scores.values[at] = value;
        scores.errors[at] = error;
        scores.known[at] = known_v;
        if (!(error <= tolerance * std::abs(value))) *any_coarse = 1;
      });
}

template <unsigned Tiles, bool Spherical>
__global__ void __launch_bounds__(tile_block_threads, 4)
    distance_kernel(Rows<double> rows, ModelView model, const double* mean, EntryView entries, ScoreView scores) {
  for_each_entry<double, Tiles, Spherical>(
      rows, model, mean, entries, [](std::size_t, std::size_t, unsigned, double) {},
      [&](std::size_t i, std::size_t k, double square, double explained) {
        scores.values[scores.at(i, k)] = difference(square, explained);
      });
}

// Calls launch(tiles, spherical) with both as constants.
template <class Launch>
void for_shape(const ModelView& model, const Launch& launch) {
  const auto with = [&](auto tiles) {
    if (model.inverse_noise == nullptr) launch(tiles, std::true_type{});
    else launch(tiles, std::false_type{});
  };
  if (model.n_factors > tile_columns) with(std::integral_constant<unsigned, 2>{});
  else with(std::integral_constant<unsigned, 1>{});
}

// What a block's pieces take, or its sums.
template <class S, unsigned Tiles, bool Spherical>
constexpr std::size_t block_bytes = tile_block_warps * std::max(piece_stages * Piece<S, Tiles, Spherical>::bytes,
                                                                tile_entries * (Tiles * tile_columns + 1) * sizeof(double));

}  // namespace

template <class S>
void evaluate(Stream stream, const Rows<S>& rows, const ModelView& model, double tolerance, const EntryView& entries,
              const ScoreView& scores, int* any_coarse) {
  // A warp's sums are chains over every fourth feature.
  const double unit =
      core::chained_rounding_unit(std::numeric_limits<double>::epsilon(), model.n_features / tile_block_warps);
  for_shape(model, [&](auto tiles, auto spherical) {
    launch_with_memory(stream, resident_blocks(), tile_block_threads, block_bytes<S, tiles, spherical>,
                       evaluation_kernel<S, tiles, spherical>, rows, model, tolerance, unit, entries, scores, any_coarse);
  });
}

void evaluate_distance(Stream stream, const Rows<double>& rows, const ModelView& model, const double* mean,
                       const EntryView& entries, const ScoreView& scores) {
  for_shape(model, [&](auto tiles, auto spherical) {
    launch_with_memory(stream, resident_blocks(), tile_block_threads, block_bytes<double, tiles, spherical>,
                       distance_kernel<tiles, spherical>, rows, model, mean, entries, scores);
  });
}

#define MFA_INSTANTIATE(S)                                                                                        \
  template void evaluate(Stream, const Rows<S>&, const ModelView&, double, const EntryView&, const ScoreView&, int*);
MFA_FOR_SAMPLE_TYPES(MFA_INSTANTIATE)
#undef MFA_INSTANTIATE

}  // namespace mfa::cuda
