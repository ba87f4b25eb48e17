// Rows scored under the components of a model: by bounds and an evaluation of what they leave standing, or by matrix products;
// and in residual form where that is not good enough. Scoring, EM and the attacks are made of it, as on the CPU of
// cpp/cpu/block.hpp.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>

#include "blas.hpp"
#include "core/rule.hpp"
#include "dense.hpp"
#include "device_model.hpp"
#include "entries.hpp"
#include "evaluation.hpp"
#include "refinement.hpp"
#include "rows.hpp"
#include "scores.hpp"
#include "screening.hpp"

namespace mfa::cuda {

using core::score_tolerance;

// Components [offsets[g], offsets[g + 1]) make up group g, on the host.
using Groups = std::span<const std::int64_t>;

// Where a call's work is queued, where its memory comes from, and where it reports a row that cannot be scored.
struct Call {
  Stream stream;
  const Allocate& allocate;
  std::int64_t* bad_row;  // (1)
};

// Sets bad_row to the number of rows: so far all are good.
void start_report(const Call& call, std::size_t n_rows);

template <class S>
class Scorer {
 public:
  // Factors of what is evaluated are kept if they are asked for, or if matrix products need them.
  Scorer(const DeviceModel& model, Groups groups, bool screening, bool factors, std::int64_t* bad_row)
      : model_(model),
        host_groups_(groups),
        screening_(screening && model.screen().n_directions > 0),
        glances_(screening_ && groups.size() == 2 && model.glance().n_directions > 0),
        keeps_factors_(factors || !screening_),
        bad_row_(bad_row) {}

  // Keeps coordinates that move along with rows, if it can: where rows are screened and the noise is spherical. To be
  // called before lay_out; returns whether. All features of a row are looked at then.
  bool follow_rows();
  // Its memory for that many rows at once.
  void lay_out(Arena& arena, std::size_t stride);
  // Whether it takes matrix products for anything.
  bool multiplies() const { return !screening_; }
  // To be called once before the first rows; blas may be null where it does not multiply.
  void begin(Stream stream, const Blas* blas);

  // Computes  every component's log-density, to tolerance * |value|.
  void score_all(const Rows<S>& rows, double tolerance);
  // Computes  those that matter to the best component and the log-sum-exp of a group, to the tolerance of that sum, as
  //           cpp/cpu/block.hpp says it; but with screening nothing of a group is computed in residual form where all that may
  //           matter to it is right to score_tolerance<double>. Rows that `skip` marks are left alone.
  void score_groups(const Rows<S>& rows, double tolerance, const std::uint8_t* skip = nullptr);
  // Computes  the same of rows whose coordinates there are, as they have been scored before and followed since.
  void score_groups_by_coordinates(const Rows<S>& rows, double tolerance, const std::uint8_t* skip);
  // Brings what matters to the groups to another tolerance, no less than score_tolerance<double>, in rows that `skip` does not
  // mark.
  void sharpen(const Rows<S>& rows, double tolerance, const std::uint8_t* skip);
  // Follows the rows' steps; where these are of pairs, entries() is still the list that they were made by.
  void follow(const StepView& steps, std::size_t first_row);
  // Computes  what is marked, to tolerance * |value|.
  void evaluate_marked(const Rows<S>& rows, double tolerance);

  const ScoreView& scores() const { return scores_; }
  const EntryView& entries() const { return entries_; }
  const GroupView& groups() const { return groups_; }
  const ModelView& model() const { return model_.view(); }

 private:
  void take(const Rows<S>& rows, const std::uint8_t* skip);
  // From now on; screening goes through a list of the others.
  void leave_alone(const std::uint8_t* skip);
  void forget_scores();
  // Scores the rows of which a part is enough, and marks them in done_ beside those that are skipped.
  void glance_at_rows(const Rows<S>& rows);
  void list_marked(const int* if_not_zero = nullptr);
  // What is marked, about the components' means.
  void evaluate_about_means(const Rows<S>& rows, double tolerance);
  // From the rows' coordinates.
  void evaluate_survivors(const Rows<S>& rows, double tolerance, const std::uint8_t* skip);

  const DeviceModel& model_;
  Groups host_groups_;
  bool screening_;
  bool glances_;  // at a part of the rows before all of them are read
  bool keeps_factors_;
  bool follows_ = false;
  std::int64_t* bad_row_;
  Stream stream_{};
  const Blas* blas_ = nullptr;
  ScoreView scores_{};
  EntryView entries_{};
  ScreenSpace screen_{};
  DenseSpace dense_{};
  std::int64_t* offsets_ = nullptr;
  GroupView groups_{};  // of these
  EntryView live_{};              // rows that are not skipped
  std::uint8_t* done_ = nullptr;  // (stride), where it glances
  double* scratch_ = nullptr;
  // Not 0 where something that was evaluated since it was set to 0 is not right to the tolerance that it was evaluated to.
  int* any_coarse_ = nullptr;
  // Not 0 where sharpen has marked something.
  int* any_marked_ = nullptr;
};

// Memory that one call may take at once, but for what its least number of rows needs. Tests have few rows, and are to go
// through several parts of them all the same.
#if defined(MFA_CUDA_EMULATION)
inline constexpr std::size_t workspace_bytes = std::size_t{128} << 10;
#else
inline constexpr std::size_t workspace_bytes = std::size_t{3} << 30;
#endif

// Calls lay_out(arena, stride) for as many rows at once as the memory allows, begin(blas), and then work(first, count) for all
// rows in turn. cuBLAS is held from begin on if `multiplies`; else blas is null.
template <class LayOut, class Begin, class Work>
void for_each_chunk(const Call& call, std::size_t n_rows, std::size_t n_components, bool multiplies, const LayOut& lay_out,
                    const Begin& begin, const Work& work) {
  if (n_rows == 0) return;
  constexpr std::size_t unit = coordinate_rows;
  const std::size_t most_entries = std::size_t{1} << 30;  // they are counted in ints
  const auto measure = [&](std::size_t stride) {
    Arena arena;
    lay_out(arena, stride);
    if (multiplies) arena.take<char>(Blas::workspace_bytes);
    return arena.used();
  };
  std::size_t stride = ceil_div(n_rows, unit) * unit;
  while (stride > unit && (measure(stride) > workspace_bytes || stride * n_components > most_entries))
    stride = ceil_div(stride / 2, unit) * unit;
  Arena arena(call.allocate(measure(stride)));
  lay_out(arena, stride);
  std::optional<Blas> blas;
  if (multiplies) blas.emplace(call.stream, arena.take<char>(Blas::workspace_bytes));
  begin(multiplies ? &*blas : nullptr);
  for (std::size_t first = 0; first < n_rows; first += stride)
    work(first, first + stride < n_rows ? stride : n_rows - first);
}

// Calls work(part) for parts of the rows that `scorer` has memory for, and what lay_out_more(arena, stride) takes beside it;
// before the first all rows are reported as good.
template <class S, class Row, class LayOut, class Work>
void for_each_part(const Call& call, const Rows<Row>& rows, Scorer<S>& scorer, const LayOut& lay_out_more,
                   const Work& work) {
  start_report(call, rows.count);
  const auto lay_out = [&](Arena& arena, std::size_t stride) {
    scorer.lay_out(arena, stride);
    lay_out_more(arena, stride);
  };
  for_each_chunk(
      call, rows.count, scorer.model().n_components, scorer.multiplies(), lay_out,
      [&](const Blas* blas) { scorer.begin(call.stream, blas); },
      [&](std::size_t first, std::size_t count) { work(rows.part(first, count)); });
}
template <class S, class Work>
void for_each_part(const Call& call, const Rows<S>& rows, Scorer<S>& scorer, const Work& work) {
  for_each_part(call, rows, scorer, [](Arena&, std::size_t) {}, work);
}

}  // namespace mfa::cuda
