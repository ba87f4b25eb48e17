#include "attack.hpp"

#include <cmath>
#include <limits>
#include <type_traits>

#include "core/gaussian.hpp"
#include "core/quadric.hpp"
#include "core/reduce.hpp"
#include "step.hpp"

namespace mfa::cuda {
namespace {

// What is known of the rows that are attacked at once.
struct Attack {
  std::uint8_t* done;     // (stride) 1 where the row has left its class, or cannot
  std::uint8_t* settled;  // (stride) 1 where it is done or its pair has been chosen
  double* gap;            // (stride) how far the source's class leads
  int* source;            // (stride) over all classes
  int* target;            // (stride)
  int* source_class;      // (stride)
  int* target_class;      // (stride)
  StepView steps;
};

struct ClassScore {
  double score;
  std::size_t best;  // over all classes
  core::LogSumExp sum;
};

__device__ ClassScore class_score(const ScoreView& scores, const GroupView& groups, const double* log_priors,
                                  bool sum_rule, std::size_t i, std::size_t g) {
  core::LogSumExp sum;
  core::ArgMax best;
  for_each_known(scores, groups.begin(g), groups.end(g), i, [&](std::size_t k) {
    const double value = scores.values[scores.at(i, k)];
    sum.add(value);
    best.add(value, k);
  });
  return {log_priors[g] + (sum_rule ? sum.value() : best.max), best.index, sum};
}

template <class S, class T>
__global__ void start_kernel(Rows<S> rows, std::size_t d, T* x_adv) {
  const std::size_t task = task_index();
  if (task < rows.count * d) x_adv[(rows.first + task / d) * d + task % d] = to<T>(rows.row(task / d)[task % d]);
}

template <class T>
__global__ void start_rows_kernel(std::size_t first, std::size_t n, const std::int64_t* labels, std::size_t n_groups,
                                  Attack attack, AttackOutput<T> out, std::int64_t* bad_row) {
  const std::size_t i = task_index();
  if (i >= n) return;
  const std::int64_t label = labels[first + i];
  const bool known = label >= 0 && label < static_cast<std::int64_t>(n_groups);
  if (!known) report_bad_row(bad_row, first + i);
  attack.done[i] = !known;
  attack.settled[i] = !known;
  out.success[first + i] = 0;
  out.n_steps[first + i] = 0;
  out.source[first + i] = out.target[first + i] = -1;
}

struct Choice {
  GroupView groups;
  const double* log_priors;
  bool sum_rule, last;
  long long source, target;  // kept throughout, or -1
};

// The two components that a step is taken between; rows that have nowhere to go are done. Those near the surface between
// the classes are not settled before their scores are sharp. One thread per row.
template <class T>
__global__ void choose_kernel(Choice choice, bool sharp, const std::int64_t* labels, std::size_t first,
                              ScoreView scores, Attack attack, AttackOutput<T> out) {
  const std::size_t i = task_index();
  if (i >= scores.n || attack.done[i] || (sharp && attack.settled[i])) return;
  const auto label = static_cast<std::size_t>(labels[first + i]);
  const auto score = [&](std::size_t g) {
    return class_score(scores, choice.groups, choice.log_priors, choice.sum_rule, i, g);
  };
  const ClassScore own = score(label);
  core::ArgMax rival;
  std::size_t rival_best = 0;
  for (std::size_t g = 0; g < choice.groups.count; ++g) {
    if (g == label) continue;
    const ClassScore other = score(g);
    if (rival.empty || other.score > rival.max) rival_best = other.best;
    rival.add(other.score, g);
  }
  const double gap = own.score - rival.max;
  attack.settled[i] = sharp || !core::is_small_gap(gap, std::abs(own.score) + std::abs(rival.max));
  if (!attack.settled[i]) return;
  const bool leads = core::leads(gap, label, rival.index);
  // Where no rival has a chance at all (a prior or a weight of 0), or a class lacks the component that is asked for, which Python
  // has refused, there is nowhere to go.
  const auto lacks = [&](std::size_t g, long long component) {
    return component >= static_cast<long long>(choice.groups.end(g) - choice.groups.begin(g));
  };
  if (!leads || !std::isfinite(gap) || choice.last || lacks(label, choice.source) || lacks(rival.index, choice.target)) {
    attack.done[i] = 1;
    out.success[first + i] = !leads;
    return;
  }
  const auto offset = [&](std::size_t g) { return choice.groups.offsets[g]; };
  const std::int64_t source =
      choice.source >= 0 ? choice.source : static_cast<std::int64_t>(own.best) - offset(label);
  const std::int64_t target =
      choice.target >= 0 ? choice.target : static_cast<std::int64_t>(rival_best) - offset(rival.index);
  out.source[first + i] = source;
  out.target[first + i] = target;
  attack.gap[i] = gap;
  attack.source[i] = static_cast<int>(offset(label) + source);
  attack.target[i] = static_cast<int>(offset(rival.index) + target);
  attack.source_class[i] = static_cast<int>(label);
  attack.target_class[i] = static_cast<int>(rival.index);
}

// Components that are held fixed may be some that scoring has left out, or not looked at closely. One thread per row.
__global__ void mark_pairs_kernel(ScoreView scores, Attack attack) {
  const std::size_t i = task_index();
  if (i >= scores.n || attack.done[i]) return;
  for (const int k : {attack.source[i], attack.target[i]}) scores.marks[scores.at(i, static_cast<std::size_t>(k))] = 1;
}

// What the gradient of every row is made of. One thread per row.
__global__ void terms_kernel(ModelView model, Choice choice, bool fixed, ScoreView scores, Attack attack) {
  const std::size_t i = task_index();
  if (i >= scores.n) return;
  const bool in_pairs = fixed || !choice.sum_rule;
  const auto share = [&](std::size_t k) -> double& { return scores.errors[scores.at(i, k)]; };
  if (!in_pairs)
    for (std::size_t k = 0; k < model.n_components; ++k) share(k) = 0.0;
  if (attack.done[i]) return;
  const auto source = static_cast<std::size_t>(attack.source[i]);
  const auto target = static_cast<std::size_t>(attack.target[i]);
  if (fixed) {
    const double gap =
        choice.log_priors[attack.source_class[i]] + scores.values[scores.at(i, source)] -
        choice.log_priors[attack.target_class[i]] - scores.values[scores.at(i, target)];
    attack.gap[i] = gap > 0.0 ? gap : 0.0;
  }
  if (in_pairs) {
    for (const std::size_t k : {source, target}) {
      const std::size_t at = scores.at(i, k);
      if (scores.known[at] != known_v) continue;
      double* factors = scores.factors + (i * model.n_components + k) * model.n_factors;
      core::solve_lower_transposed(model.n_factors, model.component_cholesky(k), factors);
      scores.known[at] = known_z;
    }
    return;
  }
  // A class's log-sum-exp has the gradient of its components, each by its posterior probability.
  for (const int g : {attack.source_class[i], attack.target_class[i]}) {
    const double sign = g == attack.source_class[i] ? -1.0 : 1.0;
    const auto c = static_cast<std::size_t>(g);
    const core::LogSumExp sum = class_score(scores, choice.groups, choice.log_priors, true, i, c).sum;
    for (std::size_t k = choice.groups.begin(c); k < choice.groups.end(c); ++k) {
      if (scores.known[scores.at(i, k)] == known_nothing) continue;
      const double part = sum.share(scores.values[scores.at(i, k)]);
      if (part > core::negligible_share) share(k) = sign * part;
    }
  }
}

// x <- clip(x - a g), and beyond that point by the overshoot. One warp per row.
template <class T>
__global__ void step_kernel(ModelView model, const double* gradients, ScoreView scores, Attack attack,
                            double overshoot, double low, double high, std::size_t first, AttackOutput<T> out) {
  const std::size_t i = task_index() / warp_size;
  if (i >= scores.n) return;  // a whole warp
  const std::size_t d = model.n_features;
  const unsigned lane = threadIdx.x % warp_size;
  if (lane == 0) attack.steps.lengths[i] = 0.0;
  if (attack.done[i]) return;
  const double* gradient = gradients + i * d;
  T* x = out.x_adv + (first + i) * d;
  double b = 0.0, x_square = 0.0, c = 0.0;
  for (std::size_t j = lane; j < d; j += warp_size) {
    b += gradient[j] * gradient[j];
    x_square += static_cast<double>(x[j]) * static_cast<double>(x[j]);
  }
  for (std::size_t k = lane; k < model.n_components; k += warp_size) {
    const std::size_t at = scores.at(i, k);
    if (scores.errors[at] != 0.0) c += 0.5 * scores.errors[at] * scores.values[at];
  }
  b = warp_sum(b);
  x_square = warp_sum(x_square);
  c = warp_sum(c);
  if (!(b > 0.0) || !std::isfinite(attack.gap[i])) return;  // the two are one and the same, or one has weight 0
  const double norm = std::sqrt(b);
  const double length = core::with_overshoot(std::abs(core::step_to_zero(attack.gap[i], b, c)) * norm, overshoot,
                                             std::sqrt(x_square), std::numeric_limits<T>::epsilon(),
                                             core::on_surface * model.least_noise_std);
  const double factor = length / norm;
  double square = 0.0;
  for (std::size_t j = lane; j < d; j += warp_size) {
    const double moved = static_cast<double>(x[j]) - factor * gradient[j];
    const double above = moved < low ? low : moved;
    x[j] = static_cast<T>(above > high ? high : above);
    const double offset = static_cast<double>(x[j]) - model.center[j];
    square += offset * offset;
  }
  square = warp_sum(square);
  if (lane != 0) return;
  ++out.n_steps[first + i];
  attack.steps.lengths[i] = factor;
  attack.steps.norms[i] = square;
}

// Rows that have not moved are copied where `copies` says that they have not been yet, and lengths of those that have moved
// once are left alone where they are known. One warp per row.
template <class S, class T>
__global__ void finish_kernel(Rows<S> rows, std::size_t d, bool copies, bool knows_lengths, AttackOutput<T> out) {
  const std::size_t i = task_index() / warp_size;
  if (i >= rows.count) return;
  const std::size_t row = rows.first + i;
  const std::int64_t n_steps = out.n_steps[row];
  if (knows_lengths && n_steps == 1) return;
  T* x = out.x_adv + row * d;
  double square = 0.0;
  for (std::size_t j = threadIdx.x % warp_size; j < d; j += warp_size) {
    if (copies && n_steps == 0) x[j] = to<T>(rows.row(i)[j]);
    const double moved = static_cast<double>(x[j]) - to<double>(rows.row(i)[j]);
    square += moved * moved;
  }
  square = warp_sum(square);
  if (threadIdx.x % warp_size == 0) out.l2[row] = std::sqrt(square);
}

}  // namespace

template <class S>
void ld_grad(const DeviceModel& model, const Rows<S>& rows, Groups groups, const double* log_priors,
             const std::int64_t* labels, const LdGradOptions& options, const AttackOutput<Precision<S>>& out,
             const Call& call) {
  using T = Precision<S>;
  const std::size_t K = model.n_components();
  const std::size_t d = model.n_features();
  const Stream stream = call.stream;
  const bool fixed = options.source || options.target;
  // A step between two components is made for many rows at once; of a class's sum, each has its own terms.
  const bool in_pairs = fixed || options.rule == Rule::max;
  Scorer<T> scorer(model, groups, options.screening, true, call.bad_row);
  // What a step does to a row's coordinates is known from those of the parameters, unless it is clipped.
  const bool follows = std::isinf(options.clip_low) && std::isinf(options.clip_high) && scorer.follow_rows();
  Gradients<T> gradients;
  PairSteps<T> pair_steps;
  Attack attack{};
  double* priors = nullptr;
  const auto lay_out = [&](Arena& arena, std::size_t stride) {
    if (in_pairs) pair_steps.lay_out(arena, model.view(), stride);
    else gradients.lay_out(arena, model.view(), stride);
    attack = {arena.take<std::uint8_t>(stride),
              arena.take<std::uint8_t>(stride),
              arena.take<double>(stride),
              arena.take<int>(stride),
              arena.take<int>(stride),
              arena.take<int>(stride),
              arena.take<int>(stride),
              {arena.take<double>(stride), arena.take<double>(stride)}};
    if (in_pairs) {
      attack.steps.sources = attack.source;
      attack.steps.targets = attack.target;
    }
    priors = arena.take<double>(groups.size() - 1);
  };
  for_each_part(call, rows, scorer, lay_out, [&](const Rows<S>& part) {
    const std::size_t first = part.first;
    const std::size_t count = part.count;
    send(stream, log_priors, groups.size() - 1, priors);
    const Rows<T> moved{reinterpret_cast<const char*>(out.x_adv + first * d),
                        static_cast<std::ptrdiff_t>(d * sizeof(T)), count, first};
    Choice choice{scorer.groups(), priors, options.rule == Rule::sum, false,
                  options.source ? static_cast<long long>(*options.source) : -1,
                  options.target ? static_cast<long long>(*options.target) : -1};
    // The first steps may be taken from where the samples are.
    const bool copies = !(in_pairs && std::is_same_v<S, T>);
    if (copies) launch_tasks(stream, count * d, start_kernel<S, T>, part, d, out.x_adv);
    launch_tasks(stream, count, start_rows_kernel<T>, first, count, labels, scorer.groups().count, attack, out,
                 call.bad_row);
    if (in_pairs && first == 0) pair_steps.begin(stream, scorer.model());
    for (std::size_t step = 0; step <= options.steps; ++step) {
      choice.last = step == options.steps;
      Rows<T> now = moved;
      if constexpr (std::is_same_v<S, T>)
        if (step == 0 && !copies) now = part;
      if (follows && step > 0) scorer.score_groups_by_coordinates(now, core::gap_tolerance, attack.done);
      else scorer.score_groups(now, core::gap_tolerance, attack.done);
      launch_tasks(stream, count, choose_kernel<T>, choice, false, labels, first, scorer.scores(), attack, out);
      scorer.sharpen(now, score_tolerance<double>, attack.settled);
      launch_tasks(stream, count, choose_kernel<T>, choice, true, labels, first, scorer.scores(), attack, out);
      if (choice.last) break;
      if (fixed) {
        fill_zero(stream, scorer.scores().marks, K * scorer.scores().stride);
        launch_tasks(stream, count, mark_pairs_kernel, scorer.scores(), attack);
        scorer.evaluate_marked(now, score_tolerance<double>);
      }
      launch_tasks(stream, count, terms_kernel, scorer.model(), choice, fixed, scorer.scores(), attack);
      if (in_pairs) {
        const PairView pairs{attack.done, attack.source, attack.target, attack.gap};
        const StepLimits limits{options.overshoot, options.clip_low, options.clip_high};
        pair_steps.step(stream, now, scorer, pairs, limits, attack.steps, {out.x_adv, out.l2, out.n_steps});
      } else {
        gradients.add_up(stream, now, scorer, K);
        gradients.curve(stream, scorer);
        launch_tasks(stream, count * warp_size, step_kernel<T>, scorer.model(), gradients.data(), scorer.scores(), attack,
                     options.overshoot, options.clip_low, options.clip_high, first, out);
      }
      if (follows) scorer.follow(attack.steps, first);
    }
    launch_tasks(stream, count * warp_size, finish_kernel<S, T>, part, d, !copies, in_pairs, out);
  });
}

#define MFA_INSTANTIATE(S)                                                                                           \
  template void ld_grad(const DeviceModel&, const Rows<S>&, Groups, const double*, const std::int64_t*,             \
                        const LdGradOptions&, const AttackOutput<Precision<S>>&, const Call&);
MFA_FOR_SAMPLE_TYPES(MFA_INSTANTIATE)
#undef MFA_INSTANTIATE

}  // namespace mfa::cuda
