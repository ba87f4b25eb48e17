// Some of a row's features, for a first look at it: pieces of the row, at equal distances.
#pragma once

#include <algorithm>
#include <cstddef>
#include <vector>

namespace mfa {

struct Excerpt {
  // Features of a piece, as many as are read well, and one piece of so many.
  static constexpr std::size_t piece = 64;
  static constexpr std::size_t every = 8;

  std::size_t n_features;  // of the row

  // Calls visit(begin, count, at) for every piece, which begins with the row's feature `begin` and the excerpt's `at`.
  template <class Visit>
  void for_each_piece(const Visit& visit) const {
    std::size_t at = 0;
    for (std::size_t begin = 0; begin < n_features; begin += piece * every) {
      const std::size_t count = std::min(piece, n_features - begin);
      visit(begin, count, at);
      at += count;
    }
  }
  // Features in it.
  std::size_t size() const {
    std::size_t size = 0;
    for_each_piece([&](std::size_t, std::size_t count, std::size_t) { size += count; });
    return size;
  }
  // Of rows (n, n_features), (n, size).
  std::vector<double> take(const double* rows, std::size_t n) const {
    const std::size_t length = size();
    std::vector<double> taken(n * length);
    for (std::size_t i = 0; i < n; ++i)
      for_each_piece([&](std::size_t begin, std::size_t count, std::size_t at) {
        std::copy_n(rows + i * n_features + begin, count, taken.data() + i * length + at);
      });
    return taken;
  }
};

}  // namespace mfa
