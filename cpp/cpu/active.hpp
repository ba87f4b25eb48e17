// The rows of a block that an attack is still working on.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <optional>
#include <vector>

#include "core/quadric.hpp"
#include "cpu/isa.hpp"
#include "cpu/panel.hpp"
#include "cpu/rows.hpp"

namespace mfa::cpu {

struct StepOptions {
  std::size_t steps = 3;
  double overshoot = 1e-6;
  std::optional<double> clip_low, clip_high;
  double least = 0.0;  // core::with_overshoot
};

// What every attack returns, of n samples.
template <class T>
struct AttackOutput {
  T* x_adv;               // (n, d)
  double* l2;             // (n)
  bool* success;          // (n)
  std::int64_t* n_steps;  // (n)
};

// The sum of f(0) to f(n - 1), in eight sums that do not wait for each other.
template <class F>
double sum_in_lanes(std::size_t n, const F& f) {
  constexpr std::size_t lanes = 8;
  double sums[lanes] = {};
  std::size_t i = 0;
  for (; i + lanes <= n; i += lanes)
    for (std::size_t l = 0; l < lanes; ++l) sums[l] += f(i + l);
  for (; i < n; ++i) sums[0] += f(i);
  return ((sums[0] + sums[4]) + (sums[2] + sums[6])) + ((sums[1] + sums[5]) + (sums[3] + sums[7]));
}

// Keeps them in a line, in the caller's type, so that what is scored is what will be returned: a row that is finished
// is written out and the last one takes its place.
template <class T>
class ActiveRows {
 public:
  ActiveRows(const Loops& loops, const Rows& source, const StepOptions& options, const AttackOutput<T>& out,
             std::size_t max_rows)
      : loops_(typed<T>(loops)),
        source_(source),
        options_(options),
        out_(out),
        data_(max_rows * source.n_features),
        buffer_(source.n_features) {}

  void load(std::size_t first, std::size_t count) {
    const std::size_t d = source_.n_features;
    index_.resize(count);
    for (std::size_t i = 0; i < count; ++i) {
      index_[i] = first + i;
      std::copy_n(read_row(source_, first + i, 0, d, buffer_.data()), d, row(i));
      out_.n_steps[first + i] = 0;
    }
  }

  bool empty() const { return index_.empty(); }
  std::size_t size() const { return index_.size(); }
  std::size_t index(std::size_t i) const { return index_[i]; }  // where it stands among all samples
  T* row(std::size_t i) { return data_.data() + i * source_.n_features; }
  double length(std::size_t i) { return std::sqrt(loops_.squared_distance(row(i), nullptr, source_.n_features)); }

  Rows view() const { return rows_in_line(data_.data(), index_.size(), source_.n_features); }

  // x <- clip(x - a g), and beyond that point by the overshoot; `norm` is |g|. Returns the a that was taken.
  double step(std::size_t i, double a, const double* gradient, double norm) {
    const std::size_t d = source_.n_features;
    T* x = row(i);
    const double way = core::with_overshoot(std::abs(a) * norm, options_.overshoot, length(i),
                                            std::numeric_limits<T>::epsilon(), options_.least);
    const double factor = way / norm;
    constexpr double infinity = std::numeric_limits<double>::infinity();
    loops_.step(x, gradient, factor, options_.clip_low.value_or(-infinity), options_.clip_high.value_or(infinity), d);
    ++out_.n_steps[index_[i]];
    return factor;
  }

  // To be called from the last row to the first, or the row that takes the place would be passed over.
  void finish(std::size_t i, bool success) {
    const std::size_t d = source_.n_features;
    const std::size_t at = index_[i];
    T* x = row(i);
    std::copy_n(x, d, out_.x_adv + at * d);
    const T* original = read_row(source_, at, 0, d, buffer_.data());
    out_.l2[at] = std::sqrt(loops_.squared_distance(x, original, d));
    out_.success[at] = success;
    const std::size_t last = index_.size() - 1;
    if (i != last) std::copy_n(row(last), d, x);
    index_[i] = index_[last];
    index_.pop_back();
  }

 private:
  const TypedLoops<T>& loops_;
  const Rows& source_;
  const StepOptions& options_;
  const AttackOutput<T>& out_;
  AlignedBuffer<T> data_;           // (rows, d)
  std::vector<std::size_t> index_;
  std::vector<T> buffer_;           // (d)
};

}  // namespace mfa::cpu
