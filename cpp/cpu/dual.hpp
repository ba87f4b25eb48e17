// The nearest point at which one component beats several others at once: the dual of that problem, and its ascent.
#pragma once

#include <cstddef>
#include <span>
#include <vector>

namespace mfa::cpu {

// Minimize |delta|^2 / 2 subject to f_s(delta) = f_s + g_s.delta + delta^T H_s delta / 2 <= 0 for all s in a set A. Vectors
// are in whatever orthonormal coordinates the derived class works in.
class Dual {
 public:
  virtual ~Dual() = default;

  // Computes  the value of the dual at multipliers lam, theory.md (29), its gradient f_s(delta(lam)) and its Hessian;
  //           false where I + sum lam_s H_s is not positive definite, and nothing holds.
  // Cost      one factorization and |A| + 1 solutions.
  bool evaluate(std::span<const double> lam);
  double value() const { return value_; }  // lowered by what rounding may have added
  double square() const { return square_; }  // |delta|^2
  double multiplier() const { return sum_; }  // sum lam_s
  std::span<const double> lam() const { return lam_; }

  // Computes  the largest value by Newton's method, projected on lam >= 0 and with back-tracking, from multipliers at which
  //           the problem is defined; ends early where the value is `enough`. Whatever it ends at is evaluated, and a
  //           valid bound.
  // Source    Bertsekas 1982 (projected Newton).
  void maximize(std::span<const double> start, double enough);
  // Computes  the largest (value - rho) / Lam over lam = Lam alpha for fixed shares alpha of sum 1: no displacement with
  //           |delta|^2 / 2 <= rho leaves less of sum_s alpha_s f_s, theory.md (33).
  void maximize_share(std::span<const double> alpha, double rho);

  // The point delta of the last evaluation. In the hard case, where some f_s is positive although the dual is at its
  // largest, moved along the eigenvector of the vanishing eigenvalue to where the largest f_s is zero.
  void point(std::vector<double>& local);
  // Moves a point to a local solution with every f_s = 0, by delta <- J^T (J J^T)^-1 (J delta - f) with J_s the gradient of f_s
  // there; false where that does not converge. For where the dual falls short.
  bool settle(std::vector<double>& local) const;
  // The shortest direction along which every f_s with lam_s > 0 (all where there is none) falls as along its own normal.
  void inward(std::span<const double> local, std::vector<double>& direction) const;

 protected:
  Dual(std::size_t n, std::size_t size) : n_(n), size_(size), f_(n), gradients_(n * size) {}

  // Factorizes I + sum lam_s H_s.
  virtual bool factorize(std::span<const double> lam) = 0;
  virtual void solve(double* v) const = 0;                                   // v <- (I + sum lam_s H_s)^-1 v
  virtual void apply(std::size_t s, const double* v, double* out) const = 0;  // out = H_s v
  virtual double least_pivot() const = 0;

  std::size_t n_, size_;
  std::vector<double> f_;          // (n)
  std::vector<double> gradients_;  // (n, size): g_s
  double rounding_ = 0.0;          // of every f_s

 private:
  double scale() const;  // the largest |f_s|
  double slopes(std::size_t s, std::span<const double> local, double* out) const;  // out = grad f_s; returns f_s

  std::vector<double> lam_, delta_, slack_, hessian_, slopes_, solved_, right_;
  double value_ = 0.0, square_ = 0.0, sum_ = 0.0;
};

}  // namespace mfa::cpu
