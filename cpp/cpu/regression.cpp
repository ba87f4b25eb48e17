#include "cpu/regression.hpp"

#include <algorithm>
#include <utility>
#include <vector>

#include "cpu/panel.hpp"
#include "cpu/parallel.hpp"

namespace mfa::cpu {
namespace {

// out (d) becomes the sums of squares of rows (n), which lie so many numbers apart.
void sum_squares(const double* rows, std::size_t n, std::size_t stride, std::size_t d, double* out) {
  std::fill_n(out, d, 0.0);
  for (std::size_t l = 0; l < n; ++l)
    for (std::size_t j = 0; j < d; ++j) out[j] += rows[l * stride + j] * rows[l * stride + j];
}

}  // namespace

void regress(const Loops& loops, std::size_t n_components, std::size_t n_factors, std::size_t n_features,
             const Regression& of, const RegressionOutput& out, std::size_t n_threads) {
  const std::size_t n = n_factors + 1;
  const std::size_t d = n_features;
  const double microseconds = 1e-4 * static_cast<double>(n_components * n * (n + 20) * d);
  parallel_for(n_components, threads_for(microseconds, n_threads), [&] {
    Panel<double> rows(loops.f64, n, d);
    const std::size_t stride = rows.columns();
    return [&, stride, rows = std::move(rows), transposed = std::vector<double>(n * n), along = std::vector<double>(n * stride),
            fitted = std::vector<double>(n * stride)](std::size_t k) mutable {
      const double* const whitening = of.whitening + k * n * n;
      for (std::size_t l = 0; l < n; ++l)
        for (std::size_t m = 0; m < n; ++m) transposed[m * n + l] = whitening[l * n + m];
      rows.set_rows(of.cross + k * n * d, d, 0, d);
      rows.multiply(transposed.data(), n, along.data());
      sum_squares(along.data(), n, stride, d, out.explained + k * d);
      rows.set_rows(along.data(), stride, 0, d);
      rows.multiply(whitening, n, fitted.data());
      sum_squares(fitted.data(), n_factors, stride, d, out.modelled + k * d);
      for (std::size_t l = 0; l < n_factors; ++l)
        std::copy_n(fitted.data() + l * stride, d, out.loadings + (k * n_factors + l) * d);
      std::copy_n(fitted.data() + n_factors * stride, d, out.shifts + k * d);
    };
  });
}

}  // namespace mfa::cpu
