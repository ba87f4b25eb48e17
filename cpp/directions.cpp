#include "directions.hpp"

#include <algorithm>
#include <cmath>

#include "core/gaussian.hpp"
#include "core/normal.hpp"
#include "cpu/panel.hpp"

namespace mfa {
namespace {

// Rounds of subspace iteration from a random start, and from directions that are nearly right. They bring the leading
// directions out well enough: the bounds hold for any.
constexpr int rounds_from_random = 3;
constexpr int rounds_from_near = 1;

void fill_with_normals(std::vector<float>& values) {
  for (std::size_t i = 0; i < values.size(); i += 2) {
    const core::Words w = core::draw(0, i, core::Stream::factors, 0);
    const core::NormalPair<float> pair = core::normal_pair(w.w0, w.w1);
    values[i] = pair.a;
    if (i + 1 < values.size()) values[i + 1] = pair.b;
  }
}

// Divided by the largest entry: what is in range for double may not be for float.
std::vector<float> scaled_to_float(const std::vector<double>& rows) {
  double largest = 0.0;
  for (const double value : rows) largest = std::max(largest, std::abs(value));
  const double factor = largest > 0.0 ? 1.0 / largest : 1.0;
  std::vector<float> scaled(rows.size());
  std::transform(rows.begin(), rows.end(), scaled.begin(), [factor](double v) { return static_cast<float>(v * factor); });
  return scaled;
}

}  // namespace

// By the Cholesky factor C of the rows' products, the rows become C^-1 times themselves: in order, so that the first of
// them span what the first alone would have spanned. A row that depends on those before it becomes zero, which is as good:
// a subspace may be smaller. What rounding leaves after one pass is gone after two.
void Directions::orthonormalize(const cpu::Loops& loops, int passes) {
  const std::size_t n = count_;
  const std::size_t d = n_features_;
  for (int pass = 0; pass < passes; ++pass) {
    cpu::Panel<double> columns(loops.f64, d, n), rows(loops.f64, n, d);
    for (std::size_t i = 0; i < n; ++i) {
      columns.set_column(i, directions_.data() + i * d);
      rows.set_row(i, directions_.data() + i * d, d);
    }
    const std::size_t stride = columns.columns();
    std::vector<double> factor(n * stride), inverse(n * n, 0.0), product(n * rows.columns());
    columns.multiply(directions_.data(), n, factor.data());
    for (std::size_t i = 0; i < n; ++i) {
      double* c = factor.data() + i * stride;
      double* row = inverse.data() + i * n;
      const double before = c[i];
      double square = before;
      for (std::size_t j = 0; j < i; ++j) {
        const double* other = factor.data() + j * stride;
        for (std::size_t l = 0; l < j; ++l) c[j] -= c[l] * other[l];
        c[j] = other[j] > 0.0 ? c[j] / other[j] : 0.0;
        square -= c[j] * c[j];
      }
      c[i] = square > 1e-12 * before ? std::sqrt(square) : 0.0;
      if (c[i] == 0.0) continue;
      for (std::size_t l = 0; l < i; ++l)
        for (std::size_t j = 0; j <= l; ++j) row[j] -= c[l] * inverse[l * n + j];
      row[i] = 1.0;
      for (std::size_t j = 0; j <= i; ++j) row[j] /= c[i];
    }
    rows.multiply(inverse.data(), n, product.data());
    for (std::size_t i = 0; i < n; ++i) std::copy_n(product.data() + i * rows.columns(), d, directions_.data() + i * d);
  }
}

// Subspace iteration on the rows (n, d), in float: what it finds is made orthonormal in double.
void Directions::search(const std::vector<double>& rows, const cpu::Loops& loops, const double* near) {
  const std::size_t d = n_features_;
  const std::size_t n = rows.size() / d;
  const std::vector<float> scaled = scaled_to_float(rows);
  cpu::Panel<float> by_row(loops.f32, n, d);
  for (std::size_t i = 0; i < n; ++i) by_row.set_row(i, scaled.data() + i * d, d);

  std::vector<float> shares(count_ * n);  // of the rows in the directions
  std::vector<float> product(count_ * by_row.columns());
  if (near == nullptr) fill_with_normals(shares);
  else std::copy_n(near, count_ * d, directions_.data());
  const int rounds = near == nullptr ? rounds_from_random : rounds_from_near;
  for (int round = 0; round < rounds; ++round) {
    if (round > 0 || near != nullptr) {
      cpu::Panel<float> by_direction(loops.f32, d, count_);
      for (std::size_t r = 0; r < count_; ++r) by_direction.set_column(r, directions_.data() + r * d);
      const std::size_t columns = by_direction.columns();
      std::vector<float> along(n * columns);
      by_direction.multiply(scaled.data(), n, along.data());
      for (std::size_t r = 0; r < count_; ++r)
        for (std::size_t i = 0; i < n; ++i) shares[r * n + i] = along[i * columns + r];
    }
    by_row.multiply(shares.data(), count_, product.data());
    for (std::size_t r = 0; r < count_; ++r)
      std::copy_n(product.data() + r * by_row.columns(), d, directions_.data() + r * d);
    orthonormalize(loops, round + 1 < rounds ? 1 : 2);
  }
}

Directions::Directions(const Model& model, std::size_t count, const double* near)
    : count_(count),
      n_features_(model.n_features()),
      rows_(model.n_factors() + 1),
      directions_(count * model.n_features()),
      products_(model.n_components() * rows_ * rows_) {
  const std::size_t K = model.n_components();
  const std::size_t L = model.n_factors();
  const std::size_t d = n_features_;
  const double* scale = model.scale<double>();

  std::vector<double> rows(K * rows_ * d);
  for (std::size_t k = 0; k < K; ++k) {
    const ComponentView c = model.component(k);
    double* at = rows.data() + k * rows_ * d;
    for (std::size_t j = 0; j < d; ++j) {
      const double factor = scale == nullptr ? 1.0 : scale[j];
      for (std::size_t l = 0; l < L; ++l) at[l * d + j] = c.loadings[l * d + j] * factor;
      at[L * d + j] = (c.mean[j] - model.center<double>()[j]) * factor;
    }
    for (std::size_t l = 0; l < rows_; ++l)
      for (std::size_t m = 0; m <= l; ++m)
        products_[(k * rows_ + l) * rows_ + m] = products_[(k * rows_ + m) * rows_ + l] =
            core::dot(at + l * d, at + m * d, d);
  }
  search(rows, model.loops(), near);
  cpu::Panel<double> columns(model.loops().f64, d, count);
  for (std::size_t r = 0; r < count; ++r) columns.set_column(r, directions_.data() + r * d);
  stride_ = columns.columns();
  inside_.resize(K * rows_ * stride_);
  columns.multiply(rows.data(), K * rows_, inside_.data());
}

}  // namespace mfa
