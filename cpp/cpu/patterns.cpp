#include "cpu/patterns.hpp"

#include <algorithm>
#include <unordered_map>
#include <vector>

namespace mfa::cpu {
namespace {

constexpr std::size_t rows_per_task = 256;
constexpr std::size_t word_bits = 64;

using Mask = std::span<const std::uint64_t>;

struct MaskHash {
  std::size_t operator()(Mask mask) const {
    std::uint64_t hash = 0xcbf29ce484222325u;
    for (const std::uint64_t word : mask) {
      hash = (hash ^ word) * 0x9E3779B97F4A7C15u;
      hash ^= hash >> 32;
    }
    return static_cast<std::size_t>(hash);
  }
};

struct MaskEqual {
  bool operator()(Mask a, Mask b) const { return std::equal(a.begin(), a.end(), b.begin(), b.end()); }
};

}  // namespace

void find_patterns(const Rows& rows, std::int64_t* out, std::size_t n_threads) {
  const std::size_t d = rows.n_features;
  const std::size_t words = (d + word_bits - 1) / word_bits;
  std::vector<std::uint64_t> masks(rows.n_rows * words);
  parallel_for((rows.n_rows + rows_per_task - 1) / rows_per_task, n_threads, [&] {
    return [&, buffer = std::vector<double>(d)](std::size_t task) mutable {
      const std::size_t end = std::min(rows.n_rows, (task + 1) * rows_per_task);
      for (std::size_t i = task * rows_per_task; i < end; ++i) {
        const double* x = read_row(rows, i, 0, d, buffer.data());
        for (std::size_t j = 0; j < d; ++j)
          masks[i * words + j / word_bits] |= std::uint64_t{x[j] != x[j]} << j % word_bits;
      }
    };
  });

  const std::vector<std::uint64_t> complete(words);
  std::vector<std::uint64_t> empty(words);
  for (std::size_t j = 0; j < d; ++j) empty[j / word_bits] |= std::uint64_t{1} << j % word_bits;
  std::unordered_map<Mask, std::int64_t, MaskHash, MaskEqual> known{{Mask(empty), -1}, {Mask(complete), 0}};
  for (std::size_t i = 0; i < rows.n_rows; ++i) {
    if (i % rows_per_task == 0) check_interruption();
    const auto next = static_cast<std::int64_t>(known.size()) - 1;
    out[i] = known.emplace(Mask(masks.data() + i * words, words), next).first->second;
  }
}

}  // namespace mfa::cpu
