#include <algorithm>
#include <cmath>
#include <limits>

#include "core/gaussian.hpp"
#include "core/trust_region.hpp"
#include "cpu/frame.hpp"

namespace mfa::cpu {
namespace {

constexpr double epsilon = std::numeric_limits<double>::epsilon();

// What is the same for all frames of a model.
struct Diagonal {
  Diagonal(const Model& model, const std::vector<double>& log_priors)
      : K(model.n_components()),
        L(model.n_factors()),
        d(model.n_features()),
        means(K * d),
        weights(K * d),
        columns(K * L * d),
        offsets(K),
        largest(K) {
    double least = std::numeric_limits<double>::infinity();
    for (std::size_t k = 0; k < K; ++k)
      least = std::min(least, *std::min_element(model.noise_variance(k), model.noise_variance(k) + d));
    kappa = least;
    for (std::size_t k = 0; k < K; ++k) {
      const ComponentView c = model.component(k);
      double* weight = weights.data() + k * d;
      for (std::size_t j = 0; j < d; ++j) {
        means[k * d + j] = c.mean[j] - model.center<double>()[j];
        weight[j] = kappa / model.noise_variance(k)[j];
      }
      largest[k] = *std::max_element(weight, weight + d);
      for (std::size_t l = 0; l < L; ++l) {
        double* column = columns.data() + (k * L + l) * d;
        for (std::size_t j = 0; j < d; ++j) column[j] = c.loadings[l * d + j] * weight[j] / std::sqrt(kappa);
        for (std::size_t m = 0; m < l; ++m) {
          const double* other = columns.data() + (k * L + m) * d;
          for (std::size_t j = 0; j < d; ++j) column[j] -= c.cholesky[l * L + m] * other[j];
        }
        for (std::size_t j = 0; j < d; ++j) column[j] /= c.cholesky[l * L + l];
      }
      offsets[k] = kappa * (model.log_normalizers()[k] + log_priors[k]);
    }
  }

  const double* weight(std::size_t k) const { return weights.data() + k * d; }
  const double* column(std::size_t k, std::size_t l) const { return columns.data() + (k * L + l) * d; }
  // out += factor * (Omega_k - V_k V_k^T) v.
  void add_precision(std::size_t k, const double* v, double factor, double* out) const {
    for (std::size_t j = 0; j < d; ++j) out[j] += factor * weight(k)[j] * v[j];
    for (std::size_t l = 0; l < L; ++l) {
      const double part = factor * core::dot(column(k, l), v, d);
      for (std::size_t j = 0; j < d; ++j) out[j] -= part * column(k, l)[j];
    }
  }

  std::size_t K, L, d;
  double kappa;
  std::vector<double> means;    // (K, d), about the centre
  std::vector<double> weights;  // (K, d): Omega_k = kappa D_k^-1
  std::vector<double> columns;  // (K, L, d): V_k = kappa^(1/2) D_k^-1 A_k C_k^-T
  std::vector<double> offsets;  // (K)
  std::vector<double> largest;  // (K): of Omega_k
};

// I + sum lam_s H_s = O + V_+ V_+^T - V_- V_-^T with a diagonal O, of which as many entries may be negative as V_+ has
// columns: those, and the two low-rank parts, make the matrix that is factorized, theory.md (32).
class DiagonalDual : public FrameDual {
 public:
  DiagonalDual(const Diagonal& parts, std::span<const std::size_t> against, std::size_t target)
      : FrameDual(against.size(), parts.d), parts_(parts), against_(against.begin(), against.end()), target_(target) {}

  void set(std::size_t s, double f, const double* gradient, double rounding) {
    f_[s] = f;
    std::copy_n(gradient, size_, gradients_.begin() + static_cast<std::ptrdiff_t>(s * size_));
    rounding_ = std::max(rounding_, rounding);
  }

  void to_frame(std::span<const double> local, Point& point) const override { point.assign(local.begin(), local.end()); }

 private:
  bool factorize(std::span<const double> lam) override {
    diagonal_.assign(size_, 1.0);
    double sum = 0.0;
    for (std::size_t s = 0; s < n_; ++s) {
      sum += lam[s];
      for (std::size_t j = 0; j < size_; ++j)
        diagonal_[j] += lam[s] * (parts_.weight(target_)[j] - parts_.weight(against_[s])[j]);
    }
    low_rank_.clear();
    const auto add = [&](std::size_t k, double factor) {
      for (std::size_t l = 0; l < parts_.L; ++l)
        for (std::size_t j = 0; j < size_; ++j) low_rank_.push_back(std::sqrt(factor) * parts_.column(k, l)[j]);
    };
    for (std::size_t s = 0; s < n_; ++s)
      if (lam[s] > 0.0) add(against_[s], lam[s]);
    n_plus_ = low_rank_.size() / size_;
    if (sum > 0.0) add(target_, sum);
    n_columns_ = low_rank_.size() / size_;

    small_.clear();
    for (std::size_t j = 0; j < size_ && small_.size() <= n_plus_; ++j)
      if (!(diagonal_[j] > 0.0)) small_.push_back(j);
    if (small_.size() > n_plus_) return false;
    // As many as fit of those whose inverse would be huge.
    for (std::size_t j = 0; j < size_ && small_.size() < n_plus_; ++j)
      if (diagonal_[j] > 0.0 && diagonal_[j] < 1e-10) small_.push_back(j);
    inverse_.resize(size_);
    for (std::size_t j = 0; j < size_; ++j) inverse_[j] = 1.0 / diagonal_[j];
    for (const std::size_t j : small_) inverse_[j] = 0.0;
    return factorize_reduced();
  }

  // Rows and columns: V_+, the small features, V_-. The pivots of the first are negative and all others positive where the
  // whole is positive definite, and only there (Haynsworth).
  bool factorize_reduced() {
    const std::size_t q = n_columns_ + small_.size();
    reduced_.assign(q * q, 0.0);
    std::vector<double> scaled(size_);
    for (std::size_t a = 0; a < n_columns_; ++a) {
      const double* row = low_rank_.data() + a * size_;
      for (std::size_t j = 0; j < size_; ++j) scaled[j] = row[j] * inverse_[j];
      for (std::size_t b = 0; b <= a; ++b)
        reduced_[place(a) * q + place(b)] = -core::dot(scaled.data(), low_rank_.data() + b * size_, size_);
      reduced_[place(a) * q + place(a)] += a < n_plus_ ? -1.0 : 1.0;
    }
    for (std::size_t i = 0; i < small_.size(); ++i) {
      reduced_[(n_plus_ + i) * q + n_plus_ + i] = diagonal_[small_[i]];
      for (std::size_t a = 0; a < n_columns_; ++a) {
        const std::size_t row = std::max(place(a), n_plus_ + i);
        const std::size_t column = std::min(place(a), n_plus_ + i);
        reduced_[row * q + column] = low_rank_[a * size_ + small_[i]];
      }
    }
    least_pivot_ = 1.0;
    for (const double o : inverse_)
      if (o > 0.0) least_pivot_ = std::min(least_pivot_, 1.0 / o);
    // L D L^T in place, without exchanges: the signs of the pivots are known.
    for (std::size_t i = 0; i < q; ++i) {
      for (std::size_t j = 0; j <= i; ++j) {
        double sum = reduced_[i * q + j];
        for (std::size_t k = 0; k < j; ++k) sum -= reduced_[i * q + k] * reduced_[j * q + k] * reduced_[k * q + k];
        if (j < i) {
          reduced_[i * q + j] = sum / reduced_[j * q + j];
        } else {
          if (!(i < n_plus_ ? sum < 0.0 : sum > 0.0)) return false;
          if (i >= n_plus_) least_pivot_ = std::min(least_pivot_, sum);
          reduced_[i * q + i] = sum;
        }
      }
    }
    return true;
  }

  std::size_t place(std::size_t column) const { return column < n_plus_ ? column : column + small_.size(); }

  void solve(double* v) const override {
    const std::size_t q = n_columns_ + small_.size();
    std::vector<double> b(q);
    for (std::size_t j = 0; j < size_; ++j)
      if (inverse_[j] != 0.0) v[j] *= inverse_[j];
    for (std::size_t i = 0; i < small_.size(); ++i) {
      b[n_plus_ + i] = v[small_[i]];
      v[small_[i]] = 0.0;
    }
    for (std::size_t a = 0; a < n_columns_; ++a) b[place(a)] = -core::dot(low_rank_.data() + a * size_, v, size_);
    for (std::size_t i = 0; i < q; ++i)
      for (std::size_t k = 0; k < i; ++k) b[i] -= reduced_[i * q + k] * b[k];
    for (std::size_t i = 0; i < q; ++i) b[i] /= reduced_[i * q + i];
    for (std::size_t i = q; i-- > 0;)
      for (std::size_t k = i + 1; k < q; ++k) b[i] -= reduced_[k * q + i] * b[k];
    for (std::size_t a = 0; a < n_columns_; ++a) {
      const double* row = low_rank_.data() + a * size_;
      for (std::size_t j = 0; j < size_; ++j) v[j] -= inverse_[j] * row[j] * b[place(a)];
    }
    for (std::size_t i = 0; i < small_.size(); ++i) v[small_[i]] = b[n_plus_ + i];
  }

  void apply(std::size_t s, const double* v, double* out) const override {
    std::fill_n(out, size_, 0.0);
    parts_.add_precision(target_, v, 1.0, out);
    parts_.add_precision(against_[s], v, -1.0, out);
  }

  double least_pivot() const override { return least_pivot_; }

  const Diagonal& parts_;
  std::vector<std::size_t> against_;
  std::size_t target_;
  std::vector<double> diagonal_, inverse_;  // (d): O, and 1 / O but for the small features, where it is 0
  std::vector<double> low_rank_;            // (columns, d): V_+, then V_-
  std::size_t n_plus_ = 0, n_columns_ = 0;
  std::vector<std::size_t> small_;  // features that are not eliminated
  std::vector<double> reduced_;
  double least_pivot_ = 1.0;
};

// Coordinates are the features.
class DiagonalFrame : public Frame {
 public:
  explicit DiagonalFrame(std::shared_ptr<const Diagonal> parts)
      : parts_(std::move(parts)), gradients_(parts_->K * parts_->d), sizes_(parts_->K) {
    values_.resize(parts_->K);
  }

  double kappa() const override { return parts_->kappa; }
  std::size_t size() const override { return parts_->d; }

  void load(const double* x, const double*) override {
    const std::size_t d = parts_->d;
    std::vector<double> r(d), weighted(d);
    std::fill(gradients_.begin(), gradients_.end(), 0.0);
    for (std::size_t k = 0; k < parts_->K; ++k) {
      for (std::size_t j = 0; j < d; ++j) {
        r[j] = x[j] - parts_->means[k * d + j];
        weighted[j] = parts_->weight(k)[j] * r[j];
      }
      double* p = gradients_.data() + k * d;
      parts_->add_precision(k, r.data(), 1.0, p);
      sizes_[k] = core::dot(weighted.data(), r.data(), d) + std::abs(parts_->offsets[k]);
      values_[k] = parts_->offsets[k] - 0.5 * std::max(0.0, core::dot(p, r.data(), d));
    }
  }

  PairBound pair_bound(std::size_t s, std::size_t t) override {
    gap_gradient(s, t);
    const double square = core::dot(gap_.data(), gap_.data(), parts_->d);
    return bound_from_gradient(values_[s] - values_[t] - rounding(s, t), square * (1.0 + 1e-12), parts_->largest[s]);
  }

  PairBound pair(std::size_t s, std::size_t t, double enough) override {
    const std::unique_ptr<FrameDual> problem = dual({&s, 1}, t);
    const double zero = 0.0;
    problem->maximize({&zero, 1}, enough);
    return {problem->value(), problem->multiplier(), false};
  }

  void pair_point(std::size_t s, std::size_t t, double multiplier, Point& delta) override {
    const std::unique_ptr<FrameDual> problem = dual({&s, 1}, t);
    problem->evaluate({&multiplier, 1});
    problem->point(delta);
  }

  std::unique_ptr<FrameDual> dual(std::span<const std::size_t> against, std::size_t t) override {
    auto problem = std::make_unique<DiagonalDual>(*parts_, against, t);
    for (std::size_t s = 0; s < against.size(); ++s) {
      gap_gradient(against[s], t);
      problem->set(s, values_[against[s]] - values_[t], gap_.data(), rounding(against[s], t));
    }
    return problem;
  }

  void image(const Point& delta, Image& out) override {
    const std::size_t d = parts_->d;
    out.linear.resize(parts_->K);
    out.quadratic.resize(parts_->K);
    std::vector<double> h(d);
    for (std::size_t k = 0; k < parts_->K; ++k) {
      out.linear[k] = -core::dot(gradients_.data() + k * d, delta.data(), d);
      std::fill(h.begin(), h.end(), 0.0);
      parts_->add_precision(k, delta.data(), 1.0, h.data());
      out.quadratic[k] = std::min(0.0, -0.5 * core::dot(h.data(), delta.data(), d));
    }
    out.square = core::dot(delta.data(), delta.data(), d);
  }

  void gradient(const Point& delta, std::span<const double> shares, Point& out) override {
    const std::size_t d = parts_->d;
    out.assign(d, 0.0);
    for (std::size_t k = 0; k < parts_->K; ++k) {
      if (shares[k] == 0.0) continue;
      for (std::size_t j = 0; j < d; ++j) out[j] -= shares[k] * gradients_[k * d + j];
      parts_->add_precision(k, delta.data(), -shares[k], out.data());
    }
  }

  double dot(const Point& a, const Point& b) override { return core::dot(a.data(), b.data(), parts_->d); }

  void to_features(const Point& delta, double* out) const override { std::copy(delta.begin(), delta.end(), out); }

 private:
  void gap_gradient(std::size_t s, std::size_t t) {
    const std::size_t d = parts_->d;
    gap_.resize(d);
    for (std::size_t j = 0; j < d; ++j) gap_[j] = gradients_[t * d + j] - gradients_[s * d + j];
  }

  // By how much v_s - v_t may be off, theory.md (36).
  double rounding(std::size_t s, std::size_t t) const { return 16.0 * epsilon * (sizes_[s] + sizes_[t]); }

  std::shared_ptr<const Diagonal> parts_;
  std::vector<double> gradients_;  // (K, d): p_k = -grad v_k(x)
  std::vector<double> sizes_;      // (K): of the terms that v_k is the difference of
  std::vector<double> gap_;        // (d)
};

}  // namespace

FrameMaker diagonal_frames(const Model& model, std::vector<double> log_priors) {
  return [parts = std::make_shared<const Diagonal>(model, log_priors)] { return std::make_unique<DiagonalFrame>(parts); };
}

}  // namespace mfa::cpu
