// The difference form of single rows about a component's own mean. Part of loops.cpp.
#pragma once

#include <cstddef>

#include "cpu/isa.hpp"
#include "cpu/loops/products.hpp"
#include "cpu/prefetch.hpp"

namespace mfa::cpu::inline MFA_ISA {
namespace {

// What rows of T, about a mean and in the precision A, are multiplied with: columns, and if Squared themselves.
template <class A, bool Squared>
struct Factors {
  const A* mean;
  const A* columns;
  std::size_t stride;
  const A* inverse_noise;  // null for 1
};

// One vector of those products. The last of the sums is that of the squares.
template <bool Whole, bool Squared, class T, class A, std::size_t Rows, std::size_t Sums>
MFA_INLINE void difference_step(const T* const* x, const Factors<A, Squared>& f, std::size_t j, std::size_t count,
                                Vector<A, width<A>> (&sums)[Rows][Sums]) {
  constexpr std::size_t w = width<A>;
  constexpr std::size_t n_columns = Squared ? Sums - 1 : Sums;
  const Vector<A, w> mean = load_some<Whole, w>(f.mean + j, count);
  Vector<A, w> r[Rows];
#pragma GCC unroll 4
  for (std::size_t i = 0; i < Rows; ++i) {
    const Vector<T, w> value = load_some<Whole, w>(x[i] + j, count);
    if constexpr (sizeof(T) == sizeof(A)) r[i] = value - mean;
    else r[i] = widen<w>(value) - mean;
  }
#pragma GCC unroll 8
  for (std::size_t c = 0; c < n_columns; ++c) {
    const Vector<A, w> column = load_some<Whole, w>(f.columns + c * f.stride + j, count);
#pragma GCC unroll 4
    for (std::size_t i = 0; i < Rows; ++i) sums[i][c] += r[i] * column;
  }
  if constexpr (Squared) {
    if (f.inverse_noise != nullptr) {
      const Vector<A, w> inverse_noise = load_some<Whole, w>(f.inverse_noise + j, count);
#pragma GCC unroll 4
      for (std::size_t i = 0; i < Rows; ++i) sums[i][n_columns] += r[i] * inverse_noise * r[i];
    } else {
#pragma GCC unroll 4
      for (std::size_t i = 0; i < Rows; ++i) sums[i][n_columns] += r[i] * r[i];
    }
  }
}

// One run of `count` features, whose sums are added to `lanes`.
template <bool Squared, class T, class A, std::size_t Rows, std::size_t Sums>
void difference_tile(const T* const* x, const Factors<A, Squared>& f, std::size_t first, std::size_t count, A* lanes,
                     std::size_t lanes_stride) {
  constexpr std::size_t w = width<A>;
  Vector<A, w> sums[Rows][Sums];
#pragma GCC unroll 4
  for (std::size_t i = 0; i < Rows; ++i)
#pragma GCC unroll 8
    for (std::size_t c = 0; c < Sums; ++c) sums[i][c] = Vector<A, w>{};
  const std::size_t end = first + count;
  std::size_t j = first;
  for (; j + w <= end; j += w) difference_step<true>(x, f, j, w, sums);
  if (j < end) difference_step<false>(x, f, j, end - j, sums);
#pragma GCC unroll 4
  for (std::size_t i = 0; i < Rows; ++i)
#pragma GCC unroll 8
    for (std::size_t c = 0; c < Sums; ++c) {
      A* total = lanes + (i * lanes_stride + c) * w;
      store<A, w>(total, load<A, w>(total) + sums[i][c]);
    }
}

// Up to Sums sums.
template <bool Squared, class T, class A, std::size_t Rows, std::size_t Sums>
void difference_sums(std::size_t n_sums, const T* const* x, const Factors<A, Squared>& f, std::size_t first,
                     std::size_t count, A* lanes, std::size_t lanes_stride) {
  if constexpr (Sums > 0) {
    if (n_sums == Sums) difference_tile<Squared, T, A, Rows, Sums>(x, f, first, count, lanes, lanes_stride);
    else difference_sums<Squared, T, A, Rows, Sums - 1>(n_sums, x, f, first, count, lanes, lanes_stride);
  }
}

template <class T, class A, std::size_t Rows>
void difference_tiles(const T* const* x, const DifferenceView<A>& k, std::size_t first, std::size_t count, A* lanes) {
  constexpr std::size_t w = width<A>;
  const std::size_t n = k.n_factors;
  std::size_t l = 0;
  for (std::size_t some; n + 1 - l > dot_columns; l += some) {
    some = even_columns(n + 1 - l);
    const Factors<A, false> f{k.mean, k.columns + l * k.n_features, k.n_features, nullptr};
    difference_sums<false, T, A, Rows, dot_columns>(some, x, f, first, count, lanes + l * w, n + 1);
  }
  const Factors<A, true> f{k.mean, k.columns + l * k.n_features, k.n_features, k.inverse_noise};
  difference_sums<true, T, A, Rows, dot_columns>(n + 1 - l, x, f, first, count, lanes + l * w, n + 1);
}

// Up to Rows rows.
template <class T, class A, std::size_t Rows>
void difference_rows(std::size_t rows, const T* const* x, const DifferenceView<A>& k, std::size_t first,
                     std::size_t count, A* lanes) {
  if constexpr (Rows > 0) {
    if (rows >= Rows) difference_tiles<T, A, Rows>(x, k, first, count, lanes);
    else difference_rows<T, A, Rows - 1>(rows, x, k, first, count, lanes);
  }
}

// Run by run, so that the component is read once for all rows. Sixteen runs are summed by themselves, as in the matrix product:
// else the sums would be chains of d / 16 w additions, and those of narrow vectors longer than the bound on the error takes
// them to be.
template <class T, class A>
void difference_form(const T* const* x, std::size_t rows, const DifferenceView<A>& k, double* scratch, A* out) {
  constexpr std::size_t w = width<A>;
  const std::size_t d = k.n_features;
  const std::size_t sums = k.n_factors + 1;
  A* lanes = reinterpret_cast<A*>(scratch);  // (rows, sums, w)
  A* totals = lanes + rows * sums * w;       // the same
  for (std::size_t i = 0; i < 2 * rows * sums; ++i) store<A, w>(lanes + i * w, Vector<A, w>{});
  for (std::size_t first = 0, n_runs = 1; first < d; first += run * w, ++n_runs) {
    const std::size_t count = d - first < run * w ? d - first : run * w;
    const std::size_t next = first + count;
    const std::size_t ahead = d - next < run * w ? d - next : run * w;
    for (std::size_t r = 0; r < rows; r += dot_rows) {
      for (std::size_t i = r; i < rows && i < r + dot_rows; ++i) prefetch(x[i] + next, ahead * sizeof(T));
      difference_rows<T, A, dot_rows>(rows - r, x + r, k, first, count, lanes + r * sums * w);
    }
    if (n_runs % run != 0 && next < d) continue;
    for (std::size_t i = 0; i < rows * sums; ++i) {
      store<A, w>(totals + i * w, load<A, w>(totals + i * w) + load<A, w>(lanes + i * w));
      store<A, w>(lanes + i * w, Vector<A, w>{});
    }
  }
  for (std::size_t i = 0; i < rows * sums; ++i) out[i] = sum<A, w>(load<A, w>(totals + i * w));
}

}  // namespace
}  // namespace mfa::cpu::MFA_ISA
