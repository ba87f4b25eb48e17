#include "nearest.hpp"

#include <algorithm>
#include <cmath>
#include <limits>
#include <type_traits>
#include <vector>

#include "core/gaussian.hpp"
#include "core/gram_dual.hpp"
#include "core/nearest_search.hpp"
#include "core/reduce.hpp"
#include "warp.hpp"

namespace mfa::cuda {
namespace {

using GramFrame = core::GramFrame<Warp>;
using DiagonalFrame = core::DiagonalFrame<Warp>;

constexpr unsigned search_warps = 4;
constexpr unsigned search_threads = search_warps * warp_size;

// What the warps have for themselves, and what they share.
struct Workplace {
  double* scratch;          // (warps, scratch_size)
  std::size_t scratch_size;
  double* component_priors; // (K)
  double* class_priors;     // (G)
  int* next;                // (1) row that nobody has taken yet
  std::int64_t* bad_row;    // (1) of points that were found, which may be out of range
};

// What is known of the rows that are searched at once.
struct Found {
  double* centered;       // (stride, d)
  double* norms;          // (stride) |x|
  double* factors;        // (stride, K L) products with D^-1 A C^-T, with spherical noise
  double* dots;           // (stride, K) products with D^-1 (mu - center)
  double* deltas;         // (stride, d)
  double* inwards;        // (stride, d)
  double* beyond;         // (stride) how far the point is moved beyond the surface
  std::int64_t* sources;  // (stride) over all classes
  std::int64_t* targets;  // (stride)
  std::uint8_t* looks;    // (stride) 1 where a search is to be made
  std::uint8_t* done;     // (stride) 1 where no point is waiting to be seen on the other side
};

// Rows about the centre, and who is searched. One warp per row.
template <class S, class T>
__global__ void prepare_kernel(Rows<S> rows, ModelView model, const std::int64_t* labels, std::size_t n_classes,
                               Found found, AttackOutput<T> out, CertificateOutput certificates,
                               std::int64_t* bad_row) {
  const std::size_t i = task_index() / warp_size;
  if (i >= rows.count) return;  // a whole warp
  const std::size_t d = model.n_features;
  double square = 0.0, size = 0.0;
  for (std::size_t j = threadIdx.x % warp_size; j < d; j += warp_size) {
    const double x = to<double>(rows.row(i)[j]);
    const double value = x - model.center[j];
    found.centered[i * d + j] = value;
    square += value * value;
    size += x * x;
  }
  square = warp_sum(square);
  size = warp_sum(size);
  if (threadIdx.x % warp_size != 0) return;
  const std::size_t at = rows.first + i;
  const std::int64_t label = labels[at];
  const bool good = std::isfinite(square) && label >= 0 && label < static_cast<std::int64_t>(n_classes);
  if (!good) report_bad_row(bad_row, at);
  const bool elsewhere = out.success[at] != 0 && out.n_steps[at] == 0;  // in another class as it is
  if (out.success[at] == 0) out.l2[at] = std::numeric_limits<double>::infinity();
  found.norms[i] = std::sqrt(size);
  found.looks[i] = good && !elsewhere;
  found.done[i] = 1;
  certificates.lower_bound[at] = 0.0;
}

__device__ void load(GramFrame& frame, const Found& found, std::size_t i) {
  const core::GramView& gram = frame.gram();
  const Warp& team = frame.team();
  const std::size_t K = gram.n_components;
  const std::size_t L = gram.n_factors;
  const double* factors = found.factors + i * K * L;
  const double* dots = found.dots + i * K;
  const double* x = found.centered + i * gram.n_features;
  double* products = frame.products();
  const double root = std::sqrt(gram.kappa);
  team.each(K, L + 1, [&](std::size_t k, std::size_t l) {
    products[gram.column(k, l)] = l < L ? root * factors[k * L + l] : dots[k] * (gram.kappa / gram.weights[k]);
  });
  const double on_probe = team.dot(x, gram.probe_direction, gram.n_features);
  team.once([&] { products[gram.probe()] = on_probe; });
  frame.load(x);
}
__device__ void load(DiagonalFrame& frame, const Found& found, std::size_t i) {
  frame.load(found.centered + i * frame.size());
}

// The search of core/nearest_search.hpp, row after row, or after it what is tried where there is no certificate. A warp per row.
template <bool explores, class Frame, class View>
__global__ void __launch_bounds__(search_threads)
    search_kernel(View view, GroupView classes, std::size_t most_in_class, bool sum_rule, Workplace place,
                  const std::int64_t* labels, std::size_t first, std::size_t count, double epsilon, Found found,
                  const double* l2, std::int64_t* n_steps, CertificateOutput certificates) {
  Warp team(place.scratch + task_index() / warp_size * place.scratch_size, place.scratch_size);
  Frame frame(team, view, place.component_priors);
  core::NearestSearch<Frame> search(frame, classes, most_in_class, sum_rule);
  const std::size_t d = view.n_features;
  for (;;) {
    int taken = 0;
    if (team.lane() == 0) taken = atomicAdd(place.next, 1);
    const auto i = static_cast<std::size_t>(team.first(taken));
    if (i >= count) return;
    if (found.looks[i] == 0) continue;
    const std::size_t at = first + i;
    const auto label = static_cast<std::size_t>(labels[at]);
    const double bound = certificates.lower_bound[at];
    if constexpr (explores) {
      team.once([&] { found.done[i] = 1; });
      if (!core::is_worth_exploring(certificates.certified[at] != 0, l2[at], bound)) continue;
    }
    load(frame, found, i);
    if constexpr (explores) search.explore(label, l2[at], bound);
    else search.run(label, l2[at]);
    double* delta = found.deltas + i * d;
    if (search.has_point()) {
      frame.to_features(search.delta(), delta);
      frame.to_features(search.inward(), found.inwards + i * d);
    }
    const double length = search.has_point() ? std::sqrt(team.dot(delta, delta, d)) : 0.0;
    team.once([&] {
      if constexpr (!explores) {
        certificates.lower_bound[at] = search.lower_bound();
        n_steps[at] = search.n_problems() > 1 ? static_cast<std::int64_t>(search.n_problems()) : 1;
      }
      if (!search.has_point()) return;
      found.beyond[i] = core::first_beyond(length, found.norms[i], epsilon);
      found.sources[i] = static_cast<std::int64_t>(search.source());
      found.targets[i] = static_cast<std::int64_t>(search.target());
      found.done[i] = 0;
    });
  }
}

// Points as they would be returned, in the place of the rows. A surface that is so far away that the scores there are out of
// range is as good as none. One warp per row.
template <class S, class T>
__global__ void move_kernel(Rows<S> rows, ModelView model, Found found, T* moved) {
  const std::size_t i = task_index() / warp_size;
  if (i >= rows.count || found.done[i] != 0) return;  // a whole warp
  const std::size_t d = model.n_features;
  double square = 0.0;
  for (std::size_t j = threadIdx.x % warp_size; j < d; j += warp_size) {
    const double step = found.deltas[i * d + j] + found.beyond[i] * found.inwards[i * d + j];
    moved[i * d + j] = static_cast<T>(to<double>(rows.row(i)[j]) + step);
    const double offset = static_cast<double>(moved[i * d + j]) - model.center[j];
    square += offset * offset;
  }
  square = warp_sum(square);
  if (threadIdx.x % warp_size == 0 && !std::isfinite(square)) found.done[i] = 1;
}

// The class of a row, as predict gives it; whether its score is a number.
struct Predicted {
  std::size_t index;
  bool known;
};
__device__ Predicted predicted(const ScoreView& scores, const GroupView& classes, const double* priors, bool sum_rule,
                               std::size_t i) {
  core::ArgMax best;
  bool known = true;
  for (std::size_t g = 0; g < classes.count; ++g) {
    core::LogSumExp sum;
    for (std::size_t k = classes.begin(g); k < classes.end(g); ++k) {
      const std::size_t at = scores.at(i, k);
      if (scores.known[at] == known_nothing) continue;
      known = known && !std::isnan(scores.values[at]);
      sum.add(scores.values[at]);
    }
    best.add(priors[g] + (sum_rule ? sum.value() : sum.max), g);
  }
  return {best.index, known && std::isfinite(best.max)};
}

// Takes the points that are on the other side, the others go on. One warp per row.
template <class S, class T>
__global__ void take_kernel(Rows<S> rows, std::size_t d, ScoreView scores, GroupView classes, const double* priors,
                            bool sum_rule, const std::int64_t* labels, Found found, const T* moved,
                            AttackOutput<T> out) {
  const std::size_t i = task_index() / warp_size;
  if (i >= rows.count || found.done[i] != 0) return;  // a whole warp
  const std::size_t at = rows.first + i;
  const unsigned lane = threadIdx.x % warp_size;
  const Predicted there = predicted(scores, classes, priors, sum_rule, i);
  const bool flips = there.known && there.index != static_cast<std::size_t>(labels[at]);
  double square = 0.0;
  for (std::size_t j = lane; j < d; j += warp_size) {
    const double step = static_cast<double>(moved[i * d + j]) - to<double>(rows.row(i)[j]);
    square += step * step;
  }
  const double l2 = std::sqrt(warp_sum(square));
  const bool nearer = flips && l2 < out.l2[at];
  __syncwarp();  // all have read what is written now
  if (nearer)
    for (std::size_t j = lane; j < d; j += warp_size) out.x_adv[at * d + j] = moved[i * d + j];
  if (lane != 0) return;
  found.done[i] = flips || !there.known;
  found.beyond[i] *= core::farther_beyond;
  if (!nearer) return;
  const auto within = [&](std::int64_t k) {
    std::size_t g = 0;
    while (classes.offsets[g + 1] <= k) ++g;
    return k - classes.offsets[g];
  };
  out.l2[at] = l2;
  out.success[at] = 1;
  out.source[at] = within(found.sources[i]);
  out.target[at] = within(found.targets[i]);
}

// Not above what it is given.
__device__ double round_down(double value, double) { return value; }
__device__ double round_down(double value, float) {
  const auto nearest = static_cast<float>(value);
  return static_cast<double>(nearest) > value ? std::nextafter(nearest, 0.0f) : nearest;
}

// One thread per row.
template <class T>
__global__ void certify_kernel(std::size_t first, std::size_t count, double rtol, Found found, AttackOutput<T> out,
                               CertificateOutput certificates) {
  const std::size_t i = task_index();
  if (i >= count) return;
  const std::size_t at = first + i;
  const double l2 = out.l2[at];
  const double bound = certificates.lower_bound[at] < l2 ? certificates.lower_bound[at] : l2;
  constexpr double epsilon = std::numeric_limits<T>::epsilon();
  certificates.certified[at] = out.success[at] != 0 ? core::is_certified(l2, bound, rtol, found.norms[i], epsilon)
                                                    : bound == std::numeric_limits<double>::infinity();
  certificates.lower_bound[at] = round_down(bound, T{});
}

// Doubles that a warp takes.
std::size_t scratch_size(const core::GramView& gram, std::size_t most_in_class) {
  return GramFrame::scratch(gram) +
         core::NearestSearch<GramFrame>::scratch(gram.n_components, gram.n_columns(), most_in_class,
                                                 [&](std::size_t n) { return core::GramDual<Warp>::scratch(gram, n); });
}
std::size_t scratch_size(const core::DiagonalView& parts, std::size_t most_in_class) {
  return DiagonalFrame::scratch(parts) +
         core::NearestSearch<DiagonalFrame>::scratch(
             parts.n_components, parts.n_features, most_in_class,
             [&](std::size_t n) { return core::DiagonalDual<Warp>::scratch(parts, n); });
}

// Memory of the warps that work at once, but for what one block needs.
#if defined(MFA_CUDA_EMULATION)
constexpr std::size_t scratch_bytes = std::size_t{1} << 20;
#else
constexpr std::size_t scratch_bytes = std::size_t{1} << 30;
#endif

template <class Frame, class S, class View>
void search_rows(const DeviceModel& model, const View& view, const Rows<S>& rows, Groups groups,
                 const double* log_priors, const std::int64_t* labels, const NearestOptions& options,
                 const AttackOutput<Precision<S>>& out, const CertificateOutput& certificates, const Call& call) {
  using T = Precision<S>;
  constexpr bool in_products = std::is_same_v<Frame, GramFrame>;
  const Stream stream = call.stream;
  const std::size_t K = model.n_components();
  const std::size_t L = model.n_factors();
  const std::size_t d = model.n_features();
  const bool sum_rule = options.rule == Rule::sum;
  std::size_t most_in_class = 0;
  std::vector<double> priors(K);
  for (std::size_t g = 0; g + 1 < groups.size(); ++g) {
    most_in_class = std::max(most_in_class, static_cast<std::size_t>(groups[g + 1] - groups[g]));
    for (std::int64_t k = groups[g]; k < groups[g + 1]; ++k) priors[static_cast<std::size_t>(k)] = log_priors[g];
  }

  Workplace place{};
  place.scratch_size = scratch_size(view, most_in_class);
  const std::size_t fit = scratch_bytes / (search_warps * place.scratch_size * sizeof(double));
  const std::size_t blocks = std::max<std::size_t>(
      1, std::min({fit, resident_blocks(), ceil_div(rows.count, std::size_t{search_warps})}));
  const auto lay_out_place = [&](Arena& arena) {
    place.scratch = arena.take<double>(blocks * search_warps * place.scratch_size);
    place.component_priors = arena.take<double>(K);
    place.class_priors = arena.take<double>(groups.size() - 1);
    place.next = arena.take<int>(1);
    place.bad_row = arena.take<std::int64_t>(1);
  };
  Arena measure;
  lay_out_place(measure);
  Arena memory(call.allocate(measure.used()));
  lay_out_place(memory);
  send(stream, priors.data(), K, place.component_priors);
  send(stream, log_priors, groups.size() - 1, place.class_priors);

  // Only what was found is scored: what is out of range there is no fault of a row's.
  const Call of_points{stream, call.allocate, place.bad_row};
  start_report(of_points, rows.count);
  Scorer<T> scorer(model, groups, options.screening, false, place.bad_row);
  Found found{};
  T* moved = nullptr;
  const Blas* blas = nullptr;
  const auto lay_out = [&](Arena& arena, std::size_t stride) {
    scorer.lay_out(arena, stride);
    found = {arena.take<double>(stride * d),
             arena.take<double>(stride),
             in_products ? arena.take<double>(stride * K * L) : nullptr,
             in_products ? arena.take<double>(stride * K) : nullptr,
             arena.take<double>(stride * d),
             arena.take<double>(stride * d),
             arena.take<double>(stride),
             arena.take<std::int64_t>(stride),
             arena.take<std::int64_t>(stride),
             arena.take<std::uint8_t>(stride),
             arena.take<std::uint8_t>(stride)};
    moved = arena.take<T>(stride * d);
  };
  const auto begin = [&](const Blas* held) {
    blas = held;
    scorer.begin(stream, held);
  };
  const bool multiplies = in_products || scorer.multiplies();
  for_each_chunk(of_points, rows.count, K, multiplies, lay_out, begin, [&](std::size_t first, std::size_t count) {
    const Rows<S> part = rows.part(first, count);
    launch_tasks(stream, count * warp_size, prepare_kernel<S, T>, part, scorer.model(), labels,
                 scorer.groups().count, found, out, certificates, call.bad_row);
    if constexpr (in_products) {
      blas->multiply(found.centered, count, d, scorer.model().columns, K * L, found.factors);
      blas->multiply(found.centered, count, d, scorer.model().weighted_means, K, found.dots);
    }
    const double epsilon = std::numeric_limits<T>::epsilon();
    const Rows<T> points{reinterpret_cast<const char*>(moved), static_cast<std::ptrdiff_t>(d * sizeof(T)), count,
                         first};
    const auto search = [&](auto kernel, int attempts) {
      fill_zero(stream, place.next, sizeof(int));
      launch(stream, blocks, search_threads, kernel, view, scorer.groups(), most_in_class, sum_rule, place, labels, first,
             count, epsilon, found, static_cast<const double*>(out.l2), out.n_steps, certificates);
      for (int attempt = 0; attempt < attempts; ++attempt) {
        launch_tasks(stream, count * warp_size, move_kernel<S, T>, part, scorer.model(), found, moved);
        scorer.score_groups(points, score_tolerance<double>, found.done);
        launch_tasks(stream, count * warp_size, take_kernel<S, T>, part, d, scorer.scores(), scorer.groups(),
                     static_cast<const double*>(place.class_priors), sum_rule, labels, found,
                     static_cast<const T*>(moved), out);
      }
      launch_tasks(stream, count, certify_kernel<T>, first, count, options.rtol, found, out, certificates);
    };
    search(search_kernel<false, Frame, View>, core::most_attempts);
    search(search_kernel<true, Frame, View>, core::most_explored_attempts);
  });
}

}  // namespace

template <class S>
void nearest(const DeviceModel& model, const NearestModel& parts, const Rows<S>& rows, Groups groups,
             const double* log_priors, const std::int64_t* labels, const NearestOptions& options,
             const AttackOutput<Precision<S>>& out, const CertificateOutput& certificates, const Call& call) {
  if (rows.count == 0) return;
  if (!parts.is_spherical())
    return search_rows<DiagonalFrame>(model, parts.diagonal(model.view()), rows, groups, log_priors, labels, options,
                                      out, certificates, call);
  core::GramView gram = parts.gram(model.view());
  gram.unit += core::chained_rounding_unit(std::numeric_limits<double>::epsilon(), model.n_features());
  search_rows<GramFrame>(model, gram, rows, groups, log_priors, labels, options, out, certificates, call);
}

#define MFA_INSTANTIATE(S)                                                                                            \
  template void nearest(const DeviceModel&, const NearestModel&, const Rows<S>&, Groups, const double*,               \
                        const std::int64_t*, const NearestOptions&, const AttackOutput<Precision<S>>&,                \
                        const CertificateOutput&, const Call&);
MFA_FOR_SAMPLE_TYPES(MFA_INSTANTIATE)
#undef MFA_INSTANTIATE

}  // namespace mfa::cuda
