#include "scorer.hpp"

#include <algorithm>
#include <cmath>

#include "core/reduce.hpp"
#include "core/rule.hpp"

namespace mfa::cuda {
namespace {

// One thread per entry. Written so that a product that overflowed (infinite or not a number) is marked as well.
__global__ void mark_inexact_kernel(std::size_t n_components, double tolerance, ScoreView scores) {
  const auto [i, k] = cell_of_thread(scores);
  if (k >= n_components) return;
  const std::size_t at = scores.at(i, k);
  scores.marks[at] = !(scores.errors[at] <= tolerance * std::abs(scores.values[at]));
}

// Marks, in a group of a row, what the tolerance of its sum or the choice of its best needs to know better: docs/theory.md,
// section 1; if OnlyCoarse in groups of which something is coarse. *any_marked becomes 1 where something is marked. One thread
// per row and group.
template <bool OnlyCoarse>
__global__ void mark_what_matters_kernel(GroupView groups, double tolerance, ScoreView scores, int* any_marked) {
  const auto [i, g] = cell_of_thread(scores);
  if (g >= groups.count || scores.skips(i) || (OnlyCoarse && scores.coarse[i] == 0)) return;
  const double floor = find_floor(scores, groups, i, g);
  const auto may_be_best = [&](std::size_t at) { return core::may_be_best(scores.values[at], scores.errors[at], floor); };
  const auto for_each_that_may_matter = [&](const auto& visit) {
    for_each_known(scores, groups.begin(g), groups.end(g), i, [&](std::size_t k) {
      const std::size_t at = scores.at(i, k);
      if (core::may_matter(scores.values[at], scores.errors[at], floor)) visit(at);
    });
  };
  double largest_error = 0.0, n_terms = 0.0;
  int n_best = 0;
  bool coarse = !OnlyCoarse;
  core::LogSumExp sum;
  for_each_that_may_matter([&](std::size_t at) {
    largest_error = scores.errors[at] > largest_error ? scores.errors[at] : largest_error;
    n_terms += 1.0;
    n_best += may_be_best(at) ? 1 : 0;
    coarse = coarse || !(scores.errors[at] <= score_tolerance<double> * std::abs(scores.values[at]));
    sum.add(scores.values[at]);
  });
  if (!coarse) return;
  const double allowed = core::allowed_error(tolerance, sum.value(), largest_error);
  for_each_that_may_matter([&](std::size_t at) {
    const double needed = n_best > 1 && may_be_best(at) ? 0.0 : allowed;
    if (scores.errors[at] <= needed) return;
    if (core::is_small_by_share(scores.values[at], scores.errors[at], floor, n_terms, needed)) return;
    scores.marks[at] = 1;
    *any_marked = 1;
  });
}

}  // namespace

void start_report(const Call& call, std::size_t n_rows) {
  const auto none = static_cast<std::int64_t>(n_rows);
  send(call.stream, &none, 1, call.bad_row);
}

template <class S>
bool Scorer<S>::follow_rows() {
  follows_ = screening_ && model_.screen().means != nullptr;
  glances_ = glances_ && !follows_;
  return follows_;
}

template <class S>
void Scorer<S>::lay_out(Arena& arena, std::size_t stride) {
  const ModelView& view = model_.view();
  scores_ = lay_out_scores(arena, view.n_components, view.n_factors, keeps_factors_, stride);
  entries_ = lay_out_entries(arena, view.n_components, stride, view.n_components * stride);
  scratch_ = arena.take<double>(refinement_scratch(view.n_factors));
  any_coarse_ = arena.take<int>(1);
  any_marked_ = arena.take<int>(1);
  offsets_ = arena.take<std::int64_t>(host_groups_.size());
  groups_ = {offsets_, host_groups_.size() - 1};
  if (!screening_) {
    dense_ = lay_out_dense(arena, view, stride);
    return;
  }
  std::size_t directions = model_.screen().n_directions;
  if (glances_) {
    done_ = arena.take<std::uint8_t>(stride);
    directions = std::max(directions, model_.glance().n_directions);
  }
  live_ = lay_out_entries(arena, 1, stride, stride);
  screen_ = lay_out_screen(arena, view.n_components, directions, follows_, stride);
}

template <class S>
void Scorer<S>::begin(Stream stream, const Blas* blas) {
  stream_ = stream;
  blas_ = blas;
  send(stream, host_groups_.data(), host_groups_.size(), offsets_);
}

template <class S>
void Scorer<S>::list_marked(const int* if_not_zero) {
  list_entries(stream_, scores_.marks, 1, model().n_components, scores_.n, scores_.stride, entries_, if_not_zero);
}

template <class S>
void Scorer<S>::evaluate_about_means(const Rows<S>& rows, double tolerance) {
  list_marked();
  evaluate(stream_, rows, model(), tolerance, entries_, scores_, any_coarse_);
}

template <class S>
void Scorer<S>::evaluate_marked(const Rows<S>& rows, double tolerance) {
  fill_zero(stream_, any_coarse_, sizeof(int));
  evaluate_about_means(rows, tolerance);
  refine(stream_, rows, model(), tolerance, any_coarse_, entries_, scores_, scratch_);
}

template <class S>
void Scorer<S>::take(const Rows<S>& rows, const std::uint8_t* skip) {
  scores_.n = rows.count;
  leave_alone(skip);
}

template <class S>
void Scorer<S>::leave_alone(const std::uint8_t* skip) {
  scores_.skip = skip;
  scores_.live = nullptr;
  if (skip == nullptr || !screening_) return;
  list_entries(stream_, skip, 0, 1, scores_.n, scores_.stride, live_);
  scores_.live = live_.rows;
  scores_.live_count = live_.starts + 1;
}

template <class S>
void Scorer<S>::score_all(const Rows<S>& rows, double tolerance) {
  take(rows, nullptr);
  score_densely(stream_, *blas_, rows, model(), scores_, dense_, bad_row_);
  launch_tasks(stream_, model().n_components * scores_.n, mark_inexact_kernel, model().n_components, tolerance,
               scores_);
  evaluate_marked(rows, tolerance);
}

template <class S>
void Scorer<S>::score_groups(const Rows<S>& rows, double tolerance, const std::uint8_t* skip) {
  take(rows, skip);
  if (!screening_) {
    score_densely(stream_, *blas_, rows, model(), scores_, dense_, bad_row_);
    sharpen(rows, tolerance, skip);
    return;
  }
  forget_scores();
  if (glances_) {
    glance_at_rows(rows);
    leave_alone(done_);
  }
  make_coordinates(stream_, rows, model_.screen(), scores_, screen_, bad_row_);
  evaluate_survivors(rows, tolerance, skip);
}

template <class S>
void Scorer<S>::score_groups_by_coordinates(const Rows<S>& rows, double tolerance, const std::uint8_t* skip) {
  take(rows, skip);
  forget_scores();
  evaluate_survivors(rows, tolerance, skip);
}

template <class S>
void Scorer<S>::forget_scores() {
  fill_zero(stream_, scores_.known, model().n_components * scores_.stride);
  fill_zero(stream_, scores_.coarse, scores_.stride);
}

template <class S>
void Scorer<S>::glance_at_rows(const Rows<S>& rows) {
  make_coordinates(stream_, rows, model_.glance(), scores_, screen_, bad_row_);
  screen_by_coordinates(stream_, model(), model_.glance(), groups_, scores_, screen_);
  evaluate_about_means(rows, score_tolerance<double>);
  find_done(stream_, groups_, scores_, screen_, done_);
}

template <class S>
void Scorer<S>::follow(const StepView& steps, std::size_t first_row) {
  move_coordinates(stream_, model(), model_.screen(), scores_, steps, entries_, screen_, first_row, bad_row_);
}

template <class S>
void Scorer<S>::evaluate_survivors(const Rows<S>& rows, double tolerance, const std::uint8_t* skip) {
  screen_by_coordinates(stream_, model(), model_.screen(), groups_, scores_, screen_);
  evaluate_about_means(rows, score_tolerance<double>);
  mark_survivors(stream_, model().n_components, groups_, scores_, screen_);
  evaluate_about_means(rows, score_tolerance<double>);
  sharpen(rows, tolerance, skip);
}

template <class S>
void Scorer<S>::sharpen(const Rows<S>& rows, double tolerance, const std::uint8_t* skip) {
  scores_.skip = skip;
  fill_zero(stream_, any_marked_, sizeof(int));
  fill_zero(stream_, scores_.marks, model().n_components * scores_.stride);
  // Of dense products it is not known whether any is coarse; of what screening left it is.
  launch_tasks(stream_, groups_.count * scores_.n,
               screening_ ? mark_what_matters_kernel<true> : mark_what_matters_kernel<false>, groups_, tolerance, scores_,
               any_marked_);
  list_marked(any_marked_);
  refine(stream_, rows, model(), 0.0, any_marked_, entries_, scores_, scratch_);
}

template class Scorer<float>;
template class Scorer<double>;
template class Scorer<Bfloat16>;
template class Scorer<std::uint8_t>;

}  // namespace mfa::cuda
