// How the warps of a block read the rows of a tile and the lines of numbers that belong to its component: sixteen features at a
// time, copied ahead into memory that is a warp's own, so that warps wait for their copies and never for each other. Of every
// four such pieces each warp has one.
#pragma once

#include "device_model.hpp"
#include "rows.hpp"
#include "tensor.hpp"
#include "tiles.hpp"

namespace mfa::cuda {

inline constexpr unsigned tile_block_warps = 4;
inline constexpr unsigned tile_block_threads = tile_block_warps * warp_size;
inline constexpr unsigned matrix_rows = 8;
inline constexpr unsigned row_matrices = tile_entries / matrix_rows;

inline constexpr unsigned piece_features = 16;
inline constexpr unsigned piece_pairs = piece_features / 2;

struct alignas(16) Two {
  double values[2];
};

// A lane reads only those four features of a row that it copied itself, 4 c to 4 c + 3; of lines it reads what others copied. The
// places of a line's pairs change with its number, so that what lanes read of four lines at once lies in different banks.
template <class S>
class Piece {
 public:
  MFA_HD static constexpr std::size_t bytes(std::size_t n_lines) {
    return tile_entries * piece_features * sizeof(S) + n_lines * piece_features * sizeof(double);
  }
  __device__ explicit Piece(unsigned char* memory)
      : rows_(reinterpret_cast<Four<S>*>(memory)), lines_(reinterpret_cast<Two*>(memory + bytes(0))) {}

  // Four features of row 8 m + g.
  __device__ Four<S>& four(unsigned m) const { return rows_[m * warp_size + threadIdx.x % warp_size]; }
  // Features 2 at and 2 at + 1 of a line.
  __device__ Two& pair(unsigned line, unsigned at) const {
    return lines_[line * piece_pairs + (at ^ (line % 2 | line / 2 % 2 * 4))];
  }
  __device__ double number(unsigned line, unsigned feature) const { return pair(line, feature / 2).values[feature % 2]; }

 private:
  Four<S>* rows_;
  Two* lines_;
};

// Lines that a warp's lanes copy at once, and of which what a lane copies has the same place in all.
inline constexpr unsigned lines_at_once = warp_size / piece_pairs;

// Lines of the model that lie one after the other, as many features apart as there are.
struct Run {
  const double* first;
  unsigned count;
};

// Where a lane copies from, at the first of its features: of the tile's rows, four features each; of every fourth line of some
// runs, two, each run with run_places places in a piece, a multiple of four; and of every fourth of some single lines, which
// come after the runs.
template <class S, unsigned Singles, unsigned Runs>
struct Sources {
  const S* rows[row_matrices];
  const double* singles[(Singles + lines_at_once - 1) / lines_at_once];
  const double* runs[Runs];
  unsigned run_counts[Runs];
  unsigned run_places;
  std::size_t n_features;

  // The line of a piece that a run begins with, and a single one.
  __device__ unsigned run_line(unsigned r) const { return r * run_places; }
  __device__ unsigned single_line(unsigned s) const { return Runs * run_places + s; }
  __device__ void advance(std::size_t features) {
#pragma unroll
    for (auto& row : rows) row += features;
#pragma unroll
    for (auto& line : singles) line += features;
#pragma unroll
    for (auto& run : runs) run += features;
  }
};

template <class S, unsigned Singles, unsigned Runs>
__device__ Sources<S, Singles, Runs> sources(const Rows<S>& rows, const Tile& members, std::size_t n_features,
                                             const double* const (&singles)[Singles], const Run (&runs)[Runs],
                                             unsigned run_places) {
  const unsigned lane = threadIdx.x % warp_size;
  const unsigned line = lane / piece_pairs;
  const unsigned begin = lane % piece_pairs * 2;
  Sources<S, Singles, Runs> of_lane{};
  of_lane.run_places = run_places;
  of_lane.n_features = n_features;
#pragma unroll
  for (unsigned m = 0; m < row_matrices; ++m)
    of_lane.rows[m] = rows.row(members.row(m * matrix_rows + tensor::lane().g)) + 4 * tensor::lane().c;
#pragma unroll
  for (unsigned s = 0; s < Singles; ++s)
    if (s % lines_at_once == 0 || line == s % lines_at_once) of_lane.singles[s / lines_at_once] = singles[s] + begin;
#pragma unroll
  for (unsigned r = 0; r < Runs; ++r) {
    of_lane.runs[r] = runs[r].first + line * n_features + begin;
    of_lane.run_counts[r] = runs[r].count;
  }
  return of_lane;
}

// Calls copy(line of a piece, where it lies) for the lines of which this lane copies a pair.
template <class S, unsigned Singles, unsigned Runs, class Copy>
__device__ void for_own_lines(const Sources<S, Singles, Runs>& from, const Copy& copy) {
  const unsigned own = threadIdx.x % warp_size / piece_pairs;
#pragma unroll
  for (unsigned first = 0; first < Singles; first += lines_at_once)
    if (first + own < Singles) copy(from.single_line(first) + own, from.singles[first / lines_at_once]);
#pragma unroll
  for (unsigned r = 0; r < Runs; ++r)
    for (unsigned first = 0; first < from.run_places; first += lines_at_once)
      if (first + own < from.run_counts[r])
        copy(from.run_line(r) + first + own, from.runs[r] + first * from.n_features);
}

// Starts to copy the next piece, all of it there and in line.
template <class S, unsigned Singles, unsigned Runs>
__device__ void fetch(const Piece<S>& piece, const Sources<S, Singles, Runs>& from) {
#pragma unroll
  for (unsigned m = 0; m < row_matrices; ++m) copy_to_block<sizeof(Four<S>), true>(&piece.four(m), from.rows[m]);
  for_own_lines(from, [&](unsigned line, const double* of) {
    copy_to_block<sizeof(Two)>(&piece.pair(line, threadIdx.x % piece_pairs), of);
  });
}

// Copies what there is of a piece, wherever it lies, from feature `start` on; the others are 0.
template <class S, unsigned Singles, unsigned Runs>
__device__ void fetch_rest(const Piece<S>& piece, const Sources<S, Singles, Runs>& from, std::size_t start) {
  const auto left = [&](unsigned own) {
    return start + own < from.n_features ? static_cast<unsigned>(from.n_features - start) - own : 0;
  };
  const unsigned row_left = left(4 * tensor::lane().c);
  for (unsigned m = 0; m < row_matrices; ++m) piece.four(m) = load_four(from.rows[m] + start, row_left, false);
  const unsigned at = threadIdx.x % piece_pairs;
  const unsigned line_left = left(2 * at);
  for_own_lines(from, [&](unsigned line, const double* of) {
    for (unsigned e = 0; e < 2; ++e) piece.pair(line, at).values[e] = e < line_left ? of[start + e] : 0.0;
  });
}

// A block's memory for pieces: each of its warps has so many.
struct PieceMemory {
  std::size_t piece_bytes;
  unsigned n_pieces;  // two or three

  MFA_HD constexpr std::size_t bytes() const { return tile_block_warps * n_pieces * piece_bytes; }
};

// Calls work(piece, its first feature) for the pieces that are this warp's.
template <class S, unsigned Singles, unsigned Runs, class Work>
__device__ void for_each_piece(const Sources<S, Singles, Runs>& from, bool in_line, const PieceMemory& memory,
                               const Work& work) {
  const std::size_t d = from.n_features;
  const unsigned ahead = memory.n_pieces - 1;
  constexpr std::size_t stride = tile_block_warps * piece_features;
  const std::size_t first = threadIdx.x / warp_size * piece_features;
  const auto steps_to = [first](std::size_t end) {
    return end > first ? static_cast<unsigned>((end - first + stride - 1) / stride) : 0;
  };
  const unsigned whole = in_line ? steps_to(d / piece_features * piece_features) : 0;
  unsigned char* const begin = block_memory() + threadIdx.x / warp_size * memory.n_pieces * memory.piece_bytes;
  unsigned char* const end = begin + memory.n_pieces * memory.piece_bytes;
  unsigned char* coming = begin;
  unsigned char* now = begin;
  const auto move_on = [&](unsigned char*& piece) {
    piece += memory.piece_bytes;
    if (piece == end) piece = begin;
  };
  Sources<S, Singles, Runs> next = from;
  next.advance(first);
  for (unsigned step = 0; step < whole + ahead; ++step) {
    if (step >= ahead) {
      if (ahead == 1) await_copies<0>();
      else await_copies<1>();
      __syncwarp();  // the others' copies have come as well, and all are done with the piece before
    }
    if (step < whole) {
      fetch(Piece<S>(coming), next);
      next.advance(stride);
      move_on(coming);
    }
    commit_copies();
    if (step < ahead) continue;
    work(Piece<S>(now), first + (step - ahead) * stride);
    move_on(now);
  }
  // What is left, or cannot be copied ahead: one piece at a time, in the place of the first.
  for (unsigned step = whole; step < steps_to(d); ++step) {
    const std::size_t start = first + step * stride;
    __syncwarp();
    fetch_rest(Piece<S>(begin), from, start);
    __syncwarp();
    work(Piece<S>(begin), start);
  }
}

// Whether pieces can be copied: rows in fours and lines, which lie n_features apart, in pairs.
template <class S>
MFA_HD bool lies_in_line(const Rows<S>& rows, std::size_t n_features) {
  return rows.has_aligned_fours() && n_features % 2 == 0;
}

}  // namespace mfa::cuda
