#include "cpu/dual.hpp"

#include <algorithm>
#include <cmath>
#include <limits>

#include "core/dense.hpp"
#include "core/gaussian.hpp"

namespace mfa::cpu {
namespace {

// Solves m x = b for a symmetric positive semidefinite m (n, n), its diagonal raised until it is definite; by little
// enough that a step is long where m is zero.
void solve_semidefinite(std::size_t n, const std::vector<double>& m, std::vector<double>& b) {
  double trace = 0.0, largest = 0.0;
  for (std::size_t i = 0; i < n; ++i) {
    trace += m[i * n + i];
    largest = std::max(largest, std::abs(b[i]));
  }
  std::vector<double> factor;
  const double least = trace > 0.0 ? 1e-14 * trace : 1e-8 * largest;
  if (!(least > 0.0)) return;  // all is zero, or not a number
  for (double raise = least; std::isfinite(raise); raise *= 100.0) {
    factor = m;
    for (std::size_t i = 0; i < n; ++i) factor[i * n + i] += raise;
    if (core::cholesky(n, factor.data())) break;
  }
  core::solve_lower(n, factor.data(), b.data());
  core::solve_lower_transposed(n, factor.data(), b.data());
}

}  // namespace

double Dual::scale() const {
  double largest = 0.0;
  for (const double f : f_) largest = std::max(largest, std::abs(f));
  return largest;
}

double Dual::slopes(std::size_t s, std::span<const double> local, double* out) const {
  apply(s, local.data(), out);
  const double* g = gradients_.data() + s * size_;
  double value = f_[s];
  for (std::size_t i = 0; i < size_; ++i) {
    value += (g[i] + 0.5 * out[i]) * local[i];
    out[i] += g[i];
  }
  return value;
}

bool Dual::evaluate(std::span<const double> lam) {
  if (!factorize(lam)) return false;
  lam_.assign(lam.begin(), lam.end());
  delta_.assign(size_, 0.0);
  sum_ = 0.0;
  double constant = 0.0;
  for (std::size_t s = 0; s < n_; ++s) {
    sum_ += lam[s];
    constant += lam[s] * f_[s];
    for (std::size_t i = 0; i < size_; ++i) delta_[i] -= lam[s] * gradients_[s * size_ + i];
  }
  right_ = delta_;
  solve(delta_.data());
  square_ = core::dot(delta_.data(), delta_.data(), size_);
  const double exact = constant - 0.5 * core::dot(right_.data(), delta_.data(), size_);
  value_ = exact - sum_ * rounding_ - 1e-14 * (std::abs(exact) + square_ / std::min(1.0, least_pivot()));
  if (!std::isfinite(value_)) return false;

  slack_.resize(n_);
  slopes_.resize(n_ * size_);
  solved_.resize(n_ * size_);
  hessian_.resize(n_ * n_);
  for (std::size_t s = 0; s < n_; ++s) {
    double* slope = slopes_.data() + s * size_;
    slack_[s] = slopes(s, delta_, slope);
    std::copy_n(slope, size_, solved_.begin() + static_cast<std::ptrdiff_t>(s * size_));
    solve(solved_.data() + s * size_);
  }
  for (std::size_t s = 0; s < n_; ++s)
    for (std::size_t r = 0; r < n_; ++r)
      hessian_[s * n_ + r] = core::dot(slopes_.data() + s * size_, solved_.data() + r * size_, size_);
  return true;
}

void Dual::maximize(std::span<const double> start, double enough) {
  std::vector<double> lam(start.begin(), start.end()), next(n_), step, m, slack, hessian;
  std::vector<std::size_t> free;
  // Where nothing is moved, everything is defined.
  for (int halving = 0; halving < 60 && !evaluate(lam); ++halving)
    for (double& value : lam) value *= halving < 59 ? 0.5 : 0.0;
  double last_length = 1.0;
  for (int iteration = 0; iteration < 100 && value_ < enough; ++iteration) {
    free.clear();
    double violation = 0.0;
    for (std::size_t s = 0; s < n_; ++s)
      if (lam[s] > 0.0 || slack_[s] > 0.0) {
        free.push_back(s);
        violation = std::max(violation, std::abs(slack_[s]));
      }
    if (violation <= 1e-12 * scale() + rounding_) return;
    const std::size_t n = free.size();
    m.resize(n * n);
    step.resize(n);
    for (std::size_t a = 0; a < n; ++a) {
      step[a] = slack_[free[a]];
      for (std::size_t b = 0; b < n; ++b) m[a * n + b] = hessian_[free[a] * n_ + free[b]];
    }
    solve_semidefinite(n, m, step);
    slack = slack_;
    const double before = value_;
    bool moved = false;
    // Towards the boundary of what is positive definite steps are cut short, one after the other by as much.
    double length = std::min(1.0, 4.0 * last_length);
    for (int halving = 0; halving < 60 && !moved; ++halving, length *= 0.5) {
      last_length = length;
      next = lam;
      double gain = 0.0;  // what the dual's tangent promises
      for (std::size_t a = 0; a < n; ++a) {
        next[free[a]] = std::max(0.0, lam[free[a]] + length * step[a]);
        gain += (next[free[a]] - lam[free[a]]) * slack[free[a]];
      }
      moved = evaluate(next) && value_ > before + 1e-4 * gain;
    }
    if (!moved) {  // the boundary of what is positive definite, or rounding
      evaluate(lam);
      return;
    }
    lam = next;
    if (value_ - before <= 1e-13 * std::abs(value_)) return;
  }
}

void Dual::maximize_share(std::span<const double> alpha, double rho) {
  std::vector<double> lam(n_);
  const auto at = [&](double total) {
    for (std::size_t s = 0; s < n_; ++s) lam[s] = total * alpha[s];
    return evaluate(lam);
  };
  // What is left is largest where |delta|^2 / 2 = rho, and near there it hardly changes. 1 / |delta| is nearly linear in
  // 1 / Lam, so that a secant in these finds it.
  const double wanted = std::sqrt(2.0 * rho);
  constexpr double close = 1e-4;
  constexpr double far = 1e15;
  double low = 0.0, high = far, total = 1.0, best = 0.0, best_value = 0.0;
  double last = 0.0, last_length = 0.0;
  for (int iteration = 0; iteration < 40 && high - low > close * high && total < far; ++iteration) {
    if (!at(total)) {
      high = total;
      last = 0.0;
      total = 0.5 * (low + high);
      continue;
    }
    const double left = (value_ - rho) / total;
    if (best == 0.0 || left > best_value) {
      best_value = left;
      best = total;
    }
    const double length = std::sqrt(square_);
    if (!(length > 0.0) || std::abs(length - wanted) <= close * wanted) break;
    (length < wanted ? low : high) = total;
    double next = total * wanted / length;
    if (last > 0.0 && length != last_length) {
      const double slope = (1.0 / total - 1.0 / last) / (1.0 / length - 1.0 / last_length);
      next = 1.0 / (1.0 / total + slope * (1.0 / wanted - 1.0 / length));
    }
    last = total;
    last_length = length;
    total = next > low && next < high ? next : high < far ? 0.5 * (low + high) : 4.0 * total;
  }
  if (best > 0.0) at(best);
}

void Dual::point(std::vector<double>& local) {
  local = delta_;
  std::size_t worst = 0;
  for (std::size_t s = 0; s < n_; ++s)
    if (slack_[s] > slack_[worst]) worst = s;
  if (!(slack_[worst] > 1e-10 * scale())) return;
  // The eigenvector by inverse iteration: the matrix is all but singular.
  std::vector<double> v(size_), h(size_);
  for (std::size_t i = 0; i < size_; ++i) v[i] = 1.0 + 0.5 * static_cast<double>(i % 7) - static_cast<double>(i % 3);
  for (int pass = 0; pass < 5; ++pass) {
    solve(v.data());
    const double norm = std::sqrt(core::dot(v.data(), v.data(), size_));
    if (!(norm > 0.0) || !std::isfinite(norm)) return;
    for (double& value : v) value /= norm;
  }
  apply(worst, v.data(), h.data());
  const double a = 0.5 * core::dot(h.data(), v.data(), size_);
  const double b = core::dot(slopes_.data() + worst * size_, v.data(), size_);
  const double c = slack_[worst];
  const double root = b * b - 4.0 * a * c;
  if (!(a < 0.0) || !(root >= 0.0)) return;
  // Of the two roots the one that leads to the shorter point.
  const double q = -0.5 * (b + (b < 0.0 ? -std::sqrt(root) : std::sqrt(root)));
  const double along = core::dot(delta_.data(), v.data(), size_);
  double best = q / a;
  if (const double other = q != 0.0 ? c / q : best; other * (other + 2.0 * along) < best * (best + 2.0 * along)) best = other;
  for (std::size_t i = 0; i < size_; ++i) local[i] += best * v[i];
}

bool Dual::settle(std::vector<double>& local) const {
  std::vector<double> j(n_ * size_), m(n_ * n_), b(n_);
  for (int iteration = 0; iteration < 50; ++iteration) {
    double largest = 0.0;
    for (std::size_t s = 0; s < n_; ++s) {
      const double f = slopes(s, local, j.data() + s * size_);
      largest = std::max(largest, std::abs(f));
      b[s] = core::dot(j.data() + s * size_, local.data(), size_) - f;
    }
    for (std::size_t s = 0; s < n_; ++s)
      for (std::size_t r = 0; r < n_; ++r)
        m[s * n_ + r] = core::dot(j.data() + s * size_, j.data() + r * size_, size_);
    solve_semidefinite(n_, m, b);
    double moved = 0.0, square = 0.0;
    for (std::size_t i = 0; i < size_; ++i) {
      double next = 0.0;
      for (std::size_t s = 0; s < n_; ++s) next += b[s] * j[s * size_ + i];
      moved += (next - local[i]) * (next - local[i]);
      square += next * next;
      local[i] = next;
    }
    if (!std::isfinite(square)) return false;
    if (largest <= 1e-10 * scale() && moved <= 1e-16 * square) return true;
  }
  return false;
}

void Dual::inward(std::span<const double> local, std::vector<double>& direction) const {
  std::vector<std::size_t> active;
  for (std::size_t s = 0; s < n_; ++s)
    if (lam_[s] > 0.0) active.push_back(s);
  if (active.empty())
    for (std::size_t s = 0; s < n_; ++s) active.push_back(s);
  const std::size_t n = active.size();
  std::vector<double> j(n * size_), m(n * n), b(n);
  for (std::size_t a = 0; a < n; ++a) slopes(active[a], local, j.data() + a * size_);
  for (std::size_t a = 0; a < n; ++a)
    for (std::size_t c = 0; c < n; ++c) m[a * n + c] = core::dot(j.data() + a * size_, j.data() + c * size_, size_);
  for (std::size_t a = 0; a < n; ++a) b[a] = std::sqrt(m[a * n + a]);
  direction.assign(size_, 0.0);
  solve_semidefinite(n, m, b);
  for (std::size_t a = 0; a < n; ++a)
    for (std::size_t i = 0; i < size_; ++i) direction[i] -= b[a] * j[a * size_ + i];
}

}  // namespace mfa::cpu
