// The inner loops, compiled once per instruction set. They know vectors and caches; the formulas are in core/.
// No standard-library template that could be emitted out of line may be used here: the linker would share it with code
// for older machines.
#include <cmath>
#include <cstddef>
#include <cstring>

#include "core/gaussian.hpp"
#include "core/normal.hpp"
#include "core/philox.hpp"
#include "core/screening.hpp"
#include "cpu/isa.hpp"
#include "cpu/simd.hpp"

namespace mfa::cpu::MFA_ISA {
namespace {

// Bytes of a vector register, and rows of the matrix product whose accumulators fit the register file.
#if defined(__AVX512F__)
constexpr std::size_t vector_bytes = 64;
constexpr std::size_t product_rows = 8;
#elif defined(__AVX2__)
constexpr std::size_t vector_bytes = 32;
constexpr std::size_t product_rows = 6;
#else
constexpr std::size_t vector_bytes = 16;
constexpr std::size_t product_rows = 4;
#endif
template <class T>
constexpr std::size_t width = vector_bytes / sizeof(T);
template <class T>
constexpr std::size_t tile_columns = 2 * width<T>;

// ---------------------------------------------------------------------------------------------- matrix product

// Features that are multiplied in one go: 256 rows of them stay in the second-level cache, one tile of them in the first.
constexpr std::size_t product_depth = 256;
// Terms that are summed in turn before they are added to the total. Even where all terms are alike, so that every
// rounding goes the same way, the error is then that of some dozens of additions, not of d of them.
constexpr std::size_t run = 16;

// One run of features of a tile: what Rows rows make with two vectors of columns.
template <class T, std::size_t Rows>
MFA_INLINE void multiply_run(const T* x, std::size_t x_stride, const T* panel, std::size_t depth,
                             Vector<T, width<T>> (&sums)[Rows][2]) {
  constexpr std::size_t w = width<T>;
#pragma GCC unroll 8
  for (std::size_t r = 0; r < Rows; ++r) sums[r][0] = sums[r][1] = Vector<T, w>{};
  for (std::size_t k = 0; k < depth; ++k) {
    const Vector<T, w> left = load<T, w>(panel + k * 2 * w);
    const Vector<T, w> right = load<T, w>(panel + k * 2 * w + w);
#pragma GCC unroll 8
    for (std::size_t r = 0; r < Rows; ++r) {
      const Vector<T, w> value = broadcast<T, w>(x[r * x_stride + k]);
      sums[r][0] += value * left;
      sums[r][1] += value * right;
    }
  }
}

template <class T, std::size_t Rows>
void multiply_tile(const T* x, std::size_t x_stride, const T* panel, std::size_t depth, T* out,
                   std::size_t out_stride, bool add) {
  constexpr std::size_t w = width<T>;
  Vector<T, w> totals[Rows][2];
  multiply_run<T, Rows>(x, x_stride, panel, depth < run ? depth : run, totals);
  for (std::size_t first = run; first < depth; first += run) {
    Vector<T, w> sums[Rows][2];
    multiply_run<T, Rows>(x + first, x_stride, panel + first * 2 * w, depth - first < run ? depth - first : run, sums);
#pragma GCC unroll 8
    for (std::size_t r = 0; r < Rows; ++r) {
      totals[r][0] += sums[r][0];
      totals[r][1] += sums[r][1];
    }
  }
#pragma GCC unroll 8
  for (std::size_t r = 0; r < Rows; ++r)
    for (std::size_t half = 0; half < 2; ++half) {
      T* target = out + r * out_stride + half * w;
      store<T, w>(target, add ? load<T, w>(target) + totals[r][half] : totals[r][half]);
    }
}

// The rows that are left over take a kernel of their own size; each number is summed in the same order in all of them,
// so that a row's result does not depend on the rows beside it.
template <class T, std::size_t Rows>
void multiply_rest(std::size_t rows, const T* x, std::size_t x_stride, const T* panel, std::size_t depth, T* out,
                   std::size_t out_stride, bool add) {
  if constexpr (Rows > 0) {
    if (rows == Rows) multiply_tile<T, Rows>(x, x_stride, panel, depth, out, out_stride, add);
    else multiply_rest<T, Rows - 1>(rows, x, x_stride, panel, depth, out, out_stride, add);
  }
}

template <class T>
void multiply(MatrixView<const T> x, const T* panel, std::size_t n_tiles, MatrixView<T> out) {
  constexpr std::size_t columns = tile_columns<T>;
  const std::size_t d = x.cols;
  for (std::size_t start = 0; start < d; start += product_depth) {
    const std::size_t depth = d - start < product_depth ? d - start : product_depth;
    for (std::size_t tile = 0; tile < n_tiles; ++tile) {
      const T* block = panel + (tile * d + start) * columns;
      std::size_t r = 0;
      for (; r + product_rows <= x.rows; r += product_rows)
        multiply_tile<T, product_rows>(x.row(r) + start, x.stride, block, depth, out.row(r) + tile * columns,
                                       out.stride, start > 0);
      multiply_rest<T, product_rows - 1>(x.rows - r, x.row(r) + start, x.stride, block, depth,
                                         out.row(r) + tile * columns, out.stride, start > 0);
    }
  }
}

// One vector of a centred row; a part of one at the end of the row.
template <bool Whole, class T>
MFA_INLINE void center_features(const T* x, const T* center, const T* scale, std::size_t j, std::size_t count, T* out,
                                T* squares, Vector<double, width<double>>& norm) {
  constexpr std::size_t w = width<double>;
  Vector<T, w> value = load_some<Whole, w>(x + j, count) - load_some<Whole, w>(center + j, count);
  if (scale != nullptr) value *= load_some<Whole, w>(scale + j, count);
  store_some<Whole, w>(out + j, value, count);
  if (squares != nullptr) store_some<Whole, w>(squares + j, value * value, count);
  const Vector<double, w> wide = widen<w>(value);
  norm += wide * wide;
}

template <class T>
double center(const T* x, const T* center, const T* scale, std::size_t d, T* out, T* squares) {
  constexpr std::size_t w = width<double>;
  constexpr std::size_t unroll = 4;  // sums that do not wait for each other
  Vector<double, w> norms[unroll] = {};
  std::size_t j = 0;
  for (; j + unroll * w <= d; j += unroll * w)
#pragma GCC unroll 4
    for (std::size_t u = 0; u < unroll; ++u)
      center_features<true>(x, center, scale, j + u * w, w, out, squares, norms[u]);
  for (; j < d; j += w)
    center_features<false>(x, center, scale, j, d - j < w ? d - j : w, out, squares, norms[0]);
  return sum<double, w>((norms[0] + norms[1]) + (norms[2] + norms[3]));
}

template <class T>
void log_densities(const DifferenceTerms& terms, const T* product, const T* x_norms, double* values, double* errors) {
  const std::size_t n = terms.n_components;
  for (std::size_t k = 0; k < n; ++k) values[k] = 0.0;
  for (std::size_t l = 0; l < terms.n_factors; ++l) {
    const T* row = product + l * n;
    const double* mean = terms.projected_means + l * n;
    for (std::size_t k = 0; k < n; ++k) {
      const double v = static_cast<double>(row[k]) - mean[k];
      values[k] += v * v;
    }
  }
  const T* dots = product + terms.n_factors * n;
  for (std::size_t k = 0; k < n; ++k) {
    double norm = terms.x_norm;
    if (x_norms != nullptr) norm = static_cast<double>(x_norms[k]);
    else if (terms.inverse_noise != nullptr) norm *= terms.inverse_noise[k];
    const double norms = norm + terms.mean_norms[k];
    const double q = core::difference_form(norms, static_cast<double>(dots[k]), values[k]);
    values[k] = core::log_density(terms.log_normalizers[k], q);
    errors[k] = core::difference_form_error(norms, terms.epsilon, terms.model_errors[k]);
  }
}

template <class T>
void screen(const ScreenTerms& terms, const T* product, double* guess, double* upper) {
  const std::size_t n = terms.n_components;
  // Until the last loop, `upper` holds |v|^2 and `guess` |z|^2.
  for (std::size_t k = 0; k < n; ++k) guess[k] = upper[k] = 0.0;
  for (std::size_t l = 0; l < terms.n_factors; ++l) {
    const T* row = product + l * n;
    const double* mean = terms.projected_means + l * n;
    const double* inverse_eigenvalue = terms.inverse_eigenvalues + l * n;
#pragma GCC ivdep
    for (std::size_t k = 0; k < n; ++k) {
      const double v = static_cast<double>(row[k]) - mean[k];
      upper[k] += v * v;
      guess[k] += v * v * inverse_eigenvalue[k];
    }
  }
  const T* dots = product + terms.n_factors * n;
  const core::Outside x{terms.outside, terms.shift};
#pragma GCC ivdep
  for (std::size_t k = 0; k < n; ++k) {
    const core::Leftover left{terms.means_left[k], terms.loadings_left[k], terms.inverse_roots[k],
                              terms.inverse_noise_roots[k], terms.inverse_weights[k]};
    const double norms = terms.y_norm * left.inverse_noise_root * left.inverse_noise_root + terms.mean_norms[k];
    const double c = core::difference_form(norms, static_cast<double>(dots[k]), upper[k]);
    const double error = 2.0 * core::difference_form_error(norms, terms.epsilon, terms.model_errors[k]);
    const double q = core::mahalanobis_lower_bound(c, guess[k], error, x, left);
    upper[k] = core::log_density(terms.log_normalizers[k], q);
    guess[k] = core::log_density(terms.log_normalizers[k], core::mahalanobis_guess(c, x, left));
  }
}

// Columns that are multiplied with row_tile rows at once: their accumulators fit the register file.
constexpr std::size_t dot_columns = vector_bytes == 64 ? 6 : 2;

// One vector of the products of Rows rows with Columns columns.
template <bool Whole, class T, std::size_t Rows, std::size_t Columns>
MFA_INLINE void dot_step(const T* const* x, const T* columns, std::size_t d, std::size_t j, std::size_t count,
                         Vector<T, width<T>> (&sums)[Rows][Columns]) {
  constexpr std::size_t w = width<T>;
  Vector<T, w> values[Rows];
#pragma GCC unroll 4
  for (std::size_t r = 0; r < Rows; ++r) values[r] = load_some<Whole, w>(x[r] + j, count);
#pragma GCC unroll 8
  for (std::size_t c = 0; c < Columns; ++c) {
    const Vector<T, w> column = load_some<Whole, w>(columns + c * d + j, count);
#pragma GCC unroll 4
    for (std::size_t r = 0; r < Rows; ++r) sums[r][c] += values[r] * column;
  }
}

// One run of vectors.
template <class T, std::size_t Rows, std::size_t Columns>
MFA_INLINE void dot_run(const T* const* x, const T* columns, std::size_t d, std::size_t first,
                        Vector<T, width<T>> (&sums)[Rows][Columns]) {
  constexpr std::size_t w = width<T>;
  const std::size_t end = d - first < run * w ? d : first + run * w;
#pragma GCC unroll 4
  for (std::size_t r = 0; r < Rows; ++r)
#pragma GCC unroll 8
    for (std::size_t c = 0; c < Columns; ++c) sums[r][c] = Vector<T, w>{};
  std::size_t j = first;
  for (; j + w <= end; j += w) dot_step<true>(x, columns, d, j, w, sums);
  if (j < end) dot_step<false>(x, columns, d, j, end - j, sums);
}

template <class T, std::size_t Rows, std::size_t Columns>
void dot_tile(const T* const* x, const T* columns, std::size_t d, T* out, std::size_t out_stride) {
  constexpr std::size_t w = width<T>;
  Vector<T, w> totals[Rows][Columns];
  dot_run(x, columns, d, 0, totals);
  for (std::size_t first = run * w; first < d; first += run * w) {
    Vector<T, w> sums[Rows][Columns];
    dot_run(x, columns, d, first, sums);
#pragma GCC unroll 4
    for (std::size_t r = 0; r < Rows; ++r)
#pragma GCC unroll 8
      for (std::size_t c = 0; c < Columns; ++c) totals[r][c] += sums[r][c];
  }
  for (std::size_t r = 0; r < Rows; ++r)
    for (std::size_t c = 0; c < Columns; ++c) out[r * out_stride + c] = sum<T, w>(totals[r][c]);
}

template <class T, std::size_t Rows, std::size_t Columns>
void dot_rest(std::size_t n_columns, const T* const* x, const T* columns, std::size_t d, T* out,
              std::size_t out_stride) {
  if constexpr (Columns > 0) {
    if (n_columns == Columns) dot_tile<T, Rows, Columns>(x, columns, d, out, out_stride);
    else dot_rest<T, Rows, Columns - 1>(n_columns, x, columns, d, out, out_stride);
  }
}

template <class T, std::size_t Rows>
void dot_rows(const T* const* x, const T* columns, std::size_t n_columns, std::size_t d, T* out) {
  std::size_t c = 0;
  for (; c + dot_columns <= n_columns; c += dot_columns)
    dot_tile<T, Rows, dot_columns>(x, columns + c * d, d, out + c, n_columns);
  dot_rest<T, Rows, dot_columns - 1>(n_columns - c, x, columns + c * d, d, out + c, n_columns);
}

template <class T>
void dots(const T* const* x, std::size_t rows, const T* columns, std::size_t n_columns, std::size_t d, T* out) {
  for (std::size_t r = 0; r < rows; r += row_tile) {
    T* target = out + r * n_columns;
    switch (rows - r) {
      case 1: dot_rows<T, 1>(x + r, columns, n_columns, d, target); break;
      case 2: dot_rows<T, 2>(x + r, columns, n_columns, d, target); break;
      case 3: dot_rows<T, 3>(x + r, columns, n_columns, d, target); break;
      default: dot_rows<T, 4>(x + r, columns, n_columns, d, target);
    }
  }
}

// ---------------------------------------------------------------------------------------------- residual form

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
MFA_INLINE void add_rest_of_dots(std::size_t n_columns, const double (*chunks)[residual_chunk], const double* a,
                                 std::size_t stride, std::size_t count, double* lanes, std::size_t lanes_stride) {
  if constexpr (Columns > 0) {
    if (n_columns == Columns) add_dots<R, Columns>(chunks, a, stride, count, lanes, lanes_stride);
    else add_rest_of_dots<R, Columns - 1>(n_columns, chunks, a, stride, count, lanes, lanes_stride);
  }
}

// One chunk of features of R rows; lanes (R, L + 1) are partial sums of the gradient and, last, of q.
template <std::size_t R, class T>
void residual_form_chunk(const T* const* x, const ComponentView& c, const double* z, std::size_t start,
                         std::size_t count, double* lanes) {
  constexpr std::size_t w = width<double>;
  const std::size_t n = c.n_factors;
  double weighted[R][residual_chunk];
  Vector<double, w> q[R];
  for (std::size_t r = 0; r < R; ++r) q[r] = load<double, w>(lanes + (r * (n + 1) + n) * w);
  residual_block<R>(x, c, z, start, count, weighted, q);
  for (std::size_t r = 0; r < R; ++r) store<double, w>(lanes + (r * (n + 1) + n) * w, q[r]);
  const double* a = c.loadings + start;
  std::size_t l = 0;
  for (; l + dot_columns <= n; l += dot_columns)
    add_dots<R, dot_columns>(weighted, a + l * c.n_features, c.n_features, count, lanes + l * w, n + 1);
  add_rest_of_dots<R, dot_columns - 1>(n - l, weighted, a + l * c.n_features, c.n_features, count, lanes + l * w,
                                       n + 1);
}

// Chunk by chunk, so that the loadings are read once for all rows.
template <class T>
void residual_form(const T* const* x, std::size_t rows, const ComponentView& c, const double* z, double* scratch,
                   double* q, double* gradient) {
  constexpr std::size_t w = width<double>;
  const std::size_t n = c.n_factors;
  for (std::size_t r = 0; r < rows; ++r) prefetch(x[r], c.n_features < residual_chunk ? c.n_features : residual_chunk);
  for (std::size_t i = 0; i < rows * (n + 1) * w; ++i) scratch[i] = 0.0;
  for (std::size_t start = 0; start < c.n_features; start += residual_chunk) {
    const std::size_t count = c.n_features - start < residual_chunk ? c.n_features - start : residual_chunk;
    const std::size_t next = start + count;
    const std::size_t ahead = c.n_features - next < residual_chunk ? c.n_features - next : residual_chunk;
    for (std::size_t r = 0; r < rows; r += row_tile) {
      // The rows lie anywhere, so that the processor does not guess what comes next.
      for (std::size_t i = r; i < rows && i < r + row_tile; ++i) prefetch(x[i] + next, ahead);
      double* lanes = scratch + r * (n + 1) * w;
      switch (rows - r) {
        case 1: residual_form_chunk<1>(x + r, c, z + r * n, start, count, lanes); break;
        case 2: residual_form_chunk<2>(x + r, c, z + r * n, start, count, lanes); break;
        case 3: residual_form_chunk<3>(x + r, c, z + r * n, start, count, lanes); break;
        default: residual_form_chunk<4>(x + r, c, z + r * n, start, count, lanes);
      }
    }
  }
  for (std::size_t r = 0; r < rows; ++r) {
    const double* lanes = scratch + r * (n + 1) * w;
    for (std::size_t l = 0; l < n; ++l)
      gradient[r * n + l] = sum<double, w>(load<double, w>(lanes + l * w)) - z[r * n + l];
    q[r] = sum<double, w>(load<double, w>(lanes + n * w)) + core::squared_norm(n, z + r * n);
  }
}

void add_precision_product(const double* x, const ComponentView& c, const double* z, double sign, double* out) {
  double weighted[1][residual_chunk];
  Vector<double, width<double>> q[1] = {};
  for (std::size_t start = 0; start < c.n_features; start += residual_chunk) {
    const std::size_t count = c.n_features - start < residual_chunk ? c.n_features - start : residual_chunk;
    residual_block<1>(&x, c, z, start, count, weighted, q);
    for (std::size_t i = 0; i < count; ++i) out[start + i] += sign * weighted[0][i];
  }
}

// ---------------------------------------------------------------------------------------------- EM statistics

template <std::size_t R, std::size_t W, class T>
MFA_INLINE void accumulate_features(const T* const* x, const double* mean, const double* factors,
                                    const double* weights, std::size_t n_factors, std::size_t j, std::size_t stride,
                                    double* cross, double* squares) {
  Vector<double, W> offset[R];
  Vector<double, W> square = load<double, W>(squares + j);
#pragma GCC unroll 4
  for (std::size_t r = 0; r < R; ++r) {
    offset[r] = widen<W>(load<T, W>(x[r] + j)) - load<double, W>(mean + j);
    square += broadcast<double, W>(weights[r]) * offset[r] * offset[r];
  }
  store<double, W>(squares + j, square);
  for (std::size_t l = 0; l <= n_factors; ++l) {
    Vector<double, W> total = load<double, W>(cross + l * stride + j);
#pragma GCC unroll 4
    for (std::size_t r = 0; r < R; ++r) total += broadcast<double, W>(factors[r * (n_factors + 1) + l]) * offset[r];
    store<double, W>(cross + l * stride + j, total);
  }
}

template <std::size_t R, class T>
void accumulate_rows(const T* const* x, const double* mean, const double* factors, const double* weights,
                     std::size_t n_factors, std::size_t count, std::size_t stride, double* cross, double* squares) {
  constexpr std::size_t w = width<double>;
  std::size_t j = 0;
  for (; j + w <= count; j += w)
    accumulate_features<R, w>(x, mean, factors, weights, n_factors, j, stride, cross, squares);
  for (; j < count; ++j) accumulate_features<R, 1>(x, mean, factors, weights, n_factors, j, stride, cross, squares);
}

template <class T>
void accumulate(const T* const* x, std::size_t rows, const double* mean, const double* factors,
                const double* weights, std::size_t n_factors, std::size_t count, std::size_t stride, double* cross,
                double* squares) {
  switch (rows) {
    case 4: return accumulate_rows<4>(x, mean, factors, weights, n_factors, count, stride, cross, squares);
    case 3: return accumulate_rows<3>(x, mean, factors, weights, n_factors, count, stride, cross, squares);
    case 2: return accumulate_rows<2>(x, mean, factors, weights, n_factors, count, stride, cross, squares);
    default: return accumulate_rows<1>(x, mean, factors, weights, n_factors, count, stride, cross, squares);
  }
}

// ---------------------------------------------------------------------------------------------- sampling

// Normal numbers come in batches of this many blocks of Philox, of four words each.
constexpr std::size_t batch_blocks = 16;

// Normals [first_block * 4, ...) of a stream, in the order of the blocks: four numbers a block.
MFA_INLINE void normal_batch(std::uint64_t seed, std::uint64_t sample, core::Stream stream, std::uint32_t first_block,
                             float* out) {
  float planes[4][batch_blocks];
  for (std::uint32_t b = 0; b < batch_blocks; ++b) {
    const core::Words words = core::draw(seed, sample, stream, first_block + b);
    const core::NormalPair<float> p = core::normal_pair(words.w0, words.w1);
    const core::NormalPair<float> q = core::normal_pair(words.w2, words.w3);
    planes[0][b] = p.a;
    planes[1][b] = p.b;
    planes[2][b] = q.a;
    planes[3][b] = q.b;
  }
  for (std::size_t b = 0; b < batch_blocks; ++b)
    for (std::size_t i = 0; i < 4; ++i) out[4 * b + i] = planes[i][b];
}

// The same in double: two numbers a block.
MFA_INLINE void normal_batch(std::uint64_t seed, std::uint64_t sample, core::Stream stream, std::uint32_t first_block,
                             double* out) {
  for (std::uint32_t b = 0; b < batch_blocks; ++b) {
    const core::Words words = core::draw(seed, sample, stream, first_block + b);
    const core::NormalPair<double> p = core::normal_pair(words.w0, words.w1, words.w2, words.w3);
    out[2 * b] = p.a;
    out[2 * b + 1] = p.b;
  }
}

template <class T>
void sample_row(std::uint64_t seed, std::uint64_t sample, const ComponentView& c, const double* z,
                const double* noise_variance, T* out) {
  constexpr std::size_t batch = batch_blocks * 16 / sizeof(T);
  T normals[batch];
  double values[batch];
  for (std::size_t start = 0; start < c.n_features; start += batch) {
    const std::size_t count = c.n_features - start < batch ? c.n_features - start : batch;
    for (std::size_t i = 0; i < count; ++i) values[i] = c.mean[start + i];
    for (std::size_t l = 0; l < c.n_factors; ++l) {
      const double* a = c.loadings + l * c.n_features + start;
      const double factor = z[l];
      for (std::size_t i = 0; i < count; ++i) values[i] += factor * a[i];
    }
    if (noise_variance != nullptr) {
      normal_batch(seed, sample, core::Stream::noise, static_cast<std::uint32_t>(start / batch * batch_blocks),
                   normals);
      for (std::size_t i = 0; i < count; ++i)
        values[i] += std::sqrt(noise_variance[start + i]) * static_cast<double>(normals[i]);
    }
    for (std::size_t i = 0; i < count; ++i) out[start + i] = static_cast<T>(values[i]);
  }
}

void sample_factors(std::uint64_t seed, std::uint64_t sample, std::size_t n_factors, double* z) {
  constexpr std::size_t batch = 2 * batch_blocks;
  double normals[batch];
  for (std::size_t start = 0; start < n_factors; start += batch) {
    normal_batch(seed, sample, core::Stream::factors, static_cast<std::uint32_t>(start / batch * batch_blocks),
                 normals);
    for (std::size_t i = 0; i < batch && start + i < n_factors; ++i) z[start + i] = normals[i];
  }
}

#define MFA_STRING(name) #name
#define MFA_NAME(name) MFA_STRING(name)

}  // namespace

extern const Loops loops;
const Loops loops{
    MFA_NAME(MFA_ISA),
    {tile_columns<float>, multiply<float>, center<float>, log_densities<float>, screen<float>, dots<float>,
     residual_form<float>, accumulate<float>, sample_row<float>},
    {tile_columns<double>, multiply<double>, center<double>, log_densities<double>, screen<double>, dots<double>,
     residual_form<double>, accumulate<double>, sample_row<double>},
    add_precision_product,
    sample_factors,
};

}  // namespace mfa::cpu::MFA_ISA
