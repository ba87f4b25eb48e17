// A mixture with spherical noise as one sample sees it, in inner products: nothing costs d but what is at the edge
// (docs/theory.md, section 7).
#pragma once

#include <cmath>
#include <cstddef>

#include "core/gaussian.hpp"
#include "core/trust_region.hpp"

namespace mfa::core {
inline namespace MFA_ISA {

// Inner products of all that a model is made of. Columns, component after component: the L of
// V_k = (kappa / s_k)^(1/2) A_k (s_k I + A_k^T A_k)^(-1/2), and mu_k - center; at last the probe, a direction that is in no
// component's subspace.
struct GramView {
  std::size_t n_components, n_factors, n_features;
  double kappa;  // scores are multiplied by the least noise variance, which makes them squared distances in size
  double unit;   // of rounding, in the columns and the products with them
  bool equal_noise;
  const double* weights;          // (K): kappa / s_k
  const double* log_normalizers;  // (K)
  const double* products;         // (n_columns, n_columns)
  const double* factors;          // (K, L, d): kappa^(-1/2) V_k
  const double* means;            // (K, d)
  const double* center;           // (d)
  const double* probe_direction;  // (d)

  MFA_HD std::size_t columns_per_component() const { return n_factors + 1; }
  MFA_HD std::size_t n_columns() const { return n_components * columns_per_component() + 1; }
  MFA_HD std::size_t column(std::size_t k, std::size_t l) const { return k * columns_per_component() + l; }
  MFA_HD std::size_t mean(std::size_t k) const { return column(k, n_factors); }
  MFA_HD std::size_t probe() const { return n_columns() - 1; }
  MFA_HD const double* row(std::size_t i) const { return products + i * n_columns(); }

  // out (d) += factor * column i.
  template <class Team>
  MFA_HD void add_column(const Team& team, std::size_t i, double factor, double* out) const {
    const std::size_t d = n_features;
    const std::size_t k = i / columns_per_component();
    const std::size_t l = i % columns_per_component();
    if (i != probe() && l == n_factors) {
      const double* from = means + k * d;
      team.each(d, [&](std::size_t j) { out[j] += factor * (from[j] - center[j]); });
      return;
    }
    const double* from = i == probe() ? probe_direction : factors + (k * n_factors + l) * d;
    if (i != probe()) factor *= std::sqrt(kappa);
    team.each(d, [&](std::size_t j) { out[j] += factor * from[j]; });
  }
};

template <class Team>
class GramDual;  // gram_dual.hpp, to be included where there is a search

// Coordinates of a displacement are coefficients on the L columns of V_k and on p_k = -grad v_k(x), component after
// component, and on the probe.
template <class TeamType>
class GramFrame {
 public:
  using Team = TeamType;
  using Dual = GramDual<Team>;
  static constexpr bool knows_pairs = false;

  // `log_priors` (K) are those of the components' classes.
  MFA_HD GramFrame(Team& team, const GramView& gram, const double* log_priors)
      : team_(team), gram_(gram), K_(gram.n_components), L_(gram.n_factors) {
    const std::size_t n = gram.n_columns();
    values_ = team.template take<double>(K_);
    offsets_ = team.template take<double>(K_);
    gradient_squares_ = team.template take<double>(K_);
    x_dots_ = team.template take<double>(K_);
    factors_ = team.template take<double>(K_ * L_);
    products_ = team.template take<double>(n);
    projected_ = team.template take<double>(n);
    raw_ = team.template take<double>(n);
    used_ = team.template take<std::size_t>(n);
    team.each(K_, [&](std::size_t k) { offsets_[k] = gram_.kappa * (gram_.log_normalizers[k] + log_priors[k]); });
  }
  // Doubles that it takes.
  MFA_HD static std::size_t scratch(const GramView& gram) {
    return gram.n_components * (4 + gram.n_factors) + 4 * gram.n_columns();
  }

  MFA_HD Team& team() const { return team_; }
  MFA_HD const GramView& gram() const { return gram_; }
  MFA_HD double kappa() const { return gram_.kappa; }
  // Coordinates of a displacement.
  MFA_HD std::size_t size() const { return gram_.n_columns(); }
  MFA_HD std::size_t n_features() const { return gram_.n_features; }
  // The square of coordinate i's vector, or of what it is the difference of: rounding is relative to that.
  MFA_HD double coordinate_square(std::size_t i) const {
    const std::size_t k = i / gram_.columns_per_component();
    if (i == gram_.probe() || i != gram_.mean(k)) return gram_.row(i)[i];
    return gram_.weights[k] * gram_.weights[k] * (x_norm2_ + gram_.row(i)[i]);
  }
  // kappa times the scores (K), with the log-priors.
  MFA_HD const double* values() const { return values_; }

  // Where load expects the products (n_columns) of a row with the columns.
  MFA_HD double* products() { return products_; }
  // Looks at row x (d), about the model's centre.
  MFA_HD void load(const double* x) {
    x_ = x;
    x_norm2_ = team_.dot(x, x, gram_.n_features);
    team_.each(K_, [&](std::size_t k) {
      const std::size_t m = gram_.mean(k);
      const double* at_mean = gram_.row(m);
      const double w = gram_.weights[k];
      double* a = factors_ + k * L_;  // V_k^T (x - mu_k)
      double explained = 0.0, x_part = 0.0;
      for (std::size_t l = 0; l < L_; ++l) {
        const std::size_t i = gram_.column(k, l);
        a[l] = products_[i] - at_mean[i];
        explained += a[l] * a[l];
        x_part += a[l] * products_[i];
      }
      const double norm = x_norm2_ - 2.0 * products_[m] + at_mean[m];
      const double q = w * norm - explained;
      values_[k] = offsets_[k] - 0.5 * (0.0 < q ? q : 0.0);
      x_dots_[k] = w * (x_norm2_ - products_[m]) - x_part;
      double inside = 0.0;
      for (std::size_t l = 0; l < L_; ++l)
        inside += a[l] * core::dot(gram_.row(gram_.column(k, l)) + gram_.column(k, 0), a, L_);
      const double square = w * w * norm - 2.0 * w * explained + inside;
      gradient_squares_[k] = 0.0 < square ? square : 0.0;
    });
  }

  // (28) for targets component(0), ..., component(n - 1), from f and the gradient alone; store(i, bound) keeps one.
  template <class Component, class Store>
  MFA_HD void pair_bounds(std::size_t s, std::size_t n, const Component& component, const Store& store) {
    team_.each(n, [&](std::size_t i) {
      const std::size_t t = component(i);
      store(i, bound_from_gradient(values_[s] - values_[t] - rounding(s, t), gap_square(s, t) + square_rounding(s, t),
                                   gram_.weights[s]));
    });
  }

  MFA_HD void image(const double* delta, Image& out) {
    double of_x;
    const double x_dot = project(delta, of_x);
    const double square = of_x * x_dot + team_.dot(raw_, projected_, size());
    out.square = 0.0 < square ? square : 0.0;
    team_.each(K_, [&](std::size_t k) {
      out.linear[k] = -slope(k, x_dot, projected_);
      const double bend = 0.5 * squared_norm(L_, projected_ + gram_.column(k, 0)) - 0.5 * gram_.weights[k] * out.square;
      out.quadratic[k] = bend < 0.0 ? bend : 0.0;
    });
  }

  // out = sum_k shares[k] grad v_k(x + delta), over the shares that are not 0.
  MFA_HD void gradient(const double* delta, const double* shares, double* out) {
    double of_x;
    project(delta, of_x);
    // -grad v_k(x + delta) = p_k + w_k delta - V_k V_k^T delta.
    const double of_delta = team_.sum(K_, 0.0, [&](std::size_t k) { return -shares[k] * gram_.weights[k]; });
    team_.each(size(), [&](std::size_t i) { out[i] = of_delta * delta[i]; });
    team_.each(K_, [&](std::size_t k) {
      if (shares[k] == 0.0) return;
      out[gram_.mean(k)] -= shares[k];
      for (std::size_t l = 0; l < L_; ++l) out[gram_.column(k, l)] += shares[k] * projected_[gram_.column(k, l)];
    });
  }

  MFA_HD double dot(const double* a, const double* b) {
    double of_x;
    const double x_dot = project(b, of_x);
    if (a != b) of_x = expand(a);
    return of_x * x_dot + team_.dot(raw_, projected_, size());
  }

  // out (d) = delta.
  MFA_HD void to_features(const double* delta, double* out) {
    const double of_x = expand(delta);
    team_.each(gram_.n_features, [&](std::size_t j) { out[j] = of_x * x_[j]; });
    const std::size_t count = list_used();
    for (std::size_t i = 0; i < count; ++i) gram_.add_column(team_, used_[i], raw_[used_[i]], out);
  }

  // p_k . column i, and p_j . p_k: they are asked for one by one.
  MFA_HD double gradient_product(std::size_t k, std::size_t i) const {
    double sum = gram_.weights[k] * (products_[i] - gram_.row(gram_.mean(k))[i]);
    for (std::size_t l = 0; l < L_; ++l) sum -= factors_[k * L_ + l] * gram_.row(gram_.column(k, l))[i];
    return sum;
  }
  MFA_HD double gradients_dot(std::size_t j, std::size_t k) const {
    if (j == k) return gradient_squares_[k];
    double sum = gram_.weights[j] * (x_dots_[k] - gradient_product(k, gram_.mean(j)));
    for (std::size_t l = 0; l < L_; ++l) sum -= factors_[j * L_ + l] * gradient_product(k, gram_.column(j, l));
    return sum;
  }

  // The gradient of v_s - v_t, squared.
  MFA_HD double gap_square(std::size_t s, std::size_t t) const {
    const double square = gradient_squares_[s] + gradient_squares_[t] - 2.0 * gradients_dot(t, s);
    return 0.0 < square ? square : 0.0;
  }

  // By how much v_s - v_t may be off, theory.md (36).
  MFA_HD double rounding(std::size_t s, std::size_t t) const {
    const auto size_of = [&](std::size_t k) {
      const std::size_t m = gram_.mean(k);
      return gram_.weights[k] * (x_norm2_ + gram_.row(m)[m]) + std::abs(offsets_[k]);
    };
    return 16.0 * gram_.unit * (size_of(s) + size_of(t));
  }

  // The same of its squared gradient.
  MFA_HD double square_rounding(std::size_t s, std::size_t t) const {
    return (gram_.weights[s] + gram_.weights[t]) * rounding(s, t);
  }

 protected:
  MFA_HD const double* factors(std::size_t k) const { return factors_ + k * L_; }
  MFA_HD const double* products() const { return products_; }

 private:
  // p_k . y, given the products of y with x and with the columns.
  MFA_HD double slope(std::size_t k, double x_dot, const double* products) const {
    const double* own = products + gram_.column(k, 0);
    return gram_.weights[k] * (x_dot - own[L_]) - core::dot(factors_ + k * L_, own, L_);
  }

  // A displacement as a combination of x, whose coefficient is returned, and of the columns, into raw_:
  // p_k = w_k (x - mu_k) - V_k a_k.
  MFA_HD double expand(const double* delta) {
    team_.each(K_, [&](std::size_t k) {
      const double of_gradient = delta[gram_.mean(k)];
      for (std::size_t l = 0; l < L_; ++l) {
        const std::size_t i = gram_.column(k, l);
        raw_[i] = delta[i] - of_gradient * factors_[k * L_ + l];
      }
      raw_[gram_.mean(k)] = -of_gradient * gram_.weights[k];
    });
    team_.once([&] { raw_[gram_.probe()] = delta[gram_.probe()]; });
    return team_.sum(K_, 0.0, [&](std::size_t k) { return delta[gram_.mean(k)] * gram_.weights[k]; });
  }

  // The columns that raw_ is made of, into used_.
  MFA_HD std::size_t list_used() {
    return team_.list(size(), [&](std::size_t i) { return raw_[i] != 0.0; }, size(), used_);
  }

  // Products of a displacement with the columns, into projected_, and with x.
  MFA_HD double project(const double* delta, double& of_x) {
    const std::size_t n = size();
    of_x = expand(delta);
    const double factor = of_x;
    team_.each(n, [&](std::size_t i) { projected_[i] = factor * products_[i]; });
    team_.add_rows(projected_, n, list_used(), [&](std::size_t r) { return raw_[used_[r]]; },
                   [&](std::size_t r) { return gram_.row(used_[r]); });
    return factor * x_norm2_ + team_.dot(raw_, products_, n);
  }

  Team& team_;
  GramView gram_;
  std::size_t K_, L_;
  const double* x_ = nullptr;  // (d)
  double x_norm2_ = 0.0;
  double* values_;            // (K)
  double* offsets_;           // (K) kappa times log-normaliser and log-prior
  double* gradient_squares_;  // (K) |p_k|^2
  double* x_dots_;            // (K) x . p_k
  double* factors_;           // (K, L) a_k = V_k^T (x - mu_k)
  double* products_;          // (n_columns) of x
  double* projected_;         // (n_columns)
  double* raw_;               // (n_columns)
  std::size_t* used_;         // (n_columns)
};

}  // namespace MFA_ISA
}  // namespace mfa::core
