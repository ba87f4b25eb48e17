// The inner loops, compiled once per instruction set. They know vectors and caches; the formulas are in core/.
// No standard-library template that could be emitted out of line may be used here: the linker would share it with code
// for older machines.
#include <cmath>
#include <cstddef>

#include "core/gaussian.hpp"
#include "core/normal.hpp"
#include "core/philox.hpp"
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

// Features that are summed in one go: 256 rows of them stay in the second-level cache, one tile of them in the first;
// the partial sums also keep the rounding error from growing with d.
constexpr std::size_t product_depth = 256;

template <class T, std::size_t Rows>
void multiply_tile(const T* x, std::size_t x_stride, const T* panel, std::size_t depth, T* out,
                   std::size_t out_stride, bool add) {
  constexpr std::size_t w = width<T>;
  Vector<T, w> sums[Rows][2] = {};
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
#pragma GCC unroll 8
  for (std::size_t r = 0; r < Rows; ++r)
    for (std::size_t half = 0; half < 2; ++half) {
      T* target = out + r * out_stride + half * w;
      store<T, w>(target, add ? load<T, w>(target) + sums[r][half] : sums[r][half]);
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

template <class T>
double center(const double* x, const double* center, const double* scale, std::size_t d, T* out, T* squares) {
  constexpr std::size_t lanes = 8;
  constexpr std::size_t chunk = 16 * lanes;  // short sums that are summed in turn, as in the matrix product
  double total = 0.0;
  for (std::size_t first = 0; first < d; first += chunk) {
    const std::size_t end = d - first < chunk ? d : first + chunk;
    double norm[lanes] = {};
    for (std::size_t start = first; start < end; start += lanes) {
      const std::size_t count = end - start < lanes ? end - start : lanes;
      for (std::size_t i = 0; i < count; ++i) {
        const std::size_t j = start + i;
        const double offset = x[j] - center[j];
        const T value = static_cast<T>(scale == nullptr ? offset : offset * scale[j]);
        out[j] = value;
        norm[i] += static_cast<double>(value) * static_cast<double>(value);
      }
    }
    total += ((norm[0] + norm[4]) + (norm[2] + norm[6])) + ((norm[1] + norm[5]) + (norm[3] + norm[7]));
  }
  if (squares != nullptr)
    for (std::size_t j = 0; j < d; ++j) squares[j] = out[j] * out[j];
  return total;
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

// ---------------------------------------------------------------------------------------------- residual form

// Features that are walked twice while they are in the first-level cache.
constexpr std::size_t residual_chunk = 128;

// A vector of features: a whole one, or what is left at the end of a row, filled up with zeros. Both take the same
// arithmetic, so that how many rows are done at once does not show in the result.
template <bool Whole>
MFA_INLINE Vector<double, width<double>> load_features(const double* p, std::size_t count) {
  if constexpr (Whole) return load<double, width<double>>(p);
  else return load<double, width<double>>(p, count);
}

// weighted <- D^-1 e with e = x - mu - A z, and q += e^T D^-1 e, for one vector of features of R rows.
template <std::size_t R, bool Whole>
MFA_INLINE void residuals(const double* const* x, const ComponentView& c, const double* z, std::size_t j,
                          std::size_t count, double (*weighted)[residual_chunk], std::size_t at,
                          Vector<double, width<double>> (&q)[R]) {
  constexpr std::size_t w = width<double>;
  Vector<double, w> e[R];
  const Vector<double, w> mean =
      c.mean == nullptr ? broadcast<double, w>(0.0) : load_features<Whole>(c.mean + j, count);
  for (std::size_t r = 0; r < R; ++r) e[r] = load_features<Whole>(x[r] + j, count) - mean;
  for (std::size_t l = 0; l < c.n_factors; ++l) {
    const Vector<double, w> a = load_features<Whole>(c.loadings + l * c.n_features + j, count);
#pragma GCC unroll 4
    for (std::size_t r = 0; r < R; ++r) e[r] -= a * broadcast<double, w>(z[r * c.n_factors + l]);
  }
  const Vector<double, w> inverse_noise = c.inverse_noise == nullptr
                                              ? broadcast<double, w>(c.inverse_noise_scalar)
                                              : load_features<Whole>(c.inverse_noise + j, count);
#pragma GCC unroll 4
  for (std::size_t r = 0; r < R; ++r) {
    const Vector<double, w> scaled = e[r] * inverse_noise;
    q[r] += scaled * e[r];
    store<double, w>(weighted[r] + at, scaled);
  }
}

// The same for a chunk of features, whose end in `weighted` is filled up with zeros.
template <std::size_t R>
MFA_INLINE void residual_block(const double* const* x, const ComponentView& c, const double* z, std::size_t start,
                               std::size_t count, double (*weighted)[residual_chunk],
                               Vector<double, width<double>> (&q)[R]) {
  constexpr std::size_t w = width<double>;
  std::size_t i = 0;
  for (; i + w <= count; i += w) residuals<R, true>(x, c, z, start + i, w, weighted, i, q);
  if (i < count) residuals<R, false>(x, c, z, start + i, count - i, weighted, i, q);
}

template <std::size_t R>
void residual_form_rows(const double* const* x, const ComponentView& c, const double* z, double* q, double* gradient) {
  constexpr std::size_t w = width<double>;
  const std::size_t n_factors = c.n_factors;
  Vector<double, w> q_lanes[R] = {};
  for (std::size_t i = 0; i < R * n_factors; ++i) gradient[i] = -z[i];
  double weighted[R][residual_chunk];
  for (std::size_t start = 0; start < c.n_features; start += residual_chunk) {
    const std::size_t count = c.n_features - start < residual_chunk ? c.n_features - start : residual_chunk;
    residual_block<R>(x, c, z, start, count, weighted, q_lanes);
    for (std::size_t l = 0; l < n_factors; ++l) {
      const double* a = c.loadings + l * c.n_features + start;
      Vector<double, w> dots[R] = {};
      std::size_t i = 0;
      for (; i + w <= count; i += w) {
        const Vector<double, w> a_lanes = load<double, w>(a + i);
#pragma GCC unroll 4
        for (std::size_t r = 0; r < R; ++r) dots[r] += a_lanes * load<double, w>(weighted[r] + i);
      }
      if (i < count) {
        const Vector<double, w> a_lanes = load<double, w>(a + i, count - i);
#pragma GCC unroll 4
        for (std::size_t r = 0; r < R; ++r) dots[r] += a_lanes * load<double, w>(weighted[r] + i);
      }
      for (std::size_t r = 0; r < R; ++r) gradient[r * n_factors + l] += sum<double, w>(dots[r]);
    }
  }
  for (std::size_t r = 0; r < R; ++r)
    q[r] = sum<double, w>(q_lanes[r]) + core::squared_norm(n_factors, z + r * n_factors);
}

void residual_form(const double* const* x, std::size_t rows, const ComponentView& c, const double* z, double* q,
                   double* gradient) {
  switch (rows) {
    case 4: return residual_form_rows<4>(x, c, z, q, gradient);
    case 3: return residual_form_rows<3>(x, c, z, q, gradient);
    case 2: return residual_form_rows<2>(x, c, z, q, gradient);
    default: return residual_form_rows<1>(x, c, z, q, gradient);
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

template <std::size_t R, std::size_t W>
MFA_INLINE void accumulate_features(const double* const* x, const double* mean, const double* factors,
                                    const double* weights, std::size_t n_factors, std::size_t j, std::size_t stride,
                                    double* cross, double* squares) {
  Vector<double, W> offset[R];
  Vector<double, W> square = load<double, W>(squares + j);
#pragma GCC unroll 4
  for (std::size_t r = 0; r < R; ++r) {
    offset[r] = load<double, W>(x[r] + j) - load<double, W>(mean + j);
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

template <std::size_t R>
void accumulate_rows(const double* const* x, const double* mean, const double* factors, const double* weights,
                     std::size_t n_factors, std::size_t count, std::size_t stride, double* cross, double* squares) {
  constexpr std::size_t w = width<double>;
  std::size_t j = 0;
  for (; j + w <= count; j += w)
    accumulate_features<R, w>(x, mean, factors, weights, n_factors, j, stride, cross, squares);
  for (; j < count; ++j) accumulate_features<R, 1>(x, mean, factors, weights, n_factors, j, stride, cross, squares);
}

void accumulate(const double* const* x, std::size_t rows, const double* mean, const double* factors,
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
    {tile_columns<float>, multiply<float>, center<float>, log_densities<float>, sample_row<float>},
    {tile_columns<double>, multiply<double>, center<double>, log_densities<double>, sample_row<double>},
    residual_form,
    add_precision_product,
    accumulate,
    sample_factors,
};

}  // namespace mfa::cpu::MFA_ISA
