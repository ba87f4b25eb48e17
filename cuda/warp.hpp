// A team that is a warp: core/team.hpp on a device.
#pragma once

#include <cmath>
#include <cstddef>
#include <cstdlib>
#include <limits>

#include "core/nearest_dual.hpp"
#include "core/reduce.hpp"
#include "device.hpp"

namespace mfa::cuda {

// Its arrays lie in memory that is its own. Whatever is shared out begins and ends with a barrier, so that lanes that run
// apart meet no array half written; the formulas' functions compile for the host as well, where this does nothing.
class Warp {
 public:
  static constexpr bool alone = false;
  // A problem's size is bounded, as its memory is.
  static constexpr std::size_t most_shares = core::most_against;
  using Mark = std::size_t;

  MFA_HD Warp(double* memory, std::size_t size) : memory_(memory), size_(size) {}

  MFA_HD static unsigned lane() {
#if defined(__CUDA_ARCH__) || defined(MFA_CUDA_EMULATION)
    return threadIdx.x % warp_size;
#else
    return 0;
#endif
  }

  template <class F>
  MFA_HD void each(std::size_t n, const F& f) const {
    wait();
    for (std::size_t i = lane(); i < n; i += warp_size) f(i);
    wait();
  }
  template <class F>
  MFA_HD void each(std::size_t rows, std::size_t columns, const F& f) const {
    wait();
    const auto c = static_cast<unsigned>(columns);
    if (c > 0) {
      const unsigned down = warp_size / c;
      const unsigned along = warp_size % c;
      std::size_t i = lane() / c;
      unsigned j = lane() % c;
      while (i < rows) {
        f(i, static_cast<std::size_t>(j));
        i += down;
        j += along;
        if (j >= c) {
          j -= c;
          ++i;
        }
      }
    }
    wait();
  }
  template <class F>
  MFA_HD void once(const F& f) const {
    wait();
    if (lane() == 0) f();
    wait();
  }
  template <class F>
  MFA_HD double sum(std::size_t n, double start, const F& f) const {
    double sum = 0.0;
    for (std::size_t i = lane(); i < n; i += warp_size) sum += f(i);
    for (int mask = 16; mask > 0; mask /= 2) sum += across(sum, mask);
    return start + sum;
  }
  MFA_HD double dot(const double* a, const double* b, std::size_t n) const {
    return sum(n, 0.0, [&](std::size_t i) { return a[i] * b[i]; });
  }
  template <class F>
  MFA_HD core::ArgMax best(std::size_t n, const F& f) const {
    constexpr std::size_t none = static_cast<std::size_t>(-1);
    core::ArgMax best;
    for (std::size_t i = lane(); i < n; i += warp_size) best.add(f(i), i);
    std::size_t index = best.empty ? none : best.index;
    for (int mask = 16; mask > 0; mask /= 2) {
      const double value = across(best.max, mask);
      const std::size_t at = across(index, mask);
      if (at != none) best.add(value, at);
      index = best.empty ? none : best.index;
    }
    // Of what cannot be compared different lanes might keep different numbers.
    index = first(index);
    return {first(best.max), index == none ? 0 : index, index == none};
  }
  template <class F>
  MFA_HD double log_sum(std::size_t n, const F& f) const {
    const double most = best(n, f).max;
    if (most == -std::numeric_limits<double>::infinity()) return most;
    return most + std::log(sum(n, 0.0, [&](std::size_t i) { return std::exp(f(i) - most); }));
  }
  template <class Chosen>
  MFA_HD std::size_t list(std::size_t n, const Chosen& chosen, std::size_t most, std::size_t* out) const {
    wait();
    std::size_t count = 0;
    for (std::size_t start = 0; start < n && count < most; start += warp_size) {
      const std::size_t i = start + lane();
      const bool is_chosen = i < n && chosen(i);
      const unsigned bits = who(is_chosen);
      const std::size_t place = count + number(bits & ((1u << lane()) - 1u));
      if (is_chosen && place < most) out[place] = i;
      count += number(bits);
    }
    wait();
    return count < most ? count : most;
  }
  template <class Factor, class Row>
  MFA_HD void add_rows(double* out, std::size_t n, std::size_t count, const Factor& factor, const Row& row) const {
    each(n, [&](std::size_t i) {
      double value = out[i];
      for (std::size_t r = 0; r < count; ++r) value += factor(r) * row(r)[i];
      out[i] = value;
    });
  }

  template <class T>
  MFA_HD T* take(std::size_t n) {
    static_assert(sizeof(T) % sizeof(double) == 0);
    T* part = reinterpret_cast<T*>(memory_ + used_);
    used_ += n * (sizeof(T) / sizeof(double));
#if defined(MFA_CUDA_EMULATION)
    if (used_ > size_) std::abort();  // it was counted wrongly
#endif
    return part;
  }
  MFA_HD void may_end() const {}
  MFA_HD Mark mark() const { return used_; }
  MFA_HD void release(Mark mark) { used_ = mark; }

  // What the first lane has.
  template <class T>
  MFA_HD static T first(T value) {
#if defined(__CUDA_ARCH__) || defined(MFA_CUDA_EMULATION)
    return __shfl_sync(all_lanes, value, 0);
#else
    return value;
#endif
  }

 private:
  MFA_HD static void wait() {
#if defined(__CUDA_ARCH__) || defined(MFA_CUDA_EMULATION)
    __syncwarp();
#endif
  }
  template <class T>
  MFA_HD static T across(T value, [[maybe_unused]] int mask) {
#if defined(__CUDA_ARCH__) || defined(MFA_CUDA_EMULATION)
    return __shfl_xor_sync(all_lanes, value, mask);
#else
    return value;
#endif
  }
  MFA_HD static unsigned who(bool is_one) {
#if defined(__CUDA_ARCH__) || defined(MFA_CUDA_EMULATION)
    return __ballot_sync(all_lanes, is_one);
#else
    return is_one ? 1u : 0u;
#endif
  }
  MFA_HD static unsigned number(unsigned bits) {
#if defined(__CUDA_ARCH__) || defined(MFA_CUDA_EMULATION)
    return static_cast<unsigned>(__popc(static_cast<int>(bits)));
#else
    return bits;
#endif
  }

  double* memory_;
  [[maybe_unused]] std::size_t size_;
  std::size_t used_ = 0;
};

}  // namespace mfa::cuda
