// Entries of a block that are wanted one by one.
#pragma once

#include <algorithm>
#include <cstddef>
#include <span>
#include <vector>

namespace mfa::cpu {

struct Entry {
  std::size_t row, component;
  double allowed;  // how far off its value may be
};

// A list of them. They are taken component after component, so that a component is read once for several rows.
class EntryList {
 public:
  explicit EntryList(std::size_t n_components) : starts_(n_components + 1) {}

  bool empty() const { return entries_.empty(); }
  std::size_t size() const { return entries_.size(); }
  // In the order in which they were added.
  const std::vector<Entry>& entries() const { return entries_; }

  void add(const Entry& entry) { entries_.push_back(entry); }
  // All but the first n are wanted no more.
  void cut(std::size_t n) { entries_.resize(n); }
  void clear() { entries_.clear(); }

  // Removes the entries of rows that have more than one and more than `many`, and returns these rows. Those of a row must have
  // been added one after the other.
  std::vector<std::size_t> take_rows_of_many(std::size_t many) {
    std::vector<std::size_t> rows;
    auto kept = entries_.begin();
    for (auto begin = entries_.begin(), end = begin; begin != entries_.end(); begin = end) {
      const std::size_t i = begin->row;
      end = std::find_if(begin, entries_.end(), [&](const Entry& entry) { return entry.row != i; });
      const auto count = static_cast<std::size_t>(end - begin);
      if (count > 1 && count > many) rows.push_back(i);
      else kept = std::copy(begin, end, kept);
    }
    entries_.erase(kept, entries_.end());
    return rows;
  }

  // Calls visit(k, some) for the entries of component k, at most so many at a time, in the order in which they were added; the
  // list is empty then.
  template <class Visit>
  void take_by_component(std::size_t most, const Visit& visit) {
    if (entries_.empty()) return;
    sort();
    for (std::size_t k = 0; k + 1 < starts_.size(); ++k)
      for (std::size_t at = starts_[k]; at < starts_[k + 1]; at += most)
        visit(k, std::span<const Entry>(sorted_).subspan(at, std::min(most, starts_[k + 1] - at)));
    entries_.clear();
  }

 private:
  void sort() {
    std::fill(starts_.begin(), starts_.end(), 0);
    for (const Entry& entry : entries_) ++starts_[entry.component + 1];
    for (std::size_t k = 0; k + 1 < starts_.size(); ++k) starts_[k + 1] += starts_[k];
    sorted_.resize(entries_.size());
    next_.assign(starts_.begin(), starts_.end() - 1);
    for (const Entry& entry : entries_) sorted_[next_[entry.component]++] = entry;
  }

  std::vector<Entry> entries_, sorted_;  // sorted by component
  std::vector<std::size_t> starts_;      // (K + 1): where a component's begin there
  std::vector<std::size_t> next_;        // (K): where its next one goes
};

}  // namespace mfa::cpu
