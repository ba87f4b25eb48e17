#include "cpu/nearest.hpp"

#include <algorithm>
#include <cmath>
#include <limits>
#include <memory>
#include <utility>
#include <vector>

#include "core/nearest_search.hpp"
#include "core/reduce.hpp"
#include "cpu/alone.hpp"
#include "cpu/pair_frame.hpp"
#include "diagonal.hpp"

namespace mfa::cpu {
namespace {

constexpr double infinity = std::numeric_limits<double>::infinity();

// What is the same for all rows: a frame's source and log-priors, by component and by class.
template <class Source>
struct Problem {
  const Source& source;
  std::vector<double> component_priors;
  std::size_t most_in_class;
};

// Looks at one row after the other, in inner products if its frame does.
void load(PairFrame& frame, const double* x, const double* product) {
  frame.source().gather(product, x, frame.products());
  frame.load(x);
}
void load(core::DiagonalFrame<Alone>& frame, const double* x, const double*) { frame.load(x); }

template <class T, class Frame>
class Nearest {
  // A point that has been found and is still to be seen on the other side.
  struct Pending {
    std::size_t at;  // among all samples
    std::size_t own;  // row of deltas_ and inwards_
    std::size_t source, target;
    double beyond;   // how far it is moved beyond the surface
  };
  static constexpr double epsilon = std::numeric_limits<T>::epsilon();

 public:
  template <class Source>
  Nearest(const Model& model, const Problem<Source>& problem, const Panel<double>* panel, const Rows& rows,
          Groups groups, const double* log_priors, const NearestOptions& options, const AttackOutput<T>& out,
          const PairOutput& pairs, const CertificateOutput& certificates, std::size_t max_rows)
      : model_(model),
        rows_(rows),
        groups_(groups),
        log_priors_(log_priors),
        options_(options),
        out_(out),
        pairs_(pairs),
        certificates_(certificates),
        panel_(panel),
        frame_(team_, problem.source, problem.component_priors.data()),
        search_(frame_, {groups.data(), groups.size() - 1}, problem.most_in_class, options.rule == Rule::sum),
        scorer_(model, max_rows, options.screening),
        d_(model.n_features()),
        centered_(max_rows * d_),
        product_(panel_ == nullptr ? 0 : max_rows * panel_->columns()),
        deltas_(max_rows * d_),
        inwards_(max_rows * d_),
        norms_(max_rows),
        moved_(max_rows * d_),
        buffer_(d_),
        typed_buffer_(d_) {}

  BadRow attack(std::size_t first, std::size_t count, const std::int64_t* labels) {
    for (std::size_t i = 0; i < count; ++i) {
      const double* x = read_row(rows_, first + i, 0, d_, buffer_.data());
      double square = 0.0, size = 0.0;
      for (std::size_t j = 0; j < d_; ++j) {
        const double value = x[j] - model_.center<double>()[j];
        centered_.data()[i * d_ + j] = value;
        square += value * value;
        size += x[j] * x[j];
      }
      if (!std::isfinite(square)) return first + i;
      norms_[i] = std::sqrt(size);
    }
    if (panel_ != nullptr) panel_->multiply(centered_.data(), count, product_.data());
    for (std::size_t i = 0; i < count; ++i) find(first + i, i, static_cast<std::size_t>(labels[first + i]));
    look(labels, core::most_attempts);
    for (std::size_t i = 0; i < count; ++i) certify(first + i, i);
    for (std::size_t i = 0; i < count; ++i) explore(first + i, i, static_cast<std::size_t>(labels[first + i]));
    look(labels, core::most_explored_attempts);
    for (std::size_t i = 0; i < count; ++i) certify(first + i, i);
    return {};
  }

 private:
  void find(std::size_t at, std::size_t i, std::size_t label) {
    certificates_.lower_bound[at] = 0.0;
    if (out_.success[at] && out_.n_steps[at] == 0) return;  // in another class as it is
    if (!out_.success[at]) out_.l2[at] = infinity;
    load_row(i);
    search_.run(label, out_.l2[at]);
    certificates_.lower_bound[at] = search_.lower_bound();
    out_.n_steps[at] = static_cast<std::int64_t>(std::max<std::size_t>(1, search_.n_problems()));
    propose(at, i);
  }

  void explore(std::size_t at, std::size_t i, std::size_t label) {
    const double bound = certificates_.lower_bound[at];
    if (!core::is_worth_exploring(certificates_.certified[at], out_.l2[at], bound)) return;
    load_row(i);
    search_.explore(label, out_.l2[at], bound);
    propose(at, i);
  }

  void load_row(std::size_t i) {
    load(frame_, centered_.data() + i * d_, panel_ == nullptr ? nullptr : product_.data() + i * panel_->columns());
  }

  // The point that the search has found, if it has, is to be looked at.
  void propose(std::size_t at, std::size_t i) {
    if (!search_.has_point()) return;
    frame_.to_features(search_.delta(), deltas_.data() + i * d_);
    frame_.to_features(search_.inward(), inwards_.data() + i * d_);
    const double length = std::sqrt(model_.loops().f64.squared_distance(deltas_.data() + i * d_, nullptr, d_));
    pending_.push_back({at, i, search_.source(), search_.target(), core::first_beyond(length, norms_[i], epsilon)});
  }

  // Looks at the pending points until all of them are in another class, or given up.
  void look(const std::int64_t* labels, int attempts) {
    for (int attempt = 0; attempt < attempts; ++attempt) look_once(labels);
    pending_.clear();
  }

  // Scores the pending points as they would be returned; what is in another class is, the others go on.
  void look_once(const std::int64_t* labels) {
    const auto score = [&]() -> BadRow {
      if (pending_.empty()) return {};
      for (std::size_t p = 0; p < pending_.size(); ++p) move(pending_[p], moved_.data() + p * d_);
      scorer_.load(rows_in_line(moved_.data(), pending_.size(), d_), 0, pending_.size());
      return scorer_.score_groups(groups_, score_tolerance<double>);
    };
    // A surface that is so far away that the scores there are out of range is as good as none.
    while (const BadRow bad = score()) pending_.erase(pending_.begin() + static_cast<std::ptrdiff_t>(*bad));
    std::size_t left = 0;
    for (std::size_t p = 0; p < pending_.size(); ++p) {
      Pending one = pending_[p];
      if (predicted(p) != static_cast<std::size_t>(labels[one.at])) {
        take(one, moved_.data() + p * d_);
        continue;
      }
      one.beyond *= core::farther_beyond;
      pending_[left++] = one;
    }
    pending_.resize(left);
  }

  void move(const Pending& one, T* x_adv) {
    const double* x = read_row(rows_, one.at, 0, d_, buffer_.data());
    const double* delta = deltas_.data() + one.own * d_;
    const double* inward = inwards_.data() + one.own * d_;
    for (std::size_t j = 0; j < d_; ++j) x_adv[j] = static_cast<T>(x[j] + (delta[j] + one.beyond * inward[j]));
  }

  // The class of row i, as predict gives it.
  std::size_t predicted(std::size_t i) {
    const bool sums = options_.rule == Rule::sum;
    const std::span<const std::size_t> scored = scorer_.scored(i);
    core::ArgMax best_class;
    for (std::size_t g = 0; g + 1 < groups_.size(); ++g) {
      const auto [best, sum] = reduce_group(scorer_.values(i), scored, extent_of(groups_, g), sums);
      best_class.add(log_priors_[g] + (sums ? sum.value() : best.max), g);
    }
    return best_class.index;
  }

  void take(const Pending& one, const T* x_adv) {
    const T* x = read_row(rows_, one.at, 0, d_, typed_buffer_.data());
    const double l2 = std::sqrt(typed<T>(model_.loops()).squared_distance(x_adv, x, d_));
    if (!(l2 < out_.l2[one.at])) return;
    std::copy_n(x_adv, d_, out_.x_adv + one.at * d_);
    out_.l2[one.at] = l2;
    out_.success[one.at] = true;
    const auto within = [&](std::size_t k) {
      const auto component = static_cast<std::int64_t>(k);
      return component - *(std::upper_bound(groups_.begin(), groups_.end(), component) - 1);
    };
    pairs_.source[one.at] = within(one.source);
    pairs_.target[one.at] = within(one.target);
  }

  void certify(std::size_t at, std::size_t i) {
    double& bound = certificates_.lower_bound[at];
    bound = std::min(bound, out_.l2[at]);
    certificates_.certified[at] = out_.success[at]
                                      ? core::is_certified(out_.l2[at], bound, options_.rtol, norms_[i], epsilon)
                                      : bound == infinity;
  }

  const Model& model_;
  const Rows& rows_;
  Groups groups_;
  const double* log_priors_;
  const NearestOptions& options_;
  const AttackOutput<T>& out_;
  const PairOutput& pairs_;
  const CertificateOutput& certificates_;
  const Panel<double>* panel_;
  Alone team_;
  Frame frame_;
  core::NearestSearch<Frame> search_;
  BlockScorer<T> scorer_;
  std::size_t d_;
  AlignedBuffer<double> centered_, product_;  // (rows, d), (rows, columns)
  std::vector<double> deltas_, inwards_;      // (rows, d)
  std::vector<double> norms_;                 // (rows): |x|
  std::vector<T> moved_;                      // (rows, d)
  std::vector<double> buffer_;
  std::vector<T> typed_buffer_;
  std::vector<Pending> pending_;
};

template <class T, class Frame, class Source>
BadRow search_rows(const Model& model, const Source& source, const Panel<double>* panel, std::size_t height,
                   const Rows& rows, Groups groups, const double* log_priors, const std::int64_t* labels,
                   const NearestOptions& options, const AttackOutput<T>& out, const PairOutput& pairs,
                   const CertificateOutput& certificates, std::size_t n_threads) {
  Problem<Source> problem{source, std::vector<double>(model.n_components()), 0};
  for (std::size_t g = 0; g + 1 < groups.size(); ++g) {
    problem.most_in_class = std::max(problem.most_in_class, static_cast<std::size_t>(groups[g + 1] - groups[g]));
    for (std::int64_t k = groups[g]; k < groups[g + 1]; ++k)
      problem.component_priors[static_cast<std::size_t>(k)] = log_priors[g];
  }
  height = std::min(height, rows.n_rows);
  return for_each_block_of(height, rows.n_rows, n_threads, [&] {
    auto search = std::make_unique<Nearest<T, Frame>>(model, problem, panel, rows, groups, log_priors, options, out,
                                                      pairs, certificates, height);
    return [&, search = std::move(search)](std::size_t first, std::size_t count) {
      return search->attack(first, count, labels);
    };
  });
}

}  // namespace

template <class T>
BadRow nearest(const Model& model, const Gram* gram, const Rows& rows, Groups groups, const double* log_priors,
               const std::int64_t* labels, const NearestOptions& options, const AttackOutput<T>& out,
               const PairOutput& pairs, const CertificateOutput& certificates, std::size_t n_threads) {
  if (rows.n_rows == 0) return {};
  // Few enough rows at once that Ctrl-C is noticed in time: a row takes some hundred microseconds, or some hundred
  // milliseconds.
  if (gram != nullptr)
    return search_rows<T, PairFrame>(model, *gram, &model.panels<double>().columns, 24, rows, groups, log_priors, labels,
                                     options, out, pairs, certificates, n_threads);
  const Diagonal parts(model);
  return search_rows<T, core::DiagonalFrame<Alone>>(model, parts.view(), nullptr, 1, rows, groups, log_priors, labels,
                                                    options, out, pairs, certificates, n_threads);
}

template BadRow nearest(const Model&, const Gram*, const Rows&, Groups, const double*, const std::int64_t*,
                        const NearestOptions&, const AttackOutput<float>&, const PairOutput&, const CertificateOutput&,
                        std::size_t);
template BadRow nearest(const Model&, const Gram*, const Rows&, Groups, const double*, const std::int64_t*,
                        const NearestOptions&, const AttackOutput<double>&, const PairOutput&, const CertificateOutput&,
                        std::size_t);

}  // namespace mfa::cpu
