#include "gram.hpp"

#include <algorithm>
#include <cmath>
#include <limits>
#include <memory>

#include "core/dense.hpp"
#include "core/gaussian.hpp"
#include "cpu/alone.hpp"

namespace mfa {
namespace {

// Memory for eigenvectors of pairs of components; what does not fit is made again when it is wanted.
constexpr std::size_t most_pair_bytes = std::size_t{256} << 20;

}  // namespace

Gram::Gram(const Model& model, std::size_t n_threads)
    : model_(model),
      pairs_(model.n_components() * model.n_components()),
      room_(most_pair_bytes),
      column_error_(model.column_error()) {
  const std::size_t K = model.n_components();
  const std::size_t d = model.n_features();
  const double* inverse = model.inverse_noise_scalars();
  const double largest = *std::max_element(inverse, inverse + K);
  weights_.resize(K);
  std::transform(inverse, inverse + K, weights_.begin(), [&](double v) { return v / largest; });

  probe_.resize(d);
  for (std::size_t j = 0; j < d; ++j) probe_[j] = std::cos(1.0 + static_cast<double>(j * j % 7919)) + 0.1;

  view_.n_components = K;
  view_.n_factors = model.n_factors();
  view_.n_features = d;
  view_.kappa = 1.0 / largest;
  view_.unit = core::rounding_unit(std::numeric_limits<double>::epsilon(), d) + column_error_;
  view_.equal_noise = std::all_of(inverse, inverse + K, [&](double v) { return v == largest; });
  view_.weights = weights_.data();
  view_.log_normalizers = model.log_normalizers();
  view_.factors = model.difference<double>(0).columns;
  view_.means = model.component(0).mean;
  view_.center = model.center<double>();
  view_.probe_direction = probe_.data();

  // Row i of the products: column i as if it were a sample.
  const cpu::Panel<double>& panel = model.panels<double>().columns;
  const std::size_t n_columns = view_.n_columns();
  products_.resize(n_columns * n_columns);
  view_.products = products_.data();
  constexpr std::size_t height = 32;
  cpu::parallel_for((n_columns + height - 1) / height, n_threads, [&] {
    return [&, rows = std::vector<double>(height * d),
            out = cpu::AlignedBuffer<double>(height * panel.columns())](std::size_t block) mutable {
      const std::size_t first = block * height;
      const std::size_t count = std::min(height, n_columns - first);
      std::fill(rows.begin(), rows.end(), 0.0);
      for (std::size_t i = 0; i < count; ++i) view_.add_column(cpu::Alone{}, first + i, 1.0, rows.data() + i * d);
      panel.multiply(rows.data(), count, out.data());
      for (std::size_t i = 0; i < count; ++i)
        gather(out.data() + i * panel.columns(), rows.data() + i * d, products_.data() + (first + i) * n_columns);
    };
  });
  // The same number on both sides of the diagonal, whatever the order in which it was summed.
  for (std::size_t i = 0; i < n_columns; ++i)
    for (std::size_t j = 0; j < i; ++j) products_[i * n_columns + j] = products_[j * n_columns + i];
}

Gram::~Gram() {
  for (const auto& pair : pairs_) delete pair.load();
}

void Gram::gather(const double* product, const double* centered, double* out) const {
  const std::size_t K = view_.n_components;
  for (std::size_t k = 0; k < K; ++k)
    for (std::size_t l = 0; l < view_.columns_per_component(); ++l) {
      // What a column of the model's matrix product is multiplied with to be one of these.
      const double scale = l < view_.n_factors ? std::sqrt(view_.kappa) : 1.0 / model_.inverse_noise_scalars()[k];
      out[view_.column(k, l)] = scale * product[l * K + k];
    }
  out[view_.probe()] = core::dot(centered, probe_.data(), view_.n_features);
}

const PairEigen& Gram::pair(std::size_t s, std::size_t t, PairEigen& scratch) const {
  std::atomic<const PairEigen*>& place = pairs_[s * model_.n_components() + t];
  if (const PairEigen* known = place.load(std::memory_order_acquire)) return *known;
  make_pair(s, t, scratch);
  const std::size_t bytes = (scratch.vectors.size() + scratch.eigenvalues.size()) * sizeof(double) + sizeof(PairEigen);
  std::size_t left = room_.load();
  while (left >= bytes && !room_.compare_exchange_weak(left, left - bytes)) {
  }
  if (left < bytes) return scratch;
  // Two threads may make the same pair, and both make the same numbers; the first one's are kept.
  auto made = std::make_unique<PairEigen>(scratch);
  const PairEigen* none = nullptr;
  if (place.compare_exchange_strong(none, made.get(), std::memory_order_acq_rel)) return *made.release();
  room_ += bytes;
  return *none;
}

void Gram::make_pair(std::size_t s, std::size_t t, PairEigen& out) const {
  const std::size_t L = model_.n_factors();
  const std::size_t n = 2 * L;
  const auto at = [&](std::size_t i) { return view_.column(i < L ? s : t, i % L); };
  out = {};
  std::vector<double> norms(n), m(n * n), r(n * n);
  std::vector<std::size_t> pivots(n);
  for (std::size_t i = 0; i < n; ++i) norms[i] = std::sqrt(view_.row(at(i))[at(i)]);
  for (std::size_t i = 0; i < n; ++i)
    for (std::size_t j = 0; j < n; ++j)
      m[i * n + j] = norms[i] * norms[j] > 0.0 ? view_.row(at(i))[at(j)] / (norms[i] * norms[j]) : 0.0;
  const std::size_t rank = core::pivoted_cholesky(n, m.data(), core::smallest_pivot, r.data(), pivots.data());
  out.rank = rank;
  if (rank == 0) return;
  // In the orthonormal basis that R stands for, column i of [V_s, V_t] has the coordinates norms[i] R[:, i].
  std::vector<double> h(rank * rank, 0.0), y(rank * rank);
  for (std::size_t i = 0; i < n; ++i) {
    const double weight = (i < L ? 1.0 : -1.0) * norms[i] * norms[i];
    for (std::size_t a = 0; a < rank; ++a)
      for (std::size_t b = 0; b < rank; ++b) h[a * rank + b] += weight * r[a * n + i] * r[b * n + i];
  }
  core::diagonalize(h.data(), y.data(), rank);
  out.eigenvalues.resize(rank);
  out.vectors.assign(rank * n, 0.0);
  for (std::size_t e = 0; e < rank; ++e) {
    out.eigenvalues[e] = h[e * rank + e];
    // The eigenvector as a combination of the pivots' columns.
    double* coefficients = y.data() + e * rank;
    core::solve_pivots(n, rank, r.data(), pivots.data(), coefficients);
    for (std::size_t q = 0; q < rank; ++q) out.vectors[e * n + pivots[q]] = coefficients[q] / norms[pivots[q]];
  }
  const double least = r[(rank - 1) * n + pivots[rank - 1]];
  const double largest = *std::max_element(norms.begin(), norms.end());
  const auto present = static_cast<std::size_t>(std::count_if(norms.begin(), norms.end(), [](double v) { return v > 0.0; }));
  out.length_error = core::basis_rounding(least, view_.unit);
  out.error = largest * largest *
              (1e-15 * static_cast<double>(n) / least + 4.0 * column_error_ +
               (rank < present ? std::sqrt(core::smallest_pivot) : 0.0));
}

}  // namespace mfa
