#include "cpu/svm.hpp"

#include <algorithm>
#include <cmath>
#include <limits>
#include <vector>

#include "core/bracket.hpp"
#include "core/gaussian.hpp"
#include "core/kernel_machine.hpp"
#include "cpu/panel.hpp"
#include "cpu/parallel.hpp"

namespace mfa::cpu {
namespace {

// A zero decision is for the first class, as LinearSVC's is. attacks/svm.py lifts an SVC's above it: its is for the second.
bool holds(double decision, std::int64_t label) { return label == 1 ? decision > 0.0 : decision <= 0.0; }

// The decision with the sign of the sample's own class.
double lead(double decision, std::int64_t label) { return label == 1 ? decision : -decision; }

// Two programs sum the same terms in different orders. Of a decision that is smaller than so many roundings of all its
// terms, theory.md (18a) and (19a), the model's own predict may see another sign. attacks/_decisions.py counts as many.
constexpr double rounding_margin = 64.0 * std::numeric_limits<double>::epsilon();

template <class T>
class LinearAttack {
 public:
  LinearAttack(const LinearMachine& machine, const Loops& loops, const Scaling& scaling, const Rows& rows,
               const StepOptions& options, const AttackOutput<T>& out, std::size_t max_rows)
      : machine_(machine),
        scaling_(scaling),
        steps_(options.steps),
        active_(loops, rows, options, out, max_rows),
        d_(rows.n_features),
        gradient_(d_),
        ascent_(d_) {
    intercept_ = machine.intercept;
    for (std::size_t j = 0; j < d_; ++j) {
      gradient_[j] = machine.weights[j] * scaling.scale[j];
      intercept_ -= gradient_[j] * scaling.shift[j];
    }
    norm_ = std::sqrt(core::squared_norm(d_, gradient_.data()));
  }

  BadRow attack(std::size_t first, std::size_t count, const std::int64_t* labels) {
    active_.load(first, count);
    for (std::size_t step = 0; !active_.empty(); ++step) {
      check_interruption();
      for (std::size_t i = active_.size(); i-- > 0;) {
        const std::size_t at = active_.index(i);
        const T* x = active_.row(i);
        const double decision =
            intercept_ + sum_in_lanes(d_, [&](std::size_t j) { return gradient_[j] * static_cast<double>(x[j]); });
        const double doubt = this->doubt(x, active_.length(i));
        if (!std::isfinite(decision) || !std::isfinite(doubt)) return at;
        const bool flipped = !holds(decision, labels[at]);
        if ((flipped && std::abs(decision) >= doubt) || step == steps_ || norm_ == 0.0) {
          active_.finish(i, flipped);
          continue;
        }
        const double sign = lead(1.0, labels[at]);
        std::transform(gradient_.begin(), gradient_.end(), ascent_.begin(), [&](double g) { return sign * g; });
        active_.step(i, (lead(decision, labels[at]) + 2.0 * doubt) / (norm_ * norm_), ascent_.data(), norm_);
      }
    }
    return {};
  }

 private:
  // What rounding may change the decision by, in this sum and in the machine's own; no number where the sample's length is none.
  double doubt(const T* x, double length) const {
    const double squares = sum_in_lanes(d_, [&](std::size_t j) {
      const double scaled = machine_.reach * (static_cast<double>(x[j]) - scaling_.shift[j]) * scaling_.scale[j];
      return scaled * scaled;
    });
    return rounding_margin * (std::abs(machine_.intercept) + norm_ * length + std::sqrt(squares));
  }

  LinearMachine machine_;
  Scaling scaling_;
  std::size_t steps_;
  ActiveRows<T> active_;
  std::size_t d_;
  std::vector<double> gradient_, ascent_;  // (d), in the caller's coordinates
  double intercept_, norm_;
};

// The support vectors about their mean, as the right-hand sides of both matrix products.
struct SupportVectors {
  SupportVectors(const RbfMachine& rbf, const Loops& of_machine, std::size_t n_features)
      : machine(rbf),
        loops(of_machine),
        d(n_features),
        center(d, 0.0),
        norms(machine.n_vectors),
        by_vector(loops.f64, d, machine.n_vectors),
        by_feature(loops.f64, machine.n_vectors, d) {
    const std::size_t n = machine.n_vectors;
    for (std::size_t i = 0; i < n; ++i)
      for (std::size_t j = 0; j < d; ++j) center[j] += machine.support_vectors[i * d + j] / static_cast<double>(n);
    std::vector<double> vectors(machine.support_vectors, machine.support_vectors + n * d);
    for (std::size_t i = 0; i < n; ++i) {
      double* vector = vectors.data() + i * d;
      for (std::size_t j = 0; j < d; ++j) vector[j] -= center[j];
      norms[i] = core::squared_norm(d, vector);
      by_vector.set_column(i, vector);
    }
    for (std::size_t j = 0; j < d; ++j) by_feature.set_column(j, vectors.data() + j, d);
  }

  const RbfMachine& machine;
  const Loops& loops;
  std::size_t d;
  std::vector<double> center;  // (d)
  std::vector<double> norms;   // (n_vectors)
  Panel<double> by_vector;     // (d, n_vectors)
  Panel<double> by_feature;    // (n_vectors, d)
};

template <class T>
class RbfAttack {
 public:
  RbfAttack(const SupportVectors& vectors, const Scaling& scaling, const Rows& rows, const StepOptions& options,
            const AttackOutput<T>& out, std::size_t max_rows)
      : vectors_(vectors),
        machine_(vectors.machine),
        scaling_(scaling),
        steps_(options.steps),
        active_(vectors.loops, rows, options, out, max_rows),
        points_(max_rows * vectors.d),
        gradients_(max_rows * vectors.d),
        point_norms_(max_rows),
        distances_(max_rows * vectors.by_vector.columns()),
        weights_(max_rows * vectors.machine.n_vectors),
        sums_(max_rows * vectors.by_feature.columns()),
        slopes_(max_rows * vectors.by_vector.columns()),
        decisions_(max_rows),
        doubts_(max_rows) {}

  BadRow attack(std::size_t first, std::size_t count, const std::int64_t* labels) {
    active_.load(first, count);
    for (std::size_t step = 0;; ++step) {
      if (const BadRow bad = decide()) return bad;
      for (std::size_t i = active_.size(); i-- > 0;) {
        const bool flipped = !holds(decisions_[i], labels[active_.index(i)]);
        if ((flipped && std::abs(decisions_[i]) >= doubts_[i]) || step == steps_) finish(i, flipped);
      }
      if (active_.empty()) return {};
      differentiate(labels);
      for (std::size_t i = active_.size(); i-- > 0;) {
        check_interruption();
        take_step(i, labels[active_.index(i)]);
      }
    }
  }

 private:
  // Decisions of the active rows and what rounding may change them by, the kernel weights a_i exp(-gamma |x - s_i|^2)
  // and the squared distances.
  BadRow decide() {
    const std::size_t d = vectors_.d;
    const std::size_t n = machine_.n_vectors;
    const std::size_t columns = vectors_.by_vector.columns();
    for (std::size_t i = 0; i < active_.size(); ++i) {
      const T* x = active_.row(i);
      double* point = points_.data() + i * d;
      for (std::size_t j = 0; j < d; ++j)
        point[j] = (static_cast<double>(x[j]) - scaling_.shift[j]) * scaling_.scale[j] - vectors_.center[j];
      point_norms_[i] = core::squared_norm(d, point);
      if (!std::isfinite(point_norms_[i]) || !std::isfinite(active_.length(i))) return active_.index(i);
    }
    vectors_.by_vector.multiply(points_.data(), active_.size(), distances_.data());
    for (std::size_t i = 0; i < active_.size(); ++i) {
      double* distances = distances_.data() + i * columns;
      double* weights = weights_.data() + i * n;
      decisions_[i] = 0.0;
      double sizes = std::abs(machine_.intercept);
      for (std::size_t v = 0; v < n; ++v) {
        distances[v] = core::squared_distance(point_norms_[i], vectors_.norms[v], distances[v]);
        weights[v] = machine_.coefficients[v] * std::exp(-machine_.gamma * distances[v]);
        decisions_[i] += weights[v];
        // The exponent is a sum as well, and its rounding is relative to the weight.
        sizes += std::abs(weights[v]) * (1.0 + machine_.gamma * (point_norms_[i] + vectors_.norms[v]));
      }
      decisions_[i] += machine_.intercept;  // last, as libsvm: it may be less than the rounding of the rest
      doubts_[i] = rounding_margin * sizes;
    }
    return {};
  }

  // Unit gradients of the lead, and their products with the support vectors, for the active rows.
  void differentiate(const std::int64_t* labels) {
    const std::size_t d = vectors_.d;
    const std::size_t n = machine_.n_vectors;
    vectors_.by_feature.multiply(weights_.data(), active_.size(), sums_.data());
    directions_.resize(active_.size() * d);
    gradient_norms_.resize(active_.size());
    for (std::size_t i = 0; i < active_.size(); ++i) {
      const double* point = points_.data() + i * d;
      const double* sums = sums_.data() + i * vectors_.by_feature.columns();
      double* gradient = gradients_.data() + i * d;
      double weight = 0.0;
      for (std::size_t v = 0; v < n; ++v) weight += weights_[i * n + v];
      const double factor = lead(-2.0 * machine_.gamma, labels[active_.index(i)]);
      for (std::size_t j = 0; j < d; ++j) gradient[j] = factor * scaling_.scale[j] * (weight * point[j] - sums[j]);
      const double norm = std::sqrt(core::squared_norm(d, gradient));
      gradient_norms_[i] = norm;
      for (std::size_t j = 0; j < d; ++j) {
        if (norm > 0.0) gradient[j] /= norm;
        directions_[i * d + j] = gradient[j] * scaling_.scale[j];
      }
    }
    vectors_.by_vector.multiply(directions_.data(), active_.size(), slopes_.data());
  }

  void take_step(std::size_t i, std::int64_t label) {
    const std::size_t d = vectors_.d;
    const std::size_t n = machine_.n_vectors;
    // Where the decision function is flat, no step leads anywhere: the sample is out of this attack's reach.
    if (gradient_norms_[i] == 0.0) return finish(i, !holds(decisions_[i], label));
    // The overshoot, a fraction of the step, may be less than the doubt where the last step is short.
    const double beyond = 2.0 * doubts_[i];
    const double own = lead(decisions_[i], label) + beyond;

    const double* point = points_.data() + i * d;
    const double* direction = directions_.data() + i * d;
    double* slopes = slopes_.data() + i * vectors_.by_vector.columns();
    double along = 0.0;
    for (std::size_t j = 0; j < d; ++j) along += direction[j] * point[j];
    for (std::size_t v = 0; v < n; ++v) slopes[v] = along - slopes[v];
    const double norm2 = core::squared_norm(d, direction);
    double length = std::min(own / gradient_norms_[i], core::rbf_longest_step(machine_.gamma, std::sqrt(norm2)));
    const auto lead_at = [&](double t) {
      return lead(core::rbf_decision_along(n, machine_.coefficients, machine_.gamma, machine_.intercept,
                                           distances_.data() + i * vectors_.by_vector.columns(), slopes, norm2, t),
                  label) +
             beyond;
    };
    const double reached = lead_at(length);
    if (reached <= 0.0) length = core::bracketed_root(0.0, own, length, reached, lead_at);
    active_.step(i, length, gradients_.data() + i * d, 1.0);
  }

  // The row that takes the place brings what was computed for it along.
  void finish(std::size_t i, bool success) {
    const std::size_t last = active_.size() - 1;
    const auto move = [&](std::vector<double>& values, std::size_t width) {
      if (i != last && !values.empty())
        std::copy_n(values.begin() + static_cast<std::ptrdiff_t>(last * width), width,
                    values.begin() + static_cast<std::ptrdiff_t>(i * width));
    };
    move(points_, vectors_.d);
    move(distances_, vectors_.by_vector.columns());
    move(weights_, machine_.n_vectors);
    move(decisions_, 1);
    move(doubts_, 1);
    active_.finish(i, success);
  }

  const SupportVectors& vectors_;
  const RbfMachine& machine_;
  const Scaling& scaling_;
  std::size_t steps_;
  ActiveRows<T> active_;
  std::vector<double> points_, gradients_, directions_;  // (rows, d): centred; unit, in the caller's coordinates; scaled
  std::vector<double> point_norms_, gradient_norms_;     // (rows)
  std::vector<double> distances_, weights_, sums_, slopes_, decisions_, doubts_;
};

}  // namespace

template <class T>
BadRow ld_grad(const LinearMachine& machine, const Loops& loops, const Scaling& scaling, const Rows& rows,
               const std::int64_t* labels, const StepOptions& options, const AttackOutput<T>& out,
               std::size_t n_threads) {
  return for_each_block(rows.n_rows, n_threads, [&](std::size_t height) {
    return [&, attack = LinearAttack<T>(machine, loops, scaling, rows, options, out, height)](
               std::size_t first, std::size_t count) mutable { return attack.attack(first, count, labels); };
  });
}

template <class T>
BadRow ld_grad(const RbfMachine& machine, const Loops& loops, const Scaling& scaling, const Rows& rows,
               const std::int64_t* labels, const StepOptions& options, const AttackOutput<T>& out,
               std::size_t n_threads) {
  const SupportVectors vectors(machine, loops, rows.n_features);
  return for_each_block(rows.n_rows, n_threads, [&](std::size_t height) {
    return [&, attack = RbfAttack<T>(vectors, scaling, rows, options, out, height)](
               std::size_t first, std::size_t count) mutable { return attack.attack(first, count, labels); };
  });
}

template BadRow ld_grad(const LinearMachine&, const Loops&, const Scaling&, const Rows&, const std::int64_t*,
                        const StepOptions&, const AttackOutput<float>&, std::size_t);
template BadRow ld_grad(const LinearMachine&, const Loops&, const Scaling&, const Rows&, const std::int64_t*,
                        const StepOptions&, const AttackOutput<double>&, std::size_t);
template BadRow ld_grad(const RbfMachine&, const Loops&, const Scaling&, const Rows&, const std::int64_t*,
                        const StepOptions&, const AttackOutput<float>&, std::size_t);
template BadRow ld_grad(const RbfMachine&, const Loops&, const Scaling&, const Rows&, const std::int64_t*,
                        const StepOptions&, const AttackOutput<double>&, std::size_t);

}  // namespace mfa::cpu
