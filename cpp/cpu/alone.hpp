// A team of one thread: core/team.hpp on the CPU. A sample may take it seconds: memory is marked in every step of a search, and
// there it looks whether the call is to end.
#pragma once

#include <algorithm>
#include <cstddef>
#include <memory>
#include <vector>

#include "core/gaussian.hpp"
#include "core/reduce.hpp"
#include "cpu/parallel.hpp"

namespace mfa::cpu {

class Alone {
 public:
  static constexpr bool alone = true;
  // Components of a class that a bound of the sum rule may take account of.
  static constexpr std::size_t most_shares = static_cast<std::size_t>(-1);

  template <class F>
  void each(std::size_t n, const F& f) const {
    for (std::size_t i = 0; i < n; ++i) f(i);
  }
  template <class F>
  void each(std::size_t rows, std::size_t columns, const F& f) const {
    for (std::size_t i = 0; i < rows; ++i)
      for (std::size_t j = 0; j < columns; ++j) f(i, j);
  }
  template <class F>
  void once(const F& f) const {
    f();
  }
  template <class F>
  double sum(std::size_t n, double start, const F& f) const {
    for (std::size_t i = 0; i < n; ++i) start += f(i);
    return start;
  }
  double dot(const double* a, const double* b, std::size_t n) const { return core::dot(a, b, n); }
  template <class F>
  core::ArgMax best(std::size_t n, const F& f) const {
    core::ArgMax best;
    for (std::size_t i = 0; i < n; ++i) best.add(f(i), i);
    return best;
  }
  template <class F>
  double log_sum(std::size_t n, const F& f) const {
    core::LogSumExp sum;
    for (std::size_t i = 0; i < n; ++i) sum.add(f(i));
    return sum.value();
  }
  template <class Chosen>
  std::size_t list(std::size_t n, const Chosen& chosen, std::size_t most, std::size_t* out) const {
    std::size_t count = 0;
    for (std::size_t i = 0; i < n && count < most; ++i)
      if (chosen(i)) out[count++] = i;
    return count;
  }
  template <class Factor, class Row>
  void add_rows(double* out, std::size_t n, std::size_t count, const Factor& factor, const Row& row) const {
    std::size_t r = 0;
    for (; r + 4 <= count; r += 4) {  // so that `out` is written once
      const double f[] = {factor(r), factor(r + 1), factor(r + 2), factor(r + 3)};
      const double *a = row(r), *b = row(r + 1), *c = row(r + 2), *d = row(r + 3);
      for (std::size_t i = 0; i < n; ++i) out[i] = out[i] + f[0] * a[i] + f[1] * b[i] + f[2] * c[i] + f[3] * d[i];
    }
    for (; r < count; ++r) {
      const double f = factor(r);
      const double* from = row(r);
      for (std::size_t i = 0; i < n; ++i) out[i] += f * from[i];
    }
  }

  struct Mark {
    std::size_t chunk, used;
  };
  template <class T>
  T* take(std::size_t n) {
    static_assert(sizeof(T) % sizeof(double) == 0);
    n *= sizeof(T) / sizeof(double);
    while (at_.chunk < chunks_.size() && chunks_[at_.chunk].size - at_.used < n) at_ = {at_.chunk + 1, 0};
    if (at_.chunk == chunks_.size()) {
      const std::size_t size = std::max<std::size_t>(n, least_chunk);
      chunks_.push_back({size, std::unique_ptr<double[]>(new double[size])});
    }
    double* part = chunks_[at_.chunk].memory.get() + at_.used;
    at_.used += n;
    return reinterpret_cast<T*>(part);
  }
  void may_end() const { check_interruption(); }
  Mark mark() const {
    may_end();
    return at_;
  }
  void release(Mark mark) { at_ = mark; }

 private:
  static constexpr std::size_t least_chunk = 1 << 13;
  struct Chunk {
    std::size_t size;
    std::unique_ptr<double[]> memory;
  };
  std::vector<Chunk> chunks_;
  Mark at_{0, 0};
};

}  // namespace mfa::cpu
