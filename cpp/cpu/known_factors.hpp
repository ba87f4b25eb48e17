// What has been found out about the factors of a block's entries, those that were evaluated one by one.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <vector>

namespace mfa::cpu {

class KnownFactors {
 public:
  // The posterior mean z; or v = C^T z, from a difference form in double, or in the samples' type where that is less.
  enum class Form { z, v, rough_v };
  struct Found {
    Form form;
    const double* factors;  // (L)
  };

  KnownFactors(std::size_t max_rows, std::size_t n_factors) : n_(n_factors), last_(max_rows, -1) {}

  // Nothing is known of any entry of the first `count` rows.
  void clear(std::size_t count) {
    slots_.clear();
    std::fill_n(last_.begin(), count, -1);
  }

  // Whether entry (i, k) has been evaluated.
  bool has(std::size_t i, std::size_t k) const { return find_slot(i, k) >= 0; }
  std::optional<Found> find(std::size_t i, std::size_t k) const {
    const std::int32_t slot = find_slot(i, k);
    if (slot < 0) return {};
    return Found{slot_of(slot).form, factors_.data() + static_cast<std::size_t>(slot) * n_};
  }

  // Calls visit(k) for the entries of row i, the latest first.
  template <class Visit>
  void for_each_of(std::size_t i, const Visit& visit) const {
    for (std::int32_t slot = last_[i]; slot >= 0; slot = slot_of(slot).before) visit(slot_of(slot).component);
  }

  // Where the factors (L) of an entry are to be written, in this form; valid until the next call.
  double* put(std::size_t i, std::size_t k, Form form) {
    std::int32_t slot = find_slot(i, k);
    if (slot < 0) {
      slot = static_cast<std::int32_t>(slots_.size());
      slots_.push_back({k, last_[i], form});
      last_[i] = slot;
      if (factors_.size() < slots_.size() * n_ + 1) factors_.resize(2 * slots_.size() * n_ + 1);
    }
    slots_[static_cast<std::size_t>(slot)].form = form;
    return factors_.data() + static_cast<std::size_t>(slot) * n_;
  }

 private:
  // One entry; those of a row are chained.
  struct Slot {
    std::size_t component;
    std::int32_t before;  // or -1
    Form form;
  };

  const Slot& slot_of(std::int32_t slot) const { return slots_[static_cast<std::size_t>(slot)]; }
  std::int32_t find_slot(std::size_t i, std::size_t k) const {
    std::int32_t slot = last_[i];
    while (slot >= 0 && slot_of(slot).component != k) slot = slot_of(slot).before;
    return slot;
  }

  std::size_t n_;                   // L
  std::vector<Slot> slots_;
  std::vector<std::int32_t> last_;  // (rows): the row's latest slot, or -1
  std::vector<double> factors_;     // (slots, L), with room for more
};

}  // namespace mfa::cpu
