// From a row to its product's left-hand side, and from the product to log-densities or bounds on them. Part of loops.cpp.
#pragma once

#include <cstddef>

#include "core/gaussian.hpp"
#include "core/screening.hpp"
#include "cpu/isa.hpp"
#include "cpu/loops/registers.hpp"

namespace mfa::cpu::inline MFA_ISA {
namespace {

// One vector of a centred row; a part of one at the end of the row.
template <bool Whole, bool Scaled, bool Squared, class T>
MFA_INLINE void center_features(const T* x, const T* center, const T* scale, std::size_t j, std::size_t count, T* out,
                                T* squares, Vector<double, width<double>>& norm) {
  constexpr std::size_t w = width<double>;
  Vector<T, w> value = load_some<Whole, w>(x + j, count) - load_some<Whole, w>(center + j, count);
  if constexpr (Scaled) value *= load_some<Whole, w>(scale + j, count);
  store_some<Whole, w>(out + j, value, count);
  if constexpr (Squared) store_some<Whole, w>(squares + j, value * value, count);
  const Vector<double, w> wide = widen<w>(value);
  norm += wide * wide;
}

template <bool Scaled, bool Squared, class T>
double center_row(const T* x, const T* center, const T* scale, std::size_t d, T* out, T* squares) {
  constexpr std::size_t w = width<double>;
  constexpr std::size_t unroll = 4;  // sums that do not wait for each other
  constexpr std::size_t chunk = 16 * unroll * w;  // short sums that are summed in turn, as in the matrix product
  double total = 0.0;
  for (std::size_t first = 0; first < d; first += chunk) {
    const std::size_t end = d - first < chunk ? d : first + chunk;
    Vector<double, w> norms[unroll] = {};
    std::size_t j = first;
    for (; j + unroll * w <= end; j += unroll * w)
#pragma GCC unroll 4
      for (std::size_t u = 0; u < unroll; ++u)
        center_features<true, Scaled, Squared>(x, center, scale, j + u * w, w, out, squares, norms[u]);
    for (; j < end; j += w)
      center_features<false, Scaled, Squared>(x, center, scale, j, end - j < w ? end - j : w, out, squares, norms[0]);
    total += sum<double, w>((norms[0] + norms[1]) + (norms[2] + norms[3]));
  }
  return total;
}

template <class T>
double center(const T* x, const T* center, const T* scale, std::size_t d, T* out, T* squares) {
  if (scale == nullptr) return center_row<false, false>(x, center, scale, d, out, squares);
  if (squares == nullptr) return center_row<true, false>(x, center, scale, d, out, squares);
  return center_row<true, true>(x, center, scale, d, out, squares);
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
    const double dot = static_cast<double>(dots[k]);
    const double q = core::difference_form(norms, dot, values[k]);
    errors[k] = core::error_if_finite(core::difference_form_error(norms, terms.epsilon, terms.model_errors[k]), dot + values[k]);
    values[k] = core::log_density(terms.log_normalizers[k], q);
  }
}

template <class T>
void screen(const ScreenTerms<T>& terms, const T* product, T* guess, T* upper) {
  constexpr std::size_t w = width<T>;
  const std::size_t n = terms.n_components;
  // First `upper` gets |v|^2 and `guess` |A_perp z|^2.
  std::size_t k = 0;
  for (; k + w <= n; k += w) {
    Vector<T, w> explained{}, moved{};
    for (std::size_t l = 0; l < terms.n_factors; ++l) {
      const Vector<T, w> v = load<T, w>(product + l * n + k) - load<T, w>(terms.projected_means + l * n + k);
      const Vector<T, w> square = v * v;
      explained += square;
      moved += square * load<T, w>(terms.spreads_by_factor + l * n + k);
    }
    store<T, w>(upper + k, explained);
    store<T, w>(guess + k, moved);
  }
  for (; k < n; ++k) {
    upper[k] = guess[k] = T{0};
    for (std::size_t l = 0; l < terms.n_factors; ++l) {
      const T v = product[l * n + k] - terms.projected_means[l * n + k];
      upper[k] += v * v;
      guess[k] += v * v * terms.spreads_by_factor[l * n + k];
    }
  }
  const T* dots = product + terms.n_factors * n;
  const core::Outside<T> x{terms.outside, terms.shift};
  const T factors = static_cast<T>(terms.n_factors);
#pragma GCC ivdep
  for (k = 0; k < n; ++k) {
    const core::Leftover<T> left{terms.means_left[k], terms.spreads[k], terms.inverse_noise_roots[k],
                                 terms.inverse_weights[k]};
    const T norms = terms.y_norm * left.inverse_noise_root * left.inverse_noise_root + terms.mean_norms[k];
    const T c = core::shadow_distance(norms, dots[k], upper[k]);
    const T error = core::shadow_distance_error(norms, factors, terms.epsilon, terms.model_errors[k]);
    const T q = core::mahalanobis_lower_bound(c, guess[k], error, x, left);
    upper[k] = core::log_density_bound(terms.log_normalizers[k], q);
    guess[k] = terms.log_normalizers[k] - T(0.5) * core::mahalanobis_guess(q, c, x.length, left);
  }
}

}  // namespace
}  // namespace mfa::cpu::MFA_ISA
