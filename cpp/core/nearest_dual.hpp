// The nearest point at which one component beats several others at once: the dual of that problem, and its ascent
// (docs/theory.md, section 7).
#pragma once

#include <cmath>
#include <cstddef>

#include "core/team.hpp"

namespace mfa::core {
inline namespace MFA_ISA {

// Components that one target is made to beat at once, at most; three have been seen to be enough.
inline constexpr std::size_t most_against = 8;

// Computes  x with m x = b, in place of b, for a symmetric positive semidefinite m (n, n), n <= most_against, its diagonal
//           raised until it is definite; by little enough that a step is long where m is zero.
MFA_HD_APART inline void solve_semidefinite(std::size_t n, const double* m, double* b) {
  double trace = 0.0, largest = 0.0;
  for (std::size_t i = 0; i < n; ++i) {
    trace += m[i * n + i];
    largest = std::abs(b[i]) > largest ? std::abs(b[i]) : largest;
  }
  double factor[most_against * most_against];
  const double least = trace > 0.0 ? 1e-14 * trace : 1e-8 * largest;
  if (!(least > 0.0)) return;  // all is zero, or not a number
  for (double raise = least; std::isfinite(raise); raise *= 100.0) {
    for (std::size_t i = 0; i < n * n; ++i) factor[i] = m[i];
    for (std::size_t i = 0; i < n; ++i) factor[i * n + i] += raise;
    if (cholesky(n, factor)) break;
  }
  solve_lower(n, factor, b);
  solve_lower_transposed(n, factor, b);
}

// Minimize |delta|^2 / 2 subject to f_s(delta) = f_s + g_s.delta + delta^T H_s delta / 2 <= 0 for all s in a set A. Vectors
// are in whatever orthonormal coordinates the derived class works in, which has
//   bool factorize(const double* lam)                                  I + sum lam_s H_s; false unless it is positive definite
//   void solve(double* v) const                                        v <- (I + sum lam_s H_s)^-1 v
//   void apply(std::size_t s, const double* v, double* out) const      out = H_s v
//   double least_pivot() const
//   double unit() const                                                of rounding, in all that it is made of
// Multipliers, and a set's small matrices, are every member's own.
template <class Team, class Derived>
class Dual {
 public:
  MFA_HD explicit Dual(Team& team) : team_(team) {}

  MFA_HD std::size_t n() const { return n_; }
  MFA_HD std::size_t size() const { return size_; }
  MFA_HD double value() const { return value_; }  // lowered by what rounding may have added
  MFA_HD double square() const { return square_; }  // |delta|^2
  MFA_HD double multiplier() const { return sum_; }  // sum lam_s
  MFA_HD const double* lam() const { return lam_; }

  // Computes  the value of the dual at multipliers lam, theory.md (29), and all f_s and their gradients at delta(lam); false
  //           where I + sum lam_s H_s is not positive definite, and nothing holds.
  // Cost      one factorization and one solution.
  MFA_HD_APART bool evaluate(const double* lam) {
    if (!evaluate_value(lam)) return false;
    for (std::size_t s = 0; s < n_; ++s) {
      const double slack = slopes(s, delta_, slopes_ + s * size_);
      team_.once([&] { slack_[s] = slack; });
    }
    return true;
  }

  // Computes  the largest value by Newton's method, projected on lam >= 0 and with back-tracking, from multipliers at which
  //           the problem is defined; ends early where the value is `enough`. Whatever it ends at is evaluated, and a
  //           valid bound. The Hessian is -J W^-1 J^T, J the gradients of f_s at delta(lam).
  // Shapes    start (n), n <= most_against.
  // Source    Bertsekas 1982 (projected Newton).
  MFA_HD_APART void maximize(const double* start, double enough) {
    double lam[most_against], next[most_against], slack[most_against], step[most_against];
    double hessian[most_against * most_against];
    std::size_t free[most_against];
    const auto mark = team_.mark();
    double* solved = team_.template take<double>(size_);
    for (std::size_t s = 0; s < n_; ++s) lam[s] = start[s];
    bool defined = evaluate(lam);
    for (int halving = 0; halving < 60 && !defined; ++halving) {  // at last without any
      for (std::size_t s = 0; s < n_; ++s) lam[s] *= halving < 59 ? 0.5 : 0.0;
      defined = evaluate(lam);
    }
    if (!defined) {  // lengths themselves are not known well enough
      team_.release(mark);
      return;
    }
    double last_length = 1.0;
    for (int iteration = 0; iteration < 100 && value_ < enough; ++iteration) {
      std::size_t n = 0;
      double violation = 0.0, rounding = 0.0;
      for (std::size_t s = 0; s < n_; ++s) {
        slack[s] = slack_[s];
        rounding = roundings_[s] > rounding ? roundings_[s] : rounding;
        if (!(lam[s] > 0.0 || slack[s] > 0.0)) continue;
        free[n++] = s;
        violation = std::abs(slack[s]) > violation ? std::abs(slack[s]) : violation;
      }
      if (violation <= 1e-12 * scale() + rounding) break;
      for (std::size_t b = 0; b < n; ++b) {
        step[b] = slack[free[b]];
        const double* slope = slopes_ + free[b] * size_;
        team_.each(size_, [&](std::size_t i) { solved[i] = slope[i]; });
        derived().solve(solved);
        for (std::size_t a = 0; a < n; ++a) hessian[a * n + b] = team_.dot(slopes_ + free[a] * size_, solved, size_);
      }
      solve_semidefinite(n, hessian, step);
      const double before = value_;
      bool moved = false;
      // Towards the boundary of what is positive definite steps are cut short, one after the other by as much.
      double length = 4.0 * last_length < 1.0 ? 4.0 * last_length : 1.0;
      for (int halving = 0; halving < 60 && !moved; ++halving, length *= 0.5) {
        last_length = length;
        for (std::size_t s = 0; s < n_; ++s) next[s] = lam[s];
        double gain = 0.0;  // what the dual's tangent promises
        for (std::size_t a = 0; a < n; ++a) {
          const std::size_t s = free[a];
          const double wanted = lam[s] + length * step[a];
          next[s] = 0.0 < wanted ? wanted : 0.0;
          gain += (next[s] - lam[s]) * slack[s];
        }
        moved = evaluate(next) && value_ > before + 1e-4 * gain;
      }
      if (!moved) {  // the boundary of what is positive definite, or rounding
        evaluate(lam);
        break;
      }
      for (std::size_t s = 0; s < n_; ++s) lam[s] = next[s];
      if (value_ - before <= 1e-13 * std::abs(value_)) break;
    }
    team_.release(mark);
  }

  // Computes  the largest (value - rho) / Lam over lam = Lam alpha for fixed shares alpha (n) of sum 1: no displacement with
  //           |delta|^2 / 2 <= rho leaves less of sum_s alpha_s f_s, theory.md (33).
  MFA_HD_APART void maximize_share(const double* alpha, double rho) {
    const auto mark = team_.mark();
    double* lam = team_.template take<double>(n_);
    const auto set = [&](double total) {
      team_.each(n_, [&](std::size_t s) { lam[s] = total * alpha[s]; });
    };
    // What is left is largest where |delta|^2 / 2 = rho, and near there it hardly changes. 1 / |delta| is nearly linear in
    // 1 / Lam, so that a secant in these finds it.
    const double wanted = std::sqrt(2.0 * rho);
    constexpr double close = 1e-4;
    constexpr double far = 1e15;
    double low = 0.0, high = far, total = 1.0, best = 0.0, best_value = 0.0;
    double last = 0.0, last_length = 0.0;
    for (int iteration = 0; iteration < 40 && high - low > close * high && total < far; ++iteration) {
      set(total);
      if (!evaluate_value(lam)) {
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
    if (best > 0.0) {
      set(best);
      evaluate(lam);
    }
    team_.release(mark);
  }

  // The point delta of the last evaluation. In the hard case, where some f_s is positive although the dual is at its
  // largest, moved along the eigenvector of the vanishing eigenvalue to where the largest f_s is zero.
  MFA_HD_APART void point(double* local) {
    team_.each(size_, [&](std::size_t i) { local[i] = delta_[i]; });
    std::size_t worst = 0;
    for (std::size_t s = 0; s < n_; ++s)
      if (slack_[s] > slack_[worst]) worst = s;
    const double c = slack_[worst];
    if (!(c > 1e-10 * scale())) return;
    const auto mark = team_.mark();
    double* v = team_.template take<double>(size_);
    double* h = team_.template take<double>(size_);
    move_along_eigenvector(worst, c, v, h, local);
    team_.release(mark);
  }

  // Moves a point to a local solution with every f_s = 0, by delta <- J^T (J J^T)^-1 (J delta - f) with J_s the gradient of f_s
  // there; false where that does not converge. For where the dual falls short. n <= most_against.
  MFA_HD_APART bool settle(double* local) {
    const auto mark = team_.mark();
    double* j = team_.template take<double>(n_ * size_);
    double m[most_against * most_against], b[most_against];
    bool settled = false;
    for (int iteration = 0; iteration < 50 && !settled; ++iteration) {
      double largest = 0.0;
      for (std::size_t s = 0; s < n_; ++s) {
        const double f = slopes(s, local, j + s * size_);
        largest = std::abs(f) > largest ? std::abs(f) : largest;
        b[s] = team_.dot(j + s * size_, local, size_) - f;
      }
      products_of(j, n_, m);
      solve_semidefinite(n_, m, b);
      const auto next = [&](std::size_t i) {
        double value = 0.0;
        for (std::size_t s = 0; s < n_; ++s) value += b[s] * j[s * size_ + i];
        return value;
      };
      const double moved = team_.sum(size_, 0.0, [&](std::size_t i) {
        const double change = next(i) - local[i];
        return change * change;
      });
      const double square = team_.sum(size_, 0.0, [&](std::size_t i) {
        const double value = next(i);
        return value * value;
      });
      team_.each(size_, [&](std::size_t i) { local[i] = next(i); });
      if (!std::isfinite(square)) break;
      settled = largest <= 1e-10 * scale() && moved <= 1e-16 * square;
    }
    team_.release(mark);
    return settled;
  }

  // The shortest direction along which every f_s with lam_s > 0 (all where there is none) falls as along its own normal.
  // n <= most_against.
  MFA_HD_APART void inward(const double* local, double* direction) {
    std::size_t active[most_against];
    std::size_t n = 0;
    for (std::size_t s = 0; s < n_; ++s)
      if (lam_[s] > 0.0) active[n++] = s;
    if (n == 0)
      while (n < n_) {
        active[n] = n;
        ++n;
      }
    const auto mark = team_.mark();
    double* j = team_.template take<double>(n * size_);
    double m[most_against * most_against], b[most_against];
    for (std::size_t a = 0; a < n; ++a) slopes(active[a], local, j + a * size_);
    products_of(j, n, m);
    for (std::size_t a = 0; a < n; ++a) b[a] = std::sqrt(m[a * n + a]);
    solve_semidefinite(n, m, b);
    team_.each(size_, [&](std::size_t i) {
      double sum = 0.0;
      for (std::size_t a = 0; a < n; ++a) sum -= b[a] * j[a * size_ + i];
      direction[i] = sum;
    });
    team_.release(mark);
  }

  // Doubles that a problem takes, and what its methods do beside it.
  MFA_HD static std::size_t scratch(std::size_t n, std::size_t size) {
    return (2 * n + 2) * size + 6 * n + (n > 2 ? n : 2) * size + n;
  }

 protected:
  MFA_HD void begin(std::size_t n, std::size_t size) {
    n_ = n;
    size_ = size;
    f_ = team_.template take<double>(n);
    roundings_ = team_.template take<double>(n);
    gradient_roundings_ = team_.template take<double>(n);
    bend_roundings_ = team_.template take<double>(n);
    lam_ = team_.template take<double>(n);
    slack_ = team_.template take<double>(n);
    gradients_ = team_.template take<double>(n * size);
    slopes_ = team_.template take<double>(n * size);
    delta_ = team_.template take<double>(size);
    right_ = team_.template take<double>(size);
    say_nothing();
    length_rounding_ = left_out_ = left_of_gradients_ = 0.0;
  }

  Team& team_;
  std::size_t n_ = 0, size_ = 0;
  double* f_ = nullptr;          // (n)
  double* gradients_ = nullptr;  // (n, size): g_s
  // What f_s, g_s and H_s may be off by (n): a number, the length of a vector, the norm of a matrix.
  double* roundings_ = nullptr;
  double* gradient_roundings_ = nullptr;
  double* bend_roundings_ = nullptr;
  // And the square of a displacement, relative.
  double length_rounding_ = 0.0;
  // Of the coordinates, all but so much is left out: squared, what H_s couples the others with, and what g_s has there.
  double left_out_ = 0.0, left_of_gradients_ = 0.0;

 private:
  MFA_HD Derived& derived() { return static_cast<Derived&>(*this); }

  MFA_HD bool evaluate_value(const double* lam) {
    if (!derived().factorize(lam)) return false;
    team_.each(n_, [&](std::size_t s) { lam_[s] = lam[s]; });
    sum_ = 0.0;
    double constant = 0.0;
    for (std::size_t s = 0; s < n_; ++s) {
      sum_ += lam[s];
      constant += lam[s] * f_[s];
    }
    team_.each(size_, [&](std::size_t i) { delta_[i] = 0.0; });
    team_.add_rows(delta_, size_, n_, [&](std::size_t s) { return -lam[s]; },
                   [&](std::size_t s) { return gradients_ + s * size_; });
    team_.each(size_, [&](std::size_t i) { right_[i] = delta_[i]; });
    derived().solve(delta_);
    square_ = team_.dot(delta_, delta_, size_);
    double exact = constant - 0.5 * team_.dot(right_, delta_, size_);
    // Where V_+ and V_- all but cancel, delta solves its equation less well than rounding alone says. What it leaves of that is
    // looked at: at delta the function is less by half of its product with delta, and at its least by no more than its square.
    double* bent = slopes_;
    team_.each(size_, [&](std::size_t i) { right_[i] -= delta_[i]; });
    for (std::size_t s = 0; s < n_; ++s) {
      const double factor = lam[s];
      if (!(factor > 0.0)) continue;
      derived().apply(s, delta_, bent);
      team_.each(size_, [&](std::size_t i) { right_[i] -= factor * bent[i]; });
    }
    exact -= 0.5 * team_.dot(right_, delta_, size_);
    const double unsolved = team_.dot(right_, right_, size_);
    // By what all that may be off, |delta|^2 / 2 + sum lam_s f_s changes no more than linearly in the length of a displacement,
    // and by a square that has to leave the least eigenvalue positive: theory.md (36a).
    const double pivot = derived().least_pivot();
    double rounding = 0.0, slope = 0.0, bend = length_rounding_ + sum_ * sum_ * left_out_ / pivot;
    for (std::size_t s = 0; s < n_; ++s) {
      rounding += lam[s] * roundings_[s];
      slope += lam[s] * gradient_roundings_[s];
      bend += lam[s] * bend_roundings_[s];
    }
    const double least = pivot - 2.0 * bend;
    value_ = exact - rounding - slope * std::sqrt(square_) - bend * square_ -
             (slope * slope + unsolved) / least - sum_ * sum_ * left_of_gradients_ / pivot -
             (1e-14 + 16.0 * derived().unit()) * (std::abs(exact) + square_ / (least < 1.0 ? least : 1.0));
    if (least > 0.0 && std::isfinite(value_)) return true;
    say_nothing();
    return false;
  }

  // As where nothing is moved: a distance of 0 is a bound whatever rounding does.
  MFA_HD void say_nothing() {
    team_.each(n_, [&](std::size_t s) { lam_[s] = slack_[s] = 0.0; });
    team_.each(size_, [&](std::size_t i) { delta_[i] = 0.0; });
    team_.each(n_ * size_, [&](std::size_t i) { slopes_[i] = 0.0; });
    value_ = square_ = sum_ = 0.0;
  }

  // The largest |f_s|.
  MFA_HD double scale() const {
    double largest = 0.0;
    for (std::size_t s = 0; s < n_; ++s) largest = std::abs(f_[s]) > largest ? std::abs(f_[s]) : largest;
    return largest;
  }

  // out = grad f_s; returns f_s.
  MFA_HD double slopes(std::size_t s, const double* local, double* out) {
    derived().apply(s, local, out);
    const double* g = gradients_ + s * size_;
    const double value =
        team_.sum(size_, f_[s], [&](std::size_t i) { return (g[i] + 0.5 * out[i]) * local[i]; });
    team_.each(size_, [&](std::size_t i) { out[i] += g[i]; });
    return value;
  }

  MFA_HD void products_of(const double* j, std::size_t n, double* m) const {
    for (std::size_t a = 0; a < n; ++a)
      for (std::size_t b = 0; b < n; ++b) m[a * n + b] = team_.dot(j + a * size_, j + b * size_, size_);
  }

  MFA_HD void move_along_eigenvector(std::size_t worst, double c, double* v, double* h, double* local) {
    // The eigenvector by inverse iteration: the matrix is all but singular.
    team_.each(size_, [&](std::size_t i) {
      v[i] = 1.0 + 0.5 * static_cast<double>(i % 7) - static_cast<double>(i % 3);
    });
    for (int pass = 0; pass < 5; ++pass) {
      derived().solve(v);
      const double norm = std::sqrt(team_.dot(v, v, size_));
      if (!(norm > 0.0) || !std::isfinite(norm)) return;
      team_.each(size_, [&](std::size_t i) { v[i] /= norm; });
    }
    derived().apply(worst, v, h);
    const double a = 0.5 * team_.dot(h, v, size_);
    const double b = team_.dot(slopes_ + worst * size_, v, size_);
    const double root = b * b - 4.0 * a * c;
    if (!(a < 0.0) || !(root >= 0.0)) return;
    // Of the two roots the one that leads to the shorter point.
    const double q = -0.5 * (b + (b < 0.0 ? -std::sqrt(root) : std::sqrt(root)));
    const double along = team_.dot(delta_, v, size_);
    double best = q / a;
    if (const double other = q != 0.0 ? c / q : best; other * (other + 2.0 * along) < best * (best + 2.0 * along))
      best = other;
    team_.each(size_, [&](std::size_t i) { local[i] += best * v[i]; });
  }

  double* lam_ = nullptr;     // (n)
  double* slack_ = nullptr;   // (n): f_s at delta
  double* slopes_ = nullptr;  // (n, size)
  double* delta_ = nullptr;   // (size)
  double* right_ = nullptr;   // (size): -sum_s lam_s g_s, and what delta leaves of it
  double value_ = 0.0, square_ = 0.0, sum_ = 0.0;
};

}  // namespace MFA_ISA
}  // namespace mfa::core
