#include <algorithm>
#include <cmath>
#include <limits>

#include "core/dense.hpp"
#include "core/gaussian.hpp"
#include "core/trust_region.hpp"
#include "cpu/frame.hpp"

namespace mfa::cpu {
namespace {

constexpr double epsilon = std::numeric_limits<double>::epsilon();

class GramFrame;

// A few components' subspaces and gradients, in an orthonormal basis of their span. Outside of it
// I + sum lam_s H_s is a multiple of the identity, theory.md (31).
class GramDual : public FrameDual {
 public:
  static std::unique_ptr<GramDual> make(GramFrame& frame, std::span<const std::size_t> against, std::size_t target);

  void to_frame(std::span<const double> local, Point& point) const override;

 private:
  GramDual(std::size_t n, std::size_t size) : FrameDual(n, size) {}

  bool factorize(std::span<const double> lam) override;
  void solve(double* v) const override;
  void apply(std::size_t s, const double* v, double* out) const override;
  double least_pivot() const override { return least_pivot_; }

  std::vector<double> weights_;     // (n + 1): that of the target last
  std::vector<double> projectors_;  // (n + 1, size, size): V_k V_k^T
  std::vector<double> factor_;
  double least_pivot_ = 1.0;
  bool anything_outside_ = true;
  // From the basis to the frame's coordinates: a combination of some columns, each of which is one coordinate or, for
  // a gradient, a difference of two.
  struct Column {
    std::size_t plus, minus;
    double norm;
  };
  std::vector<Column> columns_;
  std::vector<std::size_t> pivots_;
  std::vector<double> r_;  // (size, columns)
  std::size_t frame_size_ = 0;
};

// Coordinates are coefficients on the L columns of V_k and on p_k = -grad v_k(x), component after component, and on the
// probe.
class GramFrame : public Frame {
 public:
  GramFrame(const Gram& gram, std::span<const double> log_priors)
      : gram_(gram),
        model_(gram.model()),
        K_(model_.n_components()),
        L_(model_.n_factors()),
        offsets_(K_),
        products_(gram.n_columns()),
        norms_(K_),
        factors_(K_ * L_),
        gradient_squares_(K_),
        x_dots_(K_),
        gradient_products_(K_),
        known_(K_, false) {
    values_.resize(K_);
    for (std::size_t k = 0; k < K_; ++k) offsets_[k] = gram.kappa() * (model_.log_normalizers()[k] + log_priors[k]);
  }

  double kappa() const override { return gram_.kappa(); }
  std::size_t size() const override { return gram_.n_columns(); }

  void load(const double* x, const double* product) override {
    x_ = x;
    gram_.gather(product, x, products_.data());
    x_norm2_ = core::dot(x, x, model_.n_features());
    std::fill(known_.begin(), known_.end(), false);
    for (std::size_t k = 0; k < K_; ++k) {
      const double* at_mean = gram_.products(gram_.column(k, L_));
      const double w = gram_.weight(k);
      double* a = factors_.data() + k * L_;
      double explained = 0.0, x_part = 0.0;
      for (std::size_t l = 0; l < L_; ++l) {
        const std::size_t i = gram_.column(k, l);
        a[l] = products_[i] - at_mean[i];
        explained += a[l] * a[l];
        x_part += a[l] * products_[i];
      }
      const std::size_t m = gram_.column(k, L_);
      norms_[k] = x_norm2_ - 2.0 * products_[m] + at_mean[m];
      values_[k] = offsets_[k] - 0.5 * std::max(0.0, w * norms_[k] - explained);
      x_dots_[k] = w * (x_norm2_ - products_[m]) - x_part;
      double inside = 0.0;
      for (std::size_t l = 0; l < L_; ++l)
        inside += a[l] * core::dot(gram_.products(gram_.column(k, l)) + gram_.column(k, 0), a, L_);
      gradient_squares_[k] = std::max(0.0, w * w * norms_[k] - 2.0 * w * explained + inside);
    }
  }

  // The products (n_columns) of p_k with the columns.
  const double* gradient_products(std::size_t k) {
    std::vector<double>& out = gradient_products_[k];
    if (known_[k]) return out.data();
    known_[k] = true;
    out.resize(gram_.n_columns());
    const double w = gram_.weight(k);
    const double* at_mean = gram_.products(gram_.column(k, L_));
    for (std::size_t i = 0; i < out.size(); ++i) out[i] = w * (products_[i] - at_mean[i]);
    for (std::size_t l = 0; l < L_; ++l) {
      const double a = factors_[k * L_ + l];
      const double* row = gram_.products(gram_.column(k, l));
      for (std::size_t i = 0; i < out.size(); ++i) out[i] -= a * row[i];
    }
    return out.data();
  }

  // p_k . y, given the products of y with x and with the columns.
  double slope(std::size_t k, double x_dot, const double* products) const {
    const double* own = products + gram_.column(k, 0);
    return gram_.weight(k) * (x_dot - own[L_]) - core::dot(factors_.data() + k * L_, own, L_);
  }

  double gradients_dot(std::size_t j, std::size_t k) {
    return j == k ? gradient_squares_[k] : slope(j, x_dots_[k], gradient_products(k));
  }

  // The gradient of v_s - v_t, squared.
  double gap_square(std::size_t s, std::size_t t) {
    return std::max(0.0, gradient_squares_[s] + gradient_squares_[t] - 2.0 * gradients_dot(t, s));
  }

  // By how much v_s - v_t may be off, theory.md (36).
  double rounding(std::size_t s, std::size_t t) const {
    const auto size = [&](std::size_t k) {
      const std::size_t mean = gram_.column(k, L_);
      return gram_.weight(k) * (x_norm2_ + gram_.products(mean)[mean]) + std::abs(offsets_[k]);
    };
    return 16.0 * epsilon * (size(s) + size(t));
  }

  // The same of its squared gradient.
  double square_rounding(std::size_t s, std::size_t t) const {
    return (gram_.weight(s) + gram_.weight(t)) * rounding(s, t);
  }

  PairBound pair_bound(std::size_t s, std::size_t t) override {
    return bound_from_gradient(values_[s] - values_[t] - rounding(s, t), gap_square(s, t) + square_rounding(s, t), gram_.weight(s));
  }

  PairBound pair(std::size_t s, std::size_t t, double enough) override {
    const core::Quadratic q = quadratic(s, t);
    const double g2 = gap_square(s, t);
    double curvature = 0.0;
    for (std::size_t i = 0; i < q.n; ++i) curvature += q.squares[i] * q.eigenvalues[i];
    const double discriminant = g2 * g2 - 2.0 * curvature * q.f;
    const double start = 2.0 * q.f / (g2 + std::sqrt(std::max(0.0, discriminant)));
    const core::DualSolution found = core::maximize_dual(q, start, enough);
    const auto lowered = [&](double lam, const core::DualPoint& at) {
      return at.value - pair_error_ * (lam * at.square + at.value) -
             lam * (rounding(s, t) + lam * at.largest * square_rounding(s, t));
    };
    PairBound bound{lowered(found.lam, found.at), found.lam, found.end == core::DualEnd::root};
    // Where 1 + lam theta vanishes rounding would take all of it; a little before, the value is hardly less.
    if (found.end == core::DualEnd::boundary)
      for (double before = 1e-12; before < 1e-2; before *= 10.0) {
        const double lam = found.lam * (1.0 - before);
        const double value = lowered(lam, core::dual_at(q, lam));
        if (value > bound.value) bound = {value, lam, false};
      }
    return bound;
  }

  void pair_point(std::size_t s, std::size_t t, double lam, Point& delta) override {
    const core::Quadratic q = quadratic(s, t);
    delta.assign(size(), 0.0);
    const bool outside = q.n > pair_->rank;
    const double shared = outside ? 1.0 / (1.0 + lam * q.eigenvalues[q.n - 1]) : 0.0;
    delta[gram_.column(t, L_)] -= lam * shared;
    delta[gram_.column(s, L_)] += lam * shared;
    for (std::size_t e = 0; e < pair_->rank; ++e) {
      const double factor = lam * parts_[e] * (shared - 1.0 / (1.0 + lam * q.eigenvalues[e]));
      const double* v = pair_->vectors.data() + e * 2 * L_;
      for (std::size_t l = 0; l < L_; ++l) {
        delta[gram_.column(low_, l)] += factor * v[l];
        delta[gram_.column(high_, l)] += factor * v[L_ + l];
      }
    }
  }

  std::unique_ptr<FrameDual> dual(std::span<const std::size_t> against, std::size_t t) override {
    return GramDual::make(*this, against, t);
  }

  void image(const Point& delta, Image& out) override {
    const double x_dot = project(delta);
    double square = delta[gram_.probe()] * projected_[gram_.probe()];
    out.linear.resize(K_);
    out.quadratic.resize(K_);
    for (std::size_t k = 0; k < K_; ++k) {
      const double slope_k = slope(k, x_dot, projected_.data());
      const double* own = projected_.data() + gram_.column(k, 0);
      const double* coefficients = delta.data() + gram_.column(k, 0);
      square += core::dot(coefficients, own, L_) + coefficients[L_] * slope_k;
      out.linear[k] = -slope_k;
      out.quadratic[k] = 0.5 * core::squared_norm(L_, own);
    }
    out.square = std::max(0.0, square);
    for (std::size_t k = 0; k < K_; ++k)
      out.quadratic[k] = std::min(0.0, out.quadratic[k] - 0.5 * gram_.weight(k) * out.square);
  }

  void gradient(const Point& delta, std::span<const double> shares, Point& out) override {
    project(delta);
    // -grad v_k(x + delta) = p_k + w_k delta - V_k V_k^T delta.
    double of_delta = 0.0;
    for (std::size_t k = 0; k < K_; ++k) of_delta -= shares[k] * gram_.weight(k);
    out.resize(size());
    for (std::size_t i = 0; i < size(); ++i) out[i] = of_delta * delta[i];
    for (std::size_t k = 0; k < K_; ++k) {
      if (shares[k] == 0.0) continue;
      out[gram_.column(k, L_)] -= shares[k];
      for (std::size_t l = 0; l < L_; ++l) out[gram_.column(k, l)] += shares[k] * projected_[gram_.column(k, l)];
    }
  }

  double dot(const Point& a, const Point& b) override {
    const double x_dot = project(b);
    double sum = a[gram_.probe()] * projected_[gram_.probe()];
    for (std::size_t k = 0; k < K_; ++k) {
      const double* coefficients = a.data() + gram_.column(k, 0);
      sum += core::dot(coefficients, projected_.data() + gram_.column(k, 0), L_);
      if (coefficients[L_] != 0.0) sum += coefficients[L_] * slope(k, x_dot, projected_.data());
    }
    return sum;
  }

  void to_features(const Point& delta, double* out) const override {
    const std::size_t d = model_.n_features();
    double of_x = 0.0;
    for (std::size_t k = 0; k < K_; ++k) of_x += delta[gram_.column(k, L_)] * gram_.weight(k);
    for (std::size_t j = 0; j < d; ++j) out[j] = of_x * x_[j];
    for (std::size_t k = 0; k < K_; ++k) {
      // p_k = w_k (x - mu_k) - V_k a_k.
      const double of_gradient = delta[gram_.column(k, L_)];
      if (of_gradient != 0.0) gram_.add_column(gram_.column(k, L_), -of_gradient * gram_.weight(k), out);
      for (std::size_t l = 0; l < L_; ++l) {
        const double factor = delta[gram_.column(k, l)] - of_gradient * factors_[k * L_ + l];
        if (factor != 0.0) gram_.add_column(gram_.column(k, l), factor, out);
      }
    }
    if (delta[gram_.probe()] != 0.0) gram_.add_column(gram_.probe(), delta[gram_.probe()], out);
  }

  const Gram& gram() const { return gram_; }
  const Model& model() const { return model_; }

 private:
  friend class GramDual;

  // v_s - v_t in the eigenvectors of its Hessian, and at last in what of its gradient is outside of them.
  core::Quadratic quadratic(std::size_t s, std::size_t t) {
    low_ = std::min(s, t);
    high_ = std::max(s, t);
    pair_ = &gram_.pair(low_, high_, scratch_);
    const double* of_s = gradient_products(s);
    // V_k . (p_t - p_s) for both components.
    products_of_gap_.resize(2 * L_);
    const double* at_mean = gram_.products(gram_.column(t, L_));
    const double* a = factors_.data() + t * L_;
    for (std::size_t l = 0; l < 2 * L_; ++l) {
      const std::size_t i = l < L_ ? gram_.column(low_, l) : gram_.column(high_, l - L_);
      const double of_t = gram_.weight(t) * (products_[i] - at_mean[i]) -
                          core::dot(gram_.products(i) + gram_.column(t, 0), a, L_);
      products_of_gap_[l] = of_t - of_s[i];
    }
    const double outside = gram_.weight(t) - gram_.weight(s);
    const double sign = s < t ? 1.0 : -1.0;
    const std::size_t rank = pair_->rank;
    parts_.resize(rank);
    squares_.resize(rank + 1);
    eigenvalues_.resize(rank + 1);
    double left = gap_square(s, t);
    for (std::size_t e = 0; e < rank; ++e) {
      parts_[e] = core::dot(pair_->vectors.data() + e * 2 * L_, products_of_gap_.data(), 2 * L_);
      squares_[e] = parts_[e] * parts_[e];
      eigenvalues_[e] = outside + sign * pair_->eigenvalues[e];
      left -= squares_[e];
    }
    pair_error_ = pair_->error;
    std::size_t n = rank;
    if (rank < model_.n_features()) {
      squares_[n] = std::max(0.0, left);
      eigenvalues_[n] = outside;
      ++n;
    }
    return {n, squares_.data(), eigenvalues_.data(), values_[s] - values_[t]};
  }

  // Products of a displacement with the columns, into projected_, and with x.
  double project(const Point& delta) {
    const std::size_t n = gram_.n_columns();
    projected_.assign(n, 0.0);
    double x_dot = 0.0;
    const auto add = [&](double factor, const double* row) {
      for (std::size_t i = 0; i < n; ++i) projected_[i] += factor * row[i];
    };
    for (std::size_t k = 0; k < K_; ++k) {
      for (std::size_t l = 0; l < L_; ++l) {
        const std::size_t i = gram_.column(k, l);
        if (delta[i] == 0.0) continue;
        add(delta[i], gram_.products(i));
        x_dot += delta[i] * products_[i];
      }
      const double of_gradient = delta[gram_.column(k, L_)];
      if (of_gradient == 0.0) continue;
      add(of_gradient, gradient_products(k));
      x_dot += of_gradient * x_dots_[k];
    }
    if (const double of_probe = delta[gram_.probe()]; of_probe != 0.0) {
      add(of_probe, gram_.products(gram_.probe()));
      x_dot += of_probe * products_[gram_.probe()];
    }
    return x_dot;
  }

  const Gram& gram_;
  const Model& model_;
  std::size_t K_, L_;
  std::vector<double> offsets_;   // (K) kappa times log-normaliser and log-prior
  const double* x_ = nullptr;     // (d)
  std::vector<double> products_;  // (n_columns) of x
  double x_norm2_ = 0.0;
  std::vector<double> norms_;                           // (K) |x - mu_k|^2
  std::vector<double> factors_;                         // (K, L) a_k = V_k^T (x - mu_k)
  std::vector<double> gradient_squares_;                // (K) |p_k|^2
  std::vector<double> x_dots_;                          // (K) x . p_k
  std::vector<std::vector<double>> gradient_products_;  // (K, n_columns), of those that are known
  std::vector<bool> known_;
  // Of the pair at hand.
  PairEigen scratch_;
  const PairEigen* pair_ = nullptr;
  double pair_error_ = 0.0;
  std::size_t low_ = 0, high_ = 0;
  std::vector<double> products_of_gap_, parts_, squares_, eigenvalues_;
  std::vector<double> projected_;
};

std::unique_ptr<GramDual> GramDual::make(GramFrame& frame, std::span<const std::size_t> against, std::size_t target) {
  const Gram& gram = frame.gram();
  const std::size_t L = frame.L_;
  const std::size_t n = against.size();
  std::vector<std::size_t> members(against.begin(), against.end());
  members.push_back(target);

  std::vector<Column> columns;
  constexpr std::size_t none = static_cast<std::size_t>(-1);
  for (const std::size_t k : members)
    for (std::size_t l = 0; l < L; ++l) columns.push_back({gram.column(k, l), none, 0.0});
  for (const std::size_t s : against) columns.push_back({gram.column(target, L), gram.column(s, L), 0.0});
  if (!gram.equal_noise()) columns.push_back({gram.probe(), none, 0.0});

  // Products of any two coordinates that are no gradients, or of a gradient with one.
  const auto is_gradient = [&](std::size_t i) { return i != gram.probe() && i % gram.columns_per_component() == L; };
  const auto component = [&](std::size_t i) { return i / gram.columns_per_component(); };
  const auto product = [&](std::size_t i, std::size_t j) {
    if (is_gradient(i) && is_gradient(j)) return frame.gradients_dot(component(i), component(j));
    if (is_gradient(i)) return frame.gradient_products(component(i))[j];
    if (is_gradient(j)) return frame.gradient_products(component(j))[i];
    return gram.products(i)[j];
  };
  const auto with = [&](std::size_t i, const Column& c) {
    return product(i, c.plus) - (c.minus == none ? 0.0 : product(i, c.minus));
  };
  const std::size_t m = columns.size();
  std::vector<double> all(m * m);
  for (std::size_t i = 0; i < m; ++i)
    for (std::size_t j = 0; j <= i; ++j)
      all[i * m + j] = all[j * m + i] =
          with(columns[i].plus, columns[j]) - (columns[i].minus == none ? 0.0 : with(columns[i].minus, columns[j]));
  for (std::size_t i = 0; i < m; ++i) columns[i].norm = std::sqrt(std::max(0.0, all[i * m + i]));
  for (std::size_t i = 0; i < m; ++i)
    for (std::size_t j = 0; j < m; ++j) {
      const double norms = columns[i].norm * columns[j].norm;
      all[i * m + j] = norms > 0.0 ? all[i * m + j] / norms : 0.0;
    }
  std::vector<double> r(m * m);
  std::vector<std::size_t> pivots(m);
  const std::size_t rank =
      std::min(core::pivoted_cholesky(m, all.data(), core::smallest_pivot, r.data(), pivots.data()),
               frame.model().n_features());

  std::unique_ptr<GramDual> dual(new GramDual(n, rank));
  dual->anything_outside_ = rank < frame.model().n_features();
  dual->frame_size_ = frame.size();
  for (std::size_t s = 0; s < n; ++s) {
    dual->f_[s] = frame.values()[against[s]] - frame.values()[target];
    dual->rounding_ = std::max(dual->rounding_, frame.rounding(against[s], target));
    const std::size_t column = (n + 1) * L + s;
    for (std::size_t a = 0; a < rank; ++a) dual->gradients_[s * rank + a] = columns[column].norm * r[a * m + column];
  }
  dual->projectors_.assign((n + 1) * rank * rank, 0.0);
  for (std::size_t k = 0; k <= n; ++k) {
    dual->weights_.push_back(gram.weight(members[k]));
    double* projector = dual->projectors_.data() + k * rank * rank;
    for (std::size_t l = 0; l < L; ++l) {
      const std::size_t column = k * L + l;
      const double square = columns[column].norm * columns[column].norm;
      for (std::size_t a = 0; a < rank; ++a)
        for (std::size_t b = 0; b < rank; ++b) projector[a * rank + b] += square * r[a * m + column] * r[b * m + column];
    }
  }
  dual->factor_.resize(rank * rank);
  dual->columns_ = std::move(columns);
  dual->pivots_ = std::move(pivots);
  dual->r_ = std::move(r);
  return dual;
}

bool GramDual::factorize(std::span<const double> lam) {
  double identity = 1.0, sum = 0.0;
  for (std::size_t s = 0; s < n_; ++s) {
    identity += lam[s] * (weights_[n_] - weights_[s]);
    sum += lam[s];
  }
  if (anything_outside_ && !(identity > 0.0)) return false;
  const std::size_t square = size_ * size_;
  for (std::size_t i = 0; i < square; ++i) factor_[i] = -sum * projectors_[n_ * square + i];
  for (std::size_t s = 0; s < n_; ++s)
    if (lam[s] > 0.0)
      for (std::size_t i = 0; i < square; ++i) factor_[i] += lam[s] * projectors_[s * square + i];
  for (std::size_t i = 0; i < size_; ++i) factor_[i * size_ + i] += identity;
  if (!core::cholesky(size_, factor_.data())) return false;
  least_pivot_ = anything_outside_ ? identity : 1.0;
  for (std::size_t i = 0; i < size_; ++i)
    least_pivot_ = std::min(least_pivot_, factor_[i * size_ + i] * factor_[i * size_ + i]);
  return true;
}

void GramDual::solve(double* v) const {
  core::solve_lower(size_, factor_.data(), v);
  core::solve_lower_transposed(size_, factor_.data(), v);
}

void GramDual::apply(std::size_t s, const double* v, double* out) const {
  const double* own = projectors_.data() + s * size_ * size_;
  const double* target = projectors_.data() + n_ * size_ * size_;
  for (std::size_t a = 0; a < size_; ++a) {
    double sum = (weights_[n_] - weights_[s]) * v[a];
    for (std::size_t b = 0; b < size_; ++b) sum += (own[a * size_ + b] - target[a * size_ + b]) * v[b];
    out[a] = sum;
  }
}

void GramDual::to_frame(std::span<const double> local, Point& point) const {
  constexpr std::size_t none = static_cast<std::size_t>(-1);
  std::vector<double> coefficients(local.begin(), local.end());
  core::solve_pivots(columns_.size(), size_, r_.data(), pivots_.data(), coefficients.data());
  point.assign(frame_size_, 0.0);
  for (std::size_t q = 0; q < size_; ++q) {
    const Column& column = columns_[pivots_[q]];
    const double value = coefficients[q] / column.norm;
    point[column.plus] += value;
    if (column.minus != none) point[column.minus] -= value;
  }
}

}  // namespace

FrameMaker gram_frames(const Gram& gram, std::vector<double> log_priors) {
  return [&gram, priors = std::move(log_priors)] { return std::make_unique<GramFrame>(gram, priors); };
}

}  // namespace mfa::cpu
