// What warps do with a tile's part of a piece (pieces.hpp), in double on tensor cores (tensor.hpp).
#pragma once

#include "pieces.hpp"

namespace mfa::cuda {

// Threads that share what is to be done once for a row.
inline constexpr unsigned tile_sharers = tile_block_threads / tile_entries;

// A lane's numbers of a piece: of rows 8 m + g features 4 c + 2 h + e.
using TilePart = double[row_matrices][2][2];
// Where features 4 c + 2 h and the next are in a line.
__device__ inline unsigned lane_pair(unsigned h) { return 2 * tensor::lane().c + h; }

// Calls visit(m, h, e) for all of them.
template <class Visit>
__device__ void for_tile_part(const Visit& visit) {
#pragma unroll
  for (unsigned m = 0; m < row_matrices; ++m)
#pragma unroll
    for (unsigned h = 0; h < 2; ++h)
#pragma unroll
      for (unsigned e = 0; e < 2; ++e) visit(m, h, e);
}

template <class S>
__device__ void read_rows(const Piece<S>& piece, TilePart& x) {
#pragma unroll
  for (unsigned m = 0; m < row_matrices; ++m) {
    const Four<S> four = piece.four(m);
#pragma unroll
    for (unsigned f = 0; f < 4; ++f) x[m][f / 2][f % 2] = to<double>(four.values[f]);
  }
}

// A lane's numbers of a line.
struct LinePart {
  double values[2][2];
};
template <class S>
__device__ LinePart read_line(const Piece<S>& piece, unsigned line) {
  const Two first = piece.pair(line, lane_pair(0)), second = piece.pair(line, lane_pair(1));
  return {{{first.values[0], first.values[1]}, {second.values[0], second.values[1]}}};
}

// Some lines of a component, its loadings or its columns: in a piece or, where they are too many to be Copied, where they lie,
// from the piece's first feature on. Lines that there are none of, and features, are 0.
template <class S, bool Copied>
struct FactorLines {
  Piece<S> piece;
  unsigned first, count;
  const double* lines;       // that are not copied:
  std::size_t stride, left;  // features from one to the next, and of each

  __device__ double number(unsigned l, unsigned feature) const {
    if constexpr (Copied) return l < count ? piece.number(first + l, feature) : 0.0;
    else return l < count && feature < left ? lines[l * stride + feature] : 0.0;
  }
  __device__ Two pair(unsigned l, unsigned at) const {
    if constexpr (Copied) return l < count ? piece.pair(first + l, at) : Two{};
    else return {{number(l, 2 * at), number(l, 2 * at + 1)}};
  }
};
// The places of L lines in a piece.
MFA_HD constexpr unsigned line_places(std::size_t L) {
  return (static_cast<unsigned>(L) + lines_at_once - 1) / lines_at_once * lines_at_once;
}
// Those that a piece has a run of.
template <bool Copied>
__device__ Run factor_run(const double* lines, std::size_t L) {
  return {lines, Copied ? static_cast<unsigned>(L) : 0};
}
template <bool Copied>
__device__ unsigned run_places(std::size_t L) {
  return Copied ? line_places(L) : 0;
}

// Run r of a piece that begins with a feature.
template <bool Copied, class S, unsigned Singles, unsigned Runs>
__device__ FactorLines<S, Copied> factor_lines(const Piece<S>& piece, const Sources<S, Singles, Runs>& from, unsigned r,
                                               const double* lines, std::size_t L, std::size_t start) {
  return {piece, from.run_line(r), static_cast<unsigned>(L), lines + start, from.n_features, from.n_features - start};
}

// Computes  part += a lines: factor(m, l) is a_l of the lane's row 8 m + g.
// Cost      2 flops for every number and line.
template <class S, bool Copied, class Factor>
__device__ void add_explained(TilePart& part, const FactorLines<S, Copied>& lines, const Factor& factor) {
  const tensor::Lane own = tensor::lane();
  for (unsigned first = 0; first < lines.count; first += 8) {
    double line[2][2], a[row_matrices][2];
#pragma unroll
    for (unsigned p = 0; p < 2; ++p) {
      const unsigned l = first + 4 * p + own.c;
      // The lane's column of the product is the feature that another has in its sums.
#pragma unroll
      for (unsigned h = 0; h < 2; ++h) line[h][p] = lines.number(l, own.g / 2 * 4 + 2 * h + own.g % 2);
#pragma unroll
      for (unsigned m = 0; m < row_matrices; ++m) a[m][p] = l < lines.count ? factor(m, l) : 0.0;
    }
#pragma unroll
    for (unsigned m = 0; m < row_matrices; m += 2) {
      const double both[2][2] = {{a[m][0], a[m][1]}, {a[m + 1][0], a[m + 1][1]}};
#pragma unroll
      for (unsigned h = 0; h < 2; ++h) tensor::multiply_add(part[m][h], part[m + 1][h], both, line[h]);
    }
  }
}

// Computes  products += part line^T for eight lines, over features 4 c + 2 h and the next: `line` has those of line g.
// Cost      2 flops for every number and line.
__device__ inline void add_products(double (&products)[row_matrices][2], const TilePart& part, unsigned h,
                                    const double (&line)[2]) {
#pragma unroll
  for (unsigned m = 0; m < row_matrices; m += 2) {
    const double both[2][2] = {{part[m][h][0], part[m][h][1]}, {part[m + 1][h][0], part[m + 1][h][1]}};
    tensor::multiply_add(products[m], products[m + 1], both, line);
  }
}
// Over all of the lane's features, for lines first to first + 7.
template <class S, bool Copied>
__device__ void add_products(double (&products)[row_matrices][2], const TilePart& part, const FactorLines<S, Copied>& lines,
                             unsigned first) {
#pragma unroll
  for (unsigned h = 0; h < 2; ++h) add_products(products, part, h, lines.pair(first + tensor::lane().g, lane_pair(h)).values);
}

// A warp's sums over its features, put where the block can add them up: parts (tile_entries, Width).
template <unsigned Tiles, unsigned Width>
__device__ void store_products(const double (&products)[Tiles][row_matrices][2], double (*parts)[Width]) {
  const tensor::Lane own = tensor::lane();
#pragma unroll
  for (unsigned m = 0; m < row_matrices; ++m)
#pragma unroll
    for (unsigned t = 0; t < Tiles; ++t)
      for (unsigned e = 0; e < 2; ++e)
        parts[m * matrix_rows + own.g][t * tile_columns + 2 * own.c + e] = products[t][m][e];
}
// The same of further numbers, of which every lane has its features' part, from column `first` on.
template <unsigned Numbers, unsigned Width>
__device__ void store_numbers(const double (&numbers)[Numbers][row_matrices], unsigned first, double (*parts)[Width]) {
  const tensor::Lane own = tensor::lane();
#pragma unroll
  for (unsigned n = 0; n < Numbers; ++n)
#pragma unroll
    for (unsigned m = 0; m < row_matrices; ++m) {
      const double sum = tensor::row_sum(numbers[n][m]);
      if (own.c == 0) parts[m * matrix_rows + own.g][first + n] = sum;
    }
}

// Memory for pieces, and whether these have the lines of factors as well.
struct FactorMemory {
  PieceMemory pieces;
  bool copied;
};
// With the lines of `runs` times L factors where a block has room for them and `beside` bytes more; else without.
template <class S>
FactorMemory memory_for(unsigned singles, unsigned runs, std::size_t L, std::size_t beside) {
  // With more than that the blocks of a processor would be too few.
  constexpr std::size_t enough = std::size_t{100} << 10;
  const PieceMemory two{Piece<S>::bytes(singles + runs * line_places(L)), 2};
  const PieceMemory three{two.piece_bytes, 3};
  const std::size_t room = room_in_block();
  if (three.bytes() <= enough && three.bytes() + beside <= room) return {three, true};
  if (two.bytes() + beside <= room) return {two, true};
  return {{Piece<S>::bytes(singles), 3}, false};
}

}  // namespace mfa::cuda
