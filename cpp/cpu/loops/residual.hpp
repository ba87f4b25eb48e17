// The residual form, in double. Part of loops.cpp.
#pragma once

#include <cstddef>

#include "core/gaussian.hpp"
#include "cpu/isa.hpp"
#include "cpu/loops/products.hpp"
#include "cpu/prefetch.hpp"

namespace mfa::cpu::inline MFA_ISA {
namespace {

// Features that are walked twice while they are in the first-level cache.
constexpr std::size_t residual_chunk = 128;

// A vector of features: a whole one, or what is left at the end of a row, filled up with zeros. Both take the same
// arithmetic, so that how many rows are done at once does not show in the result.
template <bool Whole, class T>
MFA_INLINE Vector<double, width<double>> load_features(const T* p, std::size_t count) {
  return widen<width<double>>(load_some<Whole, width<double>>(p, count));
}

// weighted <- D^-1 e with e = x - mu - A z, and q += e^T D^-1 e, for N vectors of features of R rows.
template <std::size_t R, std::size_t N, bool Whole, class T>
MFA_INLINE void residuals(const T* const* x, const ComponentView& c, const double* z, std::size_t j,
                          std::size_t count, double (*weighted)[residual_chunk], std::size_t at,
                          Vector<double, width<double>> (&q)[R]) {
  constexpr std::size_t w = width<double>;
  Vector<double, w> e[R][N];
  for (std::size_t v = 0; v < N; ++v) {
    const Vector<double, w> mean =
        c.mean == nullptr ? broadcast<double, w>(0.0) : load_features<Whole>(c.mean + j + v * w, count);
#pragma GCC unroll 4
    for (std::size_t r = 0; r < R; ++r) e[r][v] = load_features<Whole>(x[r] + j + v * w, count) - mean;
  }
  for (std::size_t l = 0; l < c.n_factors; ++l) {
    Vector<double, w> a[N];
    for (std::size_t v = 0; v < N; ++v) a[v] = load_features<Whole>(c.loadings + l * c.n_features + j + v * w, count);
#pragma GCC unroll 4
    for (std::size_t r = 0; r < R; ++r) {
      const Vector<double, w> factor = broadcast<double, w>(z[r * c.n_factors + l]);
      for (std::size_t v = 0; v < N; ++v) e[r][v] -= a[v] * factor;
    }
  }
  for (std::size_t v = 0; v < N; ++v) {
    const Vector<double, w> inverse_noise = c.inverse_noise == nullptr
                                                ? broadcast<double, w>(c.inverse_noise_scalar)
                                                : load_features<Whole>(c.inverse_noise + j + v * w, count);
#pragma GCC unroll 4
    for (std::size_t r = 0; r < R; ++r) {
      const Vector<double, w> scaled = e[r][v] * inverse_noise;
      q[r] += scaled * e[r][v];
      store<double, w>(weighted[r] + at + v * w, scaled);
    }
  }
}

// The same for a chunk of features, whose end in `weighted` is filled up with zeros.
template <std::size_t R, class T>
MFA_INLINE void residual_block(const T* const* x, const ComponentView& c, const double* z, std::size_t start,
                               std::size_t count, double (*weighted)[residual_chunk],
                               Vector<double, width<double>> (&q)[R]) {
  constexpr std::size_t w = width<double>;
  std::size_t i = 0;
  for (; i + 2 * w <= count; i += 2 * w) residuals<R, 2, true>(x, c, z, start + i, w, weighted, i, q);
  for (; i + w <= count; i += w) residuals<R, 1, true>(x, c, z, start + i, w, weighted, i, q);
  if (i < count) residuals<R, 1, false>(x, c, z, start + i, count - i, weighted, i, q);
}

// One vector of the products of R chunks with Columns rows of a matrix whose rows lie `stride` apart.
template <std::size_t R, std::size_t Columns, bool Whole>
MFA_INLINE void add_dots_step(const double (*chunks)[residual_chunk], const double* a, std::size_t stride,
                              std::size_t i, std::size_t count,
                              Vector<double, width<double>> (&sums)[R][Columns]) {
  constexpr std::size_t w = width<double>;
  Vector<double, w> values[R];
#pragma GCC unroll 4
  for (std::size_t r = 0; r < R; ++r) values[r] = load<double, w>(chunks[r] + i);
#pragma GCC unroll 8
  for (std::size_t l = 0; l < Columns; ++l) {
    const Vector<double, w> lanes = load_features<Whole>(a + l * stride + i, count);
#pragma GCC unroll 4
    for (std::size_t r = 0; r < R; ++r) sums[r][l] += values[r] * lanes;
  }
}

// lanes (R, Columns; `lanes_stride` vectors apart) += those products, one vector of partial sums each.
template <std::size_t R, std::size_t Columns>
MFA_INLINE void add_dots(const double (*chunks)[residual_chunk], const double* a, std::size_t stride,
                         std::size_t count, double* lanes, std::size_t lanes_stride) {
  constexpr std::size_t w = width<double>;
  Vector<double, w> sums[R][Columns];
#pragma GCC unroll 4
  for (std::size_t r = 0; r < R; ++r)
#pragma GCC unroll 8
    for (std::size_t l = 0; l < Columns; ++l) sums[r][l] = load<double, w>(lanes + (r * lanes_stride + l) * w);
  std::size_t i = 0;
  for (; i + w <= count; i += w) add_dots_step<R, Columns, true>(chunks, a, stride, i, w, sums);
  if (i < count) add_dots_step<R, Columns, false>(chunks, a, stride, i, count - i, sums);
#pragma GCC unroll 4
  for (std::size_t r = 0; r < R; ++r)
#pragma GCC unroll 8
    for (std::size_t l = 0; l < Columns; ++l) store<double, w>(lanes + (r * lanes_stride + l) * w, sums[r][l]);
}

template <std::size_t R, std::size_t Columns>
MFA_INLINE void add_some_dots(std::size_t n_columns, const double (*chunks)[residual_chunk], const double* a,
                                 std::size_t stride, std::size_t count, double* lanes, std::size_t lanes_stride) {
  if constexpr (Columns > 0) {
    if (n_columns == Columns) add_dots<R, Columns>(chunks, a, stride, count, lanes, lanes_stride);
    else add_some_dots<R, Columns - 1>(n_columns, chunks, a, stride, count, lanes, lanes_stride);
  }
}

// One chunk of features of R rows; lanes (R, L + 1) are partial sums of the gradient and, last, of q.
template <std::size_t R, class T>
void residual_form_chunk(const T* const* x, const ComponentView& c, const double* z, std::size_t start,
                         std::size_t count, double* lanes) {
  constexpr std::size_t w = width<double>;
  const std::size_t n = c.n_factors;
  alignas(64) double weighted[R][residual_chunk];
  Vector<double, w> q[R];
  for (std::size_t r = 0; r < R; ++r) q[r] = load<double, w>(lanes + (r * (n + 1) + n) * w);
  residual_block<R>(x, c, z, start, count, weighted, q);
  for (std::size_t r = 0; r < R; ++r) store<double, w>(lanes + (r * (n + 1) + n) * w, q[r]);
  const double* a = c.loadings + start;
  for (std::size_t l = 0, some; l < n; l += some) {
    some = even_columns(n - l);
    add_some_dots<R, dot_columns>(some, weighted, a + l * c.n_features, c.n_features, count, lanes + l * w, n + 1);
  }
}

// Up to R rows.
template <std::size_t R, class T>
void residual_form_some(std::size_t rows, const T* const* x, const ComponentView& c, const double* z,
                        std::size_t start, std::size_t count, double* lanes) {
  if constexpr (R > 0) {
    if (rows >= R) residual_form_chunk<R>(x, c, z, start, count, lanes);
    else residual_form_some<R - 1>(rows, x, c, z, start, count, lanes);
  }
}

// Chunk by chunk, so that the loadings are read once for all rows.
template <class T>
void residual_form(const T* const* x, std::size_t rows, const ComponentView& c, const double* z, double* scratch,
                   double* q, double* gradient) {
  constexpr std::size_t w = width<double>;
  const std::size_t n = c.n_factors;
  const std::size_t first_chunk = c.n_features < residual_chunk ? c.n_features : residual_chunk;
  for (std::size_t r = 0; r < rows; ++r) prefetch(x[r], first_chunk * sizeof(T));
  for (std::size_t i = 0; i < rows * (n + 1) * w; ++i) scratch[i] = 0.0;
  for (std::size_t start = 0; start < c.n_features; start += residual_chunk) {
    const std::size_t count = c.n_features - start < residual_chunk ? c.n_features - start : residual_chunk;
    const std::size_t next = start + count;
    const std::size_t ahead = c.n_features - next < residual_chunk ? c.n_features - next : residual_chunk;
    for (std::size_t r = 0; r < rows; r += dot_rows) {
      // The rows lie anywhere, so that the processor does not guess what comes next.
      for (std::size_t i = r; i < rows && i < r + dot_rows; ++i) prefetch(x[i] + next, ahead * sizeof(T));
      residual_form_some<dot_rows>(rows - r, x + r, c, z + r * n, start, count,
                                   scratch + r * (n + 1) * w);
    }
  }
  for (std::size_t r = 0; r < rows; ++r) {
    const double* lanes = scratch + r * (n + 1) * w;
    for (std::size_t l = 0; l < n; ++l)
      gradient[r * n + l] = sum<double, w>(load<double, w>(lanes + l * w)) - z[r * n + l];
    q[r] = sum<double, w>(load<double, w>(lanes + n * w)) + core::squared_norm(n, z + r * n);
  }
}

// Up to R rows.
template <std::size_t R, class T>
void add_precision_products_some(std::size_t rows, const T* const* x, const ComponentView& c, const double* z,
                                 const double* shares, const bool* begins, std::size_t start, std::size_t count,
                                 double* const* out) {
  if constexpr (R > 0) {
    if (rows < R) return add_precision_products_some<R - 1>(rows, x, c, z, shares, begins, start, count, out);
    alignas(64) double weighted[R][residual_chunk];
    Vector<double, width<double>> q[R] = {};
    residual_block<R>(x, c, z, start, count, weighted, q);
    for (std::size_t r = 0; r < R; ++r) {
      double* to = out[r] + start;
      if (begins[r])
        for (std::size_t i = 0; i < count; ++i) to[i] = shares[r] * weighted[r][i];
      else
        for (std::size_t i = 0; i < count; ++i) to[i] += shares[r] * weighted[r][i];
    }
  }
}

// Chunk by chunk, as above.
template <class T>
void add_precision_products(const T* const* x, std::size_t rows, const ComponentView& c, const double* z,
                            const double* shares, const bool* begins, double* const* out) {
  for (std::size_t start = 0; start < c.n_features; start += residual_chunk) {
    const std::size_t count = c.n_features - start < residual_chunk ? c.n_features - start : residual_chunk;
    for (std::size_t r = 0; r < rows; r += dot_rows)
      add_precision_products_some<dot_rows>(rows - r, x + r, c, z + r * c.n_factors, shares + r, begins + r, start, count,
                                            out + r);
  }
}

}  // namespace
}  // namespace mfa::cpu::MFA_ISA
