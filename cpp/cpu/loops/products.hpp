// Matrix products, and the tiles in which single rows are multiplied. Part of loops.cpp.
#pragma once

#include <cstddef>

#include "cpu/isa.hpp"
#include "cpu/loops/registers.hpp"
#include "cpu/prefetch.hpp"

namespace mfa::cpu::inline MFA_ISA {
namespace {

// Features that are multiplied in one go: some hundred rows of them stay in the second-level cache, one tile in the first.
constexpr std::size_t product_depth = 256;
// Terms that are summed in turn before they are added to the total. Even where all terms are alike, so that every
// rounding goes the same way, the error is then that of some dozens of additions, not of d of them.
constexpr std::size_t run = 16;

// One run of features of a tile: what Rows rows make with its vectors of columns.
template <class T, std::size_t Rows, std::size_t Vectors>
MFA_INLINE void multiply_run(const T* x, std::size_t x_stride, const T* panel, std::size_t depth,
                             Vector<T, width<T>> (&sums)[Rows][Vectors]) {
  constexpr std::size_t w = width<T>;
#pragma GCC unroll 8
  for (std::size_t r = 0; r < Rows; ++r)
    for (std::size_t v = 0; v < Vectors; ++v) sums[r][v] = Vector<T, w>{};
  for (std::size_t k = 0; k < depth; ++k) {
    Vector<T, w> columns[Vectors];
    for (std::size_t v = 0; v < Vectors; ++v) columns[v] = load<T, w>(panel + (k * Vectors + v) * w);
#pragma GCC unroll 8
    for (std::size_t r = 0; r < Rows; ++r) {
      const Vector<T, w> value = broadcast<T, w>(x[r * x_stride + k]);
      for (std::size_t v = 0; v < Vectors; ++v) sums[r][v] += value * columns[v];
    }
  }
}

template <class T, std::size_t Rows, std::size_t Vectors>
void multiply_tile(const T* x, std::size_t x_stride, const T* panel, std::size_t depth, T* out,
                   std::size_t out_stride, bool add) {
  constexpr std::size_t w = width<T>;
  Vector<T, w> totals[Rows][Vectors];
  multiply_run(x, x_stride, panel, depth < run ? depth : run, totals);
  for (std::size_t first = run; first < depth; first += run) {
    Vector<T, w> sums[Rows][Vectors];
    multiply_run(x + first, x_stride, panel + first * Vectors * w, depth - first < run ? depth - first : run, sums);
#pragma GCC unroll 8
    for (std::size_t r = 0; r < Rows; ++r)
      for (std::size_t v = 0; v < Vectors; ++v) totals[r][v] += sums[r][v];
  }
#pragma GCC unroll 8
  for (std::size_t r = 0; r < Rows; ++r)
    for (std::size_t v = 0; v < Vectors; ++v) {
      T* target = out + r * out_stride + v * w;
      store<T, w>(target, add ? load<T, w>(target) + totals[r][v] : totals[r][v]);
    }
}

// The rows that are left over take a kernel of their own size; each number is summed in the same order in all of them,
// so that a row's result does not depend on the rows beside it.
template <class T, std::size_t Rows, std::size_t Vectors>
void multiply_rest(std::size_t rows, const T* x, std::size_t x_stride, const T* panel, std::size_t depth, T* out,
                   std::size_t out_stride, bool add) {
  if constexpr (Rows > 0) {
    if (rows == Rows) multiply_tile<T, Rows, Vectors>(x, x_stride, panel, depth, out, out_stride, add);
    else multiply_rest<T, Rows - 1, Vectors>(rows, x, x_stride, panel, depth, out, out_stride, add);
  }
}

// Features [start, start + depth) of all rows with the tile whose first column is vector `column`.
template <class T, std::size_t Vectors>
void multiply_columns(MatrixView<const T> x, const T* panel, std::size_t column, std::size_t start, std::size_t depth,
                      MatrixView<T> out) {
  constexpr std::size_t w = width<T>;
  const T* tile = panel + (column * x.cols + start * Vectors) * w;
  std::size_t r = 0;
  for (; r + product_rows <= x.rows; r += product_rows)
    multiply_tile<T, product_rows, Vectors>(x.row(r) + start, x.stride, tile, depth, out.row(r) + column * w, out.stride,
                                            start > 0);
  multiply_rest<T, product_rows - 1, Vectors>(x.rows - r, x.row(r) + start, x.stride, tile, depth,
                                              out.row(r) + column * w, out.stride, start > 0);
}

template <class T>
void multiply(MatrixView<const T> x, const T* panel, std::size_t n_vectors, MatrixView<T> out) {
  for (std::size_t start = 0; start < x.cols; start += product_depth) {
    const std::size_t depth = x.cols - start < product_depth ? x.cols - start : product_depth;
    std::size_t column = 0;
    for (; column + 2 <= n_vectors; column += 2) multiply_columns<T, 2>(x, panel, column, start, depth, out);
    if (column < n_vectors) multiply_columns<T, 1>(x, panel, column, start, depth, out);
  }
}

// Rows that are multiplied with columns at once, and these: their accumulators fit the register file, and there are enough
// of them to hide what one addition takes.
constexpr std::size_t dot_rows = vector_bytes == 64 ? 4 : 3;
constexpr std::size_t dot_columns = vector_bytes == 64 ? 6 : 4;

// How many of n columns to take at once, so that no tile is left with few of them.
constexpr std::size_t even_columns(std::size_t n) {
  const std::size_t tiles = (n + dot_columns - 1) / dot_columns;
  return tiles == 0 ? 0 : (n + tiles - 1) / tiles;
}

}  // namespace
}  // namespace mfa::cpu::MFA_ISA
