// One block of rows scored under every component: the matrix product, and the residual form for what the product
// cannot resolve. Scoring, EM and the attacks are made of it.
#pragma once

#include <algorithm>
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <vector>

#include "core/gaussian.hpp"
#include "cpu/parallel.hpp"
#include "cpu/rows.hpp"
#include "model.hpp"

namespace mfa::cpu {

// How far, in nats, a component may lie below the best of its group before it is left out: what a million of them
// would add is below the rounding of the sum.
inline constexpr double negligible_nats = 40.0;

// What a caller gets is right to this, relative to its size.
template <class T>
inline constexpr double score_tolerance = sizeof(T) == sizeof(float) ? 1e-5 : 1e-10;

// Components [offsets[g], offsets[g + 1]) make up group g: the mixture of one class.
using Groups = std::span<const std::int64_t>;

// Rows of a block: enough to keep a tile of the panel busy, few enough that every thread gets several blocks. Rows do
// not influence each other, so the choice shows in nothing but time.
std::size_t block_rows(std::size_t n_rows, std::size_t n_threads);

template <class T>
class BlockScorer {
 public:
  BlockScorer(const Model& model, std::size_t max_rows);

  // Computes  the difference form of rows [first, first + count), and bounds on its errors. False if a row has an
  //           entry, or a squared norm, that is not finite; `bad_row` says which.
  bool load(const Rows& rows, std::size_t first, std::size_t count);
  std::size_t bad_row() const { return bad_row_; }

  // Computes again, in residual form, every entry whose bound is above tolerance * |value|.
  void refine_all(double tolerance);
  // The same, only for entries that matter to the best component and the log-sum-exp of a group, to the tolerance of
  // that sum; where the bounds leave open which component is the best, they are all computed again.
  void refine_groups(Groups groups, double tolerance);

  // log w_k + log N(x_i; mu_k, S_k), after refinement.
  const double* values(std::size_t i) const { return values_.data() + i * model_.n_components(); }
  // The posterior mean of the factors of row i (of the block) under component k.
  void factors(std::size_t i, std::size_t k, double* z) const;

 private:
  void flag(std::size_t i, std::size_t k) { flagged_.push_back({i, k}); }
  void refine_flagged();
  void refine_tile(std::size_t k, const std::size_t* members, std::size_t count);
  void factors_of_product(std::size_t i, std::size_t k, double* z) const;

  struct Entry {
    std::size_t row, component;
  };

  const Model& model_;
  const TypedLoops<T>& loops_;
  const ScorePanels<T>& panels_;
  std::size_t bad_row_ = 0;
  Rows rows_;
  std::size_t first_ = 0;
  std::size_t count_ = 0;

  AlignedBuffer<T> centered_, squares_, product_, square_product_;
  std::vector<double> norms_;             // (rows)
  std::vector<double> values_, errors_;   // (rows, K)
  std::vector<double> read_buffers_;      // (row_tile, d)
  std::vector<Entry> flagged_;            // in the order of the rows, then grouped by component
  std::vector<std::size_t> order_;        // flagged entries sorted by component
  std::vector<std::size_t> starts_;       // (K + 1)
  std::vector<std::int32_t> refined_;     // (rows, K): where an entry's factors stand, or -1
  std::vector<double> refined_factors_;   // (refined entries, L)
  std::vector<double> gradient_;          // (row_tile, L)
};

// A row with an entry, or a squared norm, that is not finite. Functions that take samples return one, if there is any;
// their outputs are then incomplete.
using BadRow = std::optional<std::size_t>;

// Calls worker(first, count), which returns a BadRow, for every block of rows; each thread has a worker of its own from
// make_worker(rows it must be able to take at once).
template <class MakeWorker>
BadRow for_each_block(std::size_t n_rows, const Execution& execution, const MakeWorker& make_worker) {
  const std::size_t height = std::min(block_rows(n_rows, execution.n_threads), n_rows);
  if (n_rows == 0) return {};
  constexpr std::size_t none = static_cast<std::size_t>(-1);
  std::atomic<std::size_t> bad_row{none};
  parallel_for((n_rows + height - 1) / height, execution, [&] {
    return [&, worker = make_worker(height)](std::size_t block) mutable {
      const std::size_t first = block * height;
      if (const BadRow bad = worker(first, std::min(height, n_rows - first))) bad_row = *bad;
    };
  });
  return bad_row == none ? BadRow{} : BadRow{bad_row};
}

// Calls visit(scorer, first, count) for every block of rows, which the scorer has loaded.
template <class T, class Visit>
BadRow score_blocks(const Model& model, const Rows& rows, const Execution& execution, const Visit& visit) {
  return for_each_block(rows.n_rows, execution, [&](std::size_t height) {
    return [&, scorer = BlockScorer<T>(model, height)](std::size_t first, std::size_t count) mutable -> BadRow {
      if (!scorer.load(rows, first, count)) return scorer.bad_row();
      visit(scorer, first, count);
      return {};
    };
  });
}

}  // namespace mfa::cpu
