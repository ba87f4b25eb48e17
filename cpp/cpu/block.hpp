// One block of rows scored under the components: by one matrix product, or by bounds from a subspace and an evaluation of
// what they leave standing; and in residual form what either cannot resolve. Scoring, EM and the attacks are made of it.
#pragma once

#include <algorithm>
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <type_traits>
#include <vector>

#include "core/rule.hpp"
#include "core/views.hpp"
#include "cpu/entries.hpp"
#include "cpu/groups.hpp"
#include "cpu/known_factors.hpp"
#include "cpu/parallel.hpp"
#include "cpu/refine.hpp"
#include "cpu/row_bounds.hpp"
#include "cpu/rows.hpp"
#include "glance.hpp"
#include "model.hpp"
#include "subspace.hpp"

namespace mfa::cpu {

using core::score_tolerance;

// Rows of a block: enough that every component is met by several of them, few enough that every thread gets several
// blocks. Rows do not influence each other, so the choice shows in nothing but time.
inline constexpr std::size_t most_block_rows = 480;
std::size_t block_rows(std::size_t n_rows, std::size_t n_threads);
// The same of rows that are screened. Every block reads the components that it evaluates anew: where its rows do not stay
// in a cache either, it has as many of them as leave every thread a block, up to twice as many as other blocks.
std::size_t screened_rows(std::size_t n_rows, std::size_t row_bytes, std::size_t n_threads);

using mfa::Rule;

// A row with an entry, or a squared norm, that is not finite. Functions that take samples return one, if there is any;
// their outputs are then incomplete.
using BadRow = std::optional<std::size_t>;

template <class T>
class BlockScorer {
 public:
  using RowList = std::span<const std::size_t>;

  // With `screening`, groups are scored below the cost of a full matrix product where the model allows it.
  BlockScorer(const Model& model, std::size_t max_rows, bool screening);

  // The rows that are scored next: [first, first + count).
  void load(const Rows& rows, std::size_t first, std::size_t count);

  // Computes  every component's log-density, to tolerance * |value|: in difference form, and again in double where
  //           the difference form's error bound is above that.
  BadRow score_all(double tolerance);
  // Computes  those that matter to the best component and the log-sum-exp of a group, to the tolerance of that sum; the
  //           others are given as -inf or in difference form. Where the bounds leave open which component is the best,
  //           all that may be are computed in residual form.
  BadRow score_groups(Groups groups, double tolerance);

  // Computes  in `winners` the group of the highest log_priors[g] + score of rows in which bounds tell it; -1 for the others,
  //           which are scored as by score_groups.
  BadRow score_rivals(Groups groups, const double* log_priors, Rule rule, double tolerance, std::int64_t* winners);

  // The same for rows that are known by their coordinates in the subspace, see `place`: they are not multiplied with it
  // again. Every row that has been loaded must have been placed.
  BadRow score_placed_groups(Groups groups, double tolerance);

  // The same to another tolerance, for some rows of the block after that.
  void sharpen(RowList rows, Groups groups, double tolerance);

  // Components of row i that have been scored, in ascending order; valid until the next call.
  std::span<const std::size_t> scored(std::size_t i);
  // log w_k + log N(x_i; mu_k, S_k) of row i of the block.
  const double* values(std::size_t i) const { return values_.data() + i * model_.n_components(); }
  // Bounds on how far off these are.
  const double* errors(std::size_t i) const { return errors_.data() + i * model_.n_components(); }
  // The posterior mean of the factors of row i under component k, which has been scored.
  void factors(std::size_t i, std::size_t k, double* z) const;

  using Place = typename RowBounds<T>::Place;
  // Null where scoring does without.
  const Subspace* subspace() const { return subspace_; }
  void read_place(std::size_t i, Place& out) const;
  void place(std::size_t i, const Place& at);

 private:
  template <class>
  friend class BlockScorer;

  // A group of a row in which components that have not been evaluated may matter.
  struct Contest {
    std::size_t row, group;
  };
  using Form = KnownFactors::Form;

  // Rows go through matrix products in tiles that stay in the second-level cache.
  std::size_t center(RowList rows);                 // returns how many are finite
  double center_row(std::size_t i, std::size_t r);  // row i, as the tile's row r; returns |x|^2
  void center_excerpts(RowList rows);               // of the features that a glance looks at
  template <class Visit>
  BadRow for_each_tile(RowList rows, const Visit& visit);  // visit(some, where they begin), centred
  RowList all_rows() const { return {all_rows_.data(), count_}; }

  double norms(std::size_t i, std::size_t k) const;
  // Both turn rows into values and error bounds.
  void multiply(RowList rows, std::size_t out_row);  // centred ones
  void multiply_some();                              // rows in dense_rows_
  void log_densities(std::size_t i, const T* product, const T* square_product);

  // Coordinates of these rows begin at the place `at`.
  void screen(Groups groups, double tolerance, RowList rows, std::size_t at);
  void flag_candidate(std::size_t i, std::size_t k, double tolerance);
  void begin_screening();
  // Scores the rows whose component a part of them tells, and returns the others.
  RowList glance_at_rows(double tolerance);
  void find_candidates(Groups groups, const double* log_priors, RowList rows, std::size_t at, std::int64_t* winners);
  bool has_rivals(Groups groups, const double* log_priors, Rule rule, std::size_t i, std::size_t winner);
  // From the candidates on that are flagged; what matters to the sums of `exact` rows is brought to the tolerance.
  void score_survivors(RowList rows, RowList exact, Groups groups, double tolerance);
  double find_floor(std::size_t i, Extent group);
  std::span<const std::size_t> survivors(std::size_t i, Extent group, double floor);
  void find_challengers(RowList rows, Groups groups);
  void find_survivors(Groups groups);
  void evaluate();  // flagged entries
  void evaluate_some(std::size_t k, std::span<const Entry> some);

  void flag(std::size_t i, std::size_t k, double allowed) { flagged_.add({i, k, allowed}); }
  void flag_inexact(std::size_t i, std::size_t k, double tolerance);
  void flag_what_matters(RowList rows, Groups groups, double tolerance);
  void flag_in_group(std::size_t i, std::span<const std::size_t> components, Extent group, double tolerance);
  // More components of a row than are taken one by one: a matrix product has them sooner.
  std::size_t too_many() const { return model_.n_components() / 2; }
  // Rows in float of which a matrix product has left so many open: score(scorer) is to score them in double.
  template <class Score>
  void score_in_double(const Score& score);
  // Where that is more than three quarters of a model's own samples all rows are scored so at once.
  bool is_for_double() const;
  BadRow score_groups_in_double(Groups groups, double tolerance);
  BlockScorer<double>& wider();
  void take_from_wider(std::size_t i, std::size_t r);  // what is known there of its row r
  void refine();  // flagged entries, in double
  void refine_some(std::size_t k, std::span<const Entry> some);
  template <class A>
  void difference_rows(std::size_t k, RowList rows);
  void residual_rows(std::size_t k, RowList rows);
  template <class A>
  std::vector<A>& products_in() {
    if constexpr (std::is_same_v<A, float>) return products_f32_;
    else return products_f64_;
  }

  const Model& model_;
  const TypedLoops<T>& loops_;
  double unit_, double_unit_;  // of rounding: of products in T, and of what is computed again in double
  const Subspace* subspace_;
  const Glance* glance_;
  Rows rows_;
  std::size_t first_ = 0;
  std::size_t count_ = 0;
  std::size_t tile_;  // rows

  // The values of a row are those of the block in double, if wider_row_ says so; else of a product, if product_row_ does; else
  // some have been evaluated one by one. Of any of them that was computed again known_ tells.
  AlignedBuffer<T> centered_, squares_;           // (tile, d)
  AlignedBuffer<T> product_, square_product_;     // (rows), of rows that were multiplied; made when first wanted
  std::vector<double> norms_;                     // (rows) |x|^2; estimates, for error bounds, where a glance was enough
  std::vector<double> values_, errors_;           // (rows, K)
  std::vector<std::int32_t> product_row_;         // (rows): its row of product_, or -1
  std::vector<std::size_t> all_rows_, all_components_;  // 0, 1, ...

  RowBounds<T> bounds_;                  // where rows are screened
  std::vector<Contest> contested_;
  std::vector<std::size_t> candidates_;  // (rows, groups), where rivals are looked for
  std::vector<std::size_t> open_rows_, dense_rows_;

  bool is_trial_ = false;                       // it has the samples that is_for_double scores, and does not ask it
  std::unique_ptr<BlockScorer<double>> wider_;  // of rows in float that are scored in double; made when first wanted
  AlignedBuffer<float> wider_rows_;             // (rows, d), copies of these
  std::vector<std::int32_t> wider_row_;         // (rows): a row's place there, or -1

  EntryList flagged_;                       // what is to be evaluated, or refined, next
  KnownFactors known_;                      // of entries that were evaluated
  std::vector<std::size_t> scored_;         // components of the row at hand that have been scored
  std::vector<T> read_buffers_;             // (refined_rows, d)
  std::vector<float> products_f32_;         // (refined_rows, L + 1)
  std::vector<double> products_f64_;
  std::vector<double> factors_, gradient_;  // (refined_rows, L)
  std::vector<double> scratch_;
};

// parallel_for with a worker that returns a BadRow: the first of them, whichever was found first.
template <class MakeWorker>
BadRow for_each_task(std::size_t n_tasks, std::size_t n_threads, const MakeWorker& make_worker) {
  constexpr std::size_t none = static_cast<std::size_t>(-1);
  std::atomic<std::size_t> bad_row{none};
  parallel_for(n_tasks, n_threads, [&] {
    return [&, worker = make_worker()](std::size_t task) mutable {
      const BadRow bad = worker(task);
      if (!bad) return;
      std::size_t first = bad_row;
      while (*bad < first && !bad_row.compare_exchange_weak(first, *bad)) {
      }
    };
  });
  return bad_row == none ? BadRow{} : BadRow{bad_row};
}

// Calls worker(first, count), which returns a BadRow, for every so many rows; each thread has a worker of its own.
template <class MakeWorker>
BadRow for_each_block_of(std::size_t height, std::size_t n_rows, std::size_t n_threads, const MakeWorker& make_worker) {
  return for_each_task((n_rows + height - 1) / height, n_threads, [&] {
    return [&, worker = make_worker()](std::size_t block) mutable {
      const std::size_t first = block * height;
      return worker(first, std::min(height, n_rows - first));
    };
  });
}
// The same with as many rows as suit, or all there are; make_worker is told.
template <class MakeWorker>
BadRow for_each_block(std::size_t suited, std::size_t n_rows, std::size_t n_threads, const MakeWorker& make_worker) {
  if (n_rows == 0) return {};
  const std::size_t height = std::min(suited, n_rows);
  return for_each_block_of(height, n_rows, n_threads, [&] { return make_worker(height); });
}
template <class MakeWorker>
BadRow for_each_block(std::size_t n_rows, std::size_t n_threads, const MakeWorker& make_worker) {
  return for_each_block(block_rows(n_rows, n_threads), n_rows, n_threads, make_worker);
}

// Calls visit(scorer, first, count), which returns a BadRow, for every block of rows, which the scorer has loaded.
template <class T, class Visit>
BadRow score_blocks(const Model& model, const Rows& rows, bool screening, std::size_t n_threads,
                    const Visit& visit) {
  const bool screened = screening && rows.n_rows > 0 && model.subspace(Processor::cpu) != nullptr;
  const std::size_t suited = screened ? screened_rows(rows.n_rows, rows.n_features * sizeof(T), n_threads)
                                      : block_rows(rows.n_rows, n_threads);
  return for_each_block(suited, rows.n_rows, n_threads, [&](std::size_t height) {
    return [&, scorer = BlockScorer<T>(model, height, screening)](std::size_t first, std::size_t count) mutable -> BadRow {
      scorer.load(rows, first, count);
      return visit(scorer, first, count);
    };
  });
}

}  // namespace mfa::cpu
