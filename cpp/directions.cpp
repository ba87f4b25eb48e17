#include "directions.hpp"

#include <algorithm>
#include <cmath>
#include <numeric>

#include "core/gaussian.hpp"
#include "core/philox.hpp"
#include "cpu/panel.hpp"
#include "cpu/parallel.hpp"

namespace mfa {
namespace {

// Rounds of subspace iteration from a sketch, and from directions that are nearly right. They bring the leading directions
// out well enough: the bounds hold for any.
constexpr int rounds_from_sketch = 2;
constexpr int rounds_from_near = 1;
constexpr double rounding = 1e-13;
// Others may do better than those that do as well as they did. They are looked for after so many models as a processor waits for
// at least, and after twice as many where they leave no less than this share of what is left, up to so many: EM comes to rest.
constexpr double no_better = 0.9;
constexpr int most_patience = 16;

// Rows that a thread multiplies at once, at most.
constexpr std::size_t rows_at_once = 96;

// What it takes one thread to multiply x (n, depth) with a matrix, in microseconds.
template <class T>
double product_time(const cpu::Panel<T>& matrix, std::size_t n, std::size_t depth) {
  return 6e-6 * static_cast<double>(sizeof(T) * n * depth * matrix.columns());
}

// out (n, columns) = x (n, depth) times the matrix, on several threads where there is enough to do.
template <class T>
void multiply(const cpu::Panel<T>& matrix, const T* x, std::size_t n, std::size_t depth, T* out, std::size_t n_threads) {
  const std::size_t worth = cpu::threads_for(product_time(matrix, n, depth), n_threads);
  const std::size_t at_once = std::min(rows_at_once, (n + worth - 1) / worth);
  cpu::parallel_for((n + at_once - 1) / at_once, worth, [&] {
    return [&](std::size_t block) {
      const std::size_t first = block * at_once;
      matrix.multiply(x + first * depth, std::min(at_once, n - first), out + first * matrix.columns());
    };
  });
}

// Lays a matrix (n, d) out to be multiplied from the left.
template <class T>
void lay_out(const T* rows, std::size_t n, std::size_t d, cpu::Panel<T>& panel, std::size_t n_threads) {
  constexpr std::size_t width = 1024;  // whole tiles of any width
  cpu::parallel_for((d + width - 1) / width, cpu::threads_for(1e-3 * static_cast<double>(n * d), n_threads), [&] {
    return [&](std::size_t part) { panel.set_rows(rows, d, part * width, std::min((part + 1) * width, d)); };
  });
}

// Makes the rows (n, d) orthonormal. By the Cholesky factor C of their products they become C^-1 times themselves: in order, so
// that the first of them span what the first alone would have spanned. A row that depends on those before it becomes zero,
// which is as good: a subspace may be smaller. What rounding leaves after one pass is gone after two.
void orthonormalize(double* rows, std::size_t n, std::size_t d, const Model& model, int passes) {
  const cpu::TypedLoops<double>& loops = model.loops().f64;
  cpu::Panel<double> by_row(loops, n, d), by_column(loops, d, n);
  const std::size_t stride = by_column.columns();
  std::vector<double> factor(n * stride), inverse(n * n);
  const cpu::AlignedBuffer<double> product(n * by_row.columns());
  for (int pass = 0; pass < passes; ++pass) {
    lay_out(rows, n, d, by_row, model.n_threads());
    by_column.set_columns(rows, n);
    std::fill(inverse.begin(), inverse.end(), 0.0);
    multiply(by_column, rows, n, d, factor.data(), model.n_threads());
    for (std::size_t i = 0; i < n; ++i) {
      double* c = factor.data() + i * stride;
      double* row = inverse.data() + i * n;
      const double before = c[i];
      double square = before;
      for (std::size_t j = 0; j < i; ++j) {
        const double* other = factor.data() + j * stride;
        c[j] = other[j] > 0.0 ? (c[j] - core::dot(c, other, j)) / other[j] : 0.0;
        square -= c[j] * c[j];
      }
      c[i] = square > 1e-12 * before ? std::sqrt(square) : 0.0;
      if (c[i] == 0.0) continue;
      for (std::size_t l = 0; l < i; ++l)
        for (std::size_t j = 0; j <= l; ++j) row[j] -= c[l] * inverse[l * n + j];
      row[i] = 1.0;
      for (std::size_t j = 0; j <= i; ++j) row[j] /= c[i];
    }
    multiply(by_row, inverse.data(), n, n, product.data(), model.n_threads());
    for (std::size_t i = 0; i < n; ++i) std::copy_n(product.data() + i * by_row.columns(), d, rows + i * d);
  }
}

}  // namespace

// Rows are dealt out to the directions at random, each of which is the sum of its own with random signs: one step of subspace
// iteration from random directions, for next to nothing. Source: Clarkson & Woodruff 2013.
void Directions::sketch(const float* rows, std::size_t n, std::size_t n_threads, double* directions) const {
  const std::size_t d = n_features_;
  cpu::parallel_for(count_, cpu::threads_for(1e-3 * static_cast<double>(n * d), n_threads), [&] {
    return [&](std::size_t r) {
      for (std::size_t first = 0; first < n; first += count_) {
        const std::size_t i = first + (r + core::draw(0, first, core::Stream::component, 0).w0) % count_;
        if (i >= n) continue;
        const double sign = core::draw(0, i, core::Stream::factors, 0).w0 % 2 == 0 ? 1.0 : -1.0;
        for (std::size_t j = 0; j < d; ++j) directions[r * d + j] += sign * static_cast<double>(rows[i * d + j]);
      }
    };
  });
}

// Subspace iteration on the rows (n, d), in float: what it finds is made orthonormal in double.
std::vector<double> Directions::search(const Model& model, const Basis* near) const {
  const std::size_t d = n_features_;
  const std::size_t n = model.n_components() * rows_;
  const cpu::TypedLoops<float>& loops = model.loops().f32;
  // Divided by the length of the longest: what is in range for double may not be for float.
  double longest = 0.0;
  for (std::size_t k = 0; k < model.n_components(); ++k)
    for (std::size_t l = 0; l < rows_; ++l) longest = std::max(longest, std::sqrt(product(k, l, l)));
  const double factor = longest > 0.0 ? 1.0 / longest : 1.0;
  const cpu::AlignedBuffer<float> scaled(n * d);
  model.for_each_component(2 * rows_ * d, [&] {
    return [&, rows = std::vector<double>(rows_ * d)](std::size_t k) mutable {
      read_rows(model, k, rows.data());
      std::transform(rows.begin(), rows.end(), scaled.data() + k * rows_ * d,
                     [=](double v) { return static_cast<float>(v * factor); });
    };
  });
  cpu::Panel<float> by_row(loops, n, d), by_direction(loops, d, count_);
  lay_out(scaled.data(), n, d, by_row, model.n_threads());

  std::vector<double> directions = near != nullptr ? near->numbers : std::vector<double>(count_ * d);
  if (near == nullptr) sketch(scaled.data(), n, model.n_threads(), directions.data());
  const std::size_t columns = by_direction.columns();
  std::vector<double> along(count_ * n);  // of the rows along the directions
  std::vector<float> products(n * columns), shares(count_ * n);
  std::vector<double> squares(count_);
  std::vector<std::size_t> order(count_);
  const cpu::AlignedBuffer<float> sums(count_ * by_row.columns());
  for (int round = 0; round < (near == nullptr ? rounds_from_sketch : rounds_from_near); ++round) {
    by_direction.set_columns(directions.data(), count_);
    multiply(by_direction, scaled.data(), n, d, products.data(), model.n_threads());
    std::fill(squares.begin(), squares.end(), 0.0);
    for (std::size_t i = 0; i < n; ++i)
      for (std::size_t r = 0; r < count_; ++r)
        squares[r] += static_cast<double>(products[i * columns + r]) * static_cast<double>(products[i * columns + r]);
    // Those that hold most come first: what is common to several then goes to the one that has most of it.
    std::iota(order.begin(), order.end(), std::size_t{0});
    std::stable_sort(order.begin(), order.end(), [&](std::size_t a, std::size_t b) { return squares[a] > squares[b]; });
    for (std::size_t r = 0; r < count_; ++r)
      for (std::size_t i = 0; i < n; ++i) along[r * n + i] = products[i * columns + order[r]];
    orthonormalize(along.data(), count_, n, model, 1);
    std::copy(along.begin(), along.end(), shares.begin());
    multiply(by_row, shares.data(), count_, n, sums.data(), model.n_threads());
    for (std::size_t r = 0; r < count_; ++r) std::copy_n(sums.data() + r * by_row.columns(), d, directions.data() + r * d);
  }
  orthonormalize(directions.data(), count_, d, model, 2);
  return directions;
}

void Directions::read_rows(const Model& model, std::size_t k, double* rows) const {
  const std::size_t d = n_features_;
  const std::size_t L = rows_ - 1;
  const double* scale = model.scale<double>();
  const double* center = model.center<double>();
  const ComponentView c = model.component(k);
  std::copy_n(c.loadings, L * d, rows);
  for (std::size_t j = 0; j < d; ++j) rows[L * d + j] = c.mean[j] - center[j];
  if (scale == nullptr) return;
  for (std::size_t l = 0; l < rows_; ++l)
    for (std::size_t j = 0; j < d; ++j) rows[l * d + j] *= scale[j];
}

void Directions::multiply_rows(const Model& model) {
  const std::size_t d = n_features_;
  model.for_each_component(2 * rows_ * d, [&] {
    return [&, columns = cpu::Panel<double>(model.loops().f64, d, rows_), rows = std::vector<double>(rows_ * d),
            out = std::vector<double>()](std::size_t k) mutable {
      read_rows(model, k, rows.data());
      columns.set_columns(rows.data(), rows_);
      out.resize(rows_ * columns.columns());
      columns.multiply(rows.data(), rows_, out.data());
      // The same number on both sides of the diagonal, whatever the order in which it was summed.
      for (std::size_t l = 0; l < rows_; ++l)
        for (std::size_t m = 0; m <= l; ++m)
          products_[(k * rows_ + l) * rows_ + m] = products_[(k * rows_ + m) * rows_ + l] = out[l * columns.columns() + m];
    };
  });
}

// Some components at once, so that the directions are read once for all of their rows.
void Directions::project(const Model& model) {
  const std::size_t K = model.n_components();
  const std::size_t d = n_features_;
  cpu::Panel<double> columns(model.loops().f64, d, count_);
  columns.set_columns(direction(0), count_);
  stride_ = columns.columns();
  inside_.resize(K * rows_ * stride_);
  const std::size_t worth = cpu::threads_for(product_time(columns, K * rows_, d), model.n_threads());
  const std::size_t at_once = std::min((rows_at_once + rows_ - 1) / rows_, (K + worth - 1) / worth);
  cpu::parallel_for((K + at_once - 1) / at_once, worth, [&] {
    return [&, rows = cpu::AlignedBuffer<double>(at_once * rows_ * d)](std::size_t block) {
      const std::size_t first = block * at_once, count = std::min(at_once, K - first);
      for (std::size_t k = 0; k < count; ++k) read_rows(model, first + k, rows.data() + k * rows_ * d);
      columns.multiply(rows.data(), count * rows_, inside_.data() + first * rows_ * stride_);
    };
  });
}

double Directions::share_left() const {
  double all = 0.0, held = 0.0;
  for (std::size_t k = 0; k < products_.size() / (rows_ * rows_); ++k)
    for (std::size_t l = 0; l < rows_; ++l) {
      all += product(k, l, l);
      held += core::dot(inside(k, l), inside(k, l), count_);
    }
  return all > held ? 1.0 - held / all : 0.0;
}

Directions::Directions(const Model& model, std::size_t count, const Keeping& keeping, const Directions* near)
    : count_(count),
      n_features_(model.n_features()),
      rows_(model.n_factors() + 1),
      products_(model.n_components() * rows_ * rows_),
      patience_(keeping.least_patience) {
  multiply_rows(model);
  double left = 1.0;
  if (near != nullptr) {
    basis_ = near->basis_;
    project(model);
    left = share_left();
    share_left_when_found_ = near->share_left_when_found_;
    patience_ = near->patience_;
    age_ = near->age_ + 1;
    if (left <= keeping.as_well * share_left_when_found_ + rounding && age_ < patience_) return;
  }
  basis_ = std::make_shared<const Basis>(search(model, basis_.get()));
  project(model);
  share_left_when_found_ = share_left();
  patience_ = share_left_when_found_ >= no_better * left ? std::min(2 * patience_, most_patience)
                                                           : keeping.least_patience;
  age_ = 0;
}

}  // namespace mfa
