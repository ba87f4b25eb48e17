#include "cpu/block.hpp"

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>
#include <type_traits>

#include "core/gaussian.hpp"
#include "core/reduce.hpp"
#include "core/rule.hpp"
#include "cpu/sample.hpp"

namespace mfa::cpu {
namespace {

// A multiple of every matrix product's row tile.
constexpr std::size_t tile_unit = 24;

// Rows that a third of a second-level cache holds; or more of them, where the matrix that they are multiplied with is far
// larger than that.
std::size_t tile_rows(std::size_t row_bytes, bool whole_panel) {
  const std::size_t bytes = std::size_t{160} << (whole_panel ? 12 : 10);
  return std::clamp<std::size_t>(bytes / std::max<std::size_t>(row_bytes, 1) / tile_unit * tile_unit, tile_unit,
                                 most_block_rows);
}

// At most so many to a block, and if there are enough so many blocks for each thread.
std::size_t even_rows(std::size_t n_rows, std::size_t n_threads, std::size_t most, std::size_t least_blocks) {
  const auto ceil = [](std::size_t a, std::size_t b) { return (a + b - 1) / b; };
  const std::size_t threads = std::max<std::size_t>(n_threads, 1);
  most = std::clamp<std::size_t>(n_rows / least_blocks / threads, tile_unit, most);
  const std::size_t blocks = ceil(ceil(std::max<std::size_t>(n_rows, 1), most), threads) * threads;  // as many for each
  return ceil(ceil(n_rows, blocks), tile_unit) * tile_unit;
}

}  // namespace

std::size_t block_rows(std::size_t n_rows, std::size_t n_threads) { return even_rows(n_rows, n_threads, most_block_rows, 4); }

std::size_t screened_rows(std::size_t n_rows, std::size_t row_bytes, std::size_t n_threads) {
  // Of what no second-level cache holds.
  constexpr std::size_t long_row = std::size_t{8} << 10;
  return row_bytes < long_row ? block_rows(n_rows, n_threads) : even_rows(n_rows, n_threads, 2 * most_block_rows, 1);
}

template <class T>
BlockScorer<T>::BlockScorer(const Model& model, std::size_t max_rows, bool screening)
    : model_(model),
      loops_(typed<T>(model.loops())),
      unit_(core::rounding_unit(std::numeric_limits<T>::epsilon(), model.n_features())),
      double_unit_(core::rounding_unit(std::numeric_limits<double>::epsilon(), model.n_features())),
      subspace_(screening ? model.subspace(Processor::cpu) : nullptr),
      glance_(screening ? model.glance(Processor::cpu) : nullptr),
      tile_(std::min(max_rows, tile_rows(model.n_features() * sizeof(T), subspace_ == nullptr))),
      centered_(tile_ * model.n_features()),
      squares_(model.noise() == Noise::diagonal ? tile_ * model.n_features() : 0),
      norms_(max_rows),
      values_(max_rows * model.n_components()),
      errors_(max_rows * model.n_components()),
      product_row_(max_rows),
      all_rows_(max_rows),
      all_components_(model.n_components()),
      bounds_(model, unit_, max_rows, tile_, subspace_, glance_ == nullptr ? nullptr : &glance_->subspace()),
      wider_row_(max_rows, -1),
      flagged_(model.n_components()),
      known_(max_rows, model.n_factors()),
      read_buffers_(refined_rows * model.n_features()),
      products_f32_(refined_rows * (model.n_factors() + 1)),
      products_f64_(refined_rows * (model.n_factors() + 1)),
      factors_(refined_rows * model.n_factors()),
      gradient_(refined_rows * model.n_factors()),
      scratch_(lanes_scratch(refined_rows, model.n_factors())) {
  std::iota(all_rows_.begin(), all_rows_.end(), std::size_t{0});
  std::iota(all_components_.begin(), all_components_.end(), std::size_t{0});
}

template <class T>
void BlockScorer<T>::load(const Rows& rows, std::size_t first, std::size_t count) {
  rows_ = rows;
  first_ = first;
  count_ = count;
  known_.clear(count);
  std::fill_n(wider_row_.begin(), count, -1);
  flagged_.clear();
}

template <class T>
std::size_t BlockScorer<T>::center(RowList rows) {
  for (std::size_t r = 0; r < rows.size(); ++r) {
    if (r + 1 < rows.size()) prefetch_row(rows_, first_ + rows[r + 1], 0, model_.n_features());
    norms_[rows[r]] = center_row(rows[r], r);
    if (!std::isfinite(norms_[rows[r]])) return r;
  }
  return rows.size();
}

template <class T>
double BlockScorer<T>::center_row(std::size_t i, std::size_t r) {
  const std::size_t d = model_.n_features();
  const T* x = read_row(rows_, first_ + i, 0, d, read_buffers_.data());
  T* squares = squares_.data() == nullptr ? nullptr : squares_.data() + r * d;
  return loops_.center(x, model_.center<T>(), model_.scale<T>(), d, centered_.data() + r * d, squares);
}

template <class T>
void BlockScorer<T>::center_excerpts(RowList rows) {
  const Excerpt& excerpt = glance_->excerpt();
  const Model& part = glance_->part();
  const T* center = part.center<T>();
  const T* scale = part.scale<T>();
  for (std::size_t r = 0; r < rows.size(); ++r) {
    T* out = centered_.data() + r * part.n_features();
    double norm = 0.0;
    excerpt.for_each_piece([&](std::size_t begin, std::size_t count, std::size_t at) {
      if (r + 1 < rows.size()) prefetch_row(rows_, first_ + rows[r + 1], begin, count);
      const T* x = read_row(rows_, first_ + rows[r], begin, count, read_buffers_.data());
      norm += loops_.center(x, center + at, scale == nullptr ? nullptr : scale + at, count, out + at, nullptr);
    });
    norms_[rows[r]] = norm;
  }
}

template <class T>
template <class Visit>
BadRow BlockScorer<T>::for_each_tile(RowList rows, const Visit& visit) {
  for (std::size_t first = 0; first < rows.size(); first += tile_) {
    const RowList tile = rows.subspan(first, std::min(tile_, rows.size() - first));
    const std::size_t finite = center(tile);
    if (finite < tile.size()) return first_ + tile[finite];
    visit(tile, first);
  }
  return {};
}

template <class T>
void BlockScorer<T>::log_densities(std::size_t i, const T* product, const T* square_product) {
  const std::size_t K = model_.n_components();
  DifferenceTerms terms;
  terms.n_components = K;
  terms.n_factors = model_.n_factors();
  terms.x_norm = norms_[i];
  terms.inverse_noise = model_.inverse_noise_scalars();
  terms.projected_means = model_.projected_means();
  terms.mean_norms = model_.mean_norms();
  terms.log_normalizers = model_.log_normalizers();
  terms.model_errors = model_.model_errors();
  terms.epsilon = unit_;
  loops_.log_densities(terms, product, square_product, values_.data() + i * K, errors_.data() + i * K);
}

// The rows at the head of the tile are those of the block that `rows` lists; their products go to product_ from out_row on.
template <class T>
void BlockScorer<T>::multiply(RowList rows, std::size_t out_row) {
  const ScorePanels<T>& panels = model_.panels<T>();
  const std::size_t columns = panels.columns.columns();
  const std::size_t square_columns = panels.squares.columns();
  if (product_.data() == nullptr) {
    product_ = AlignedBuffer<T>(norms_.size() * columns);
    square_product_ = AlignedBuffer<T>(norms_.size() * square_columns);
  }
  T* product = product_.data() + out_row * columns;
  T* square_product = square_product_.data() + out_row * square_columns;
  const bool diagonal = squares_.data() != nullptr;
  panels.columns.multiply(centered_.data(), rows.size(), product);
  if (diagonal) panels.squares.multiply(squares_.data(), rows.size(), square_product);
  for (std::size_t r = 0; r < rows.size(); ++r) {
    product_row_[rows[r]] = static_cast<std::int32_t>(out_row + r);
    log_densities(rows[r], product + r * columns, diagonal ? square_product + r * square_columns : nullptr);
  }
}

// The tile holds other rows by now: they are centred again.
template <class T>
void BlockScorer<T>::multiply_some() {
  for (std::size_t first = 0; first < dense_rows_.size(); first += tile_) {
    const RowList tile = RowList(dense_rows_).subspan(first, std::min(tile_, dense_rows_.size() - first));
    for (std::size_t r = 0; r < tile.size(); ++r) center_row(tile[r], r);
    multiply(tile, first);
  }
}

template <class T>
BadRow BlockScorer<T>::score_all(double tolerance) {
  const BadRow bad = for_each_tile(all_rows(), [&](RowList tile, std::size_t first) { multiply(tile, first); });
  if (bad) return bad;
  for (std::size_t i = 0; i < count_; ++i)
    for (std::size_t k = 0; k < model_.n_components(); ++k) flag_inexact(i, k, tolerance);
  score_in_double([&](BlockScorer<double>& scorer) { scorer.score_all(tolerance); });
  // How much may be left of an entry was told from its product, which may have been far off: now its value is known.
  const std::vector<Entry> told = flagged_.entries();
  refine();
  for (const Entry& entry : told) flag_inexact(entry.row, entry.component, tolerance);
  refine();
  return {};
}

// Written so that a product that overflowed (infinite or not a number) is computed again as well.
template <class T>
void BlockScorer<T>::flag_inexact(std::size_t i, std::size_t k, double tolerance) {
  const std::size_t at = i * model_.n_components() + k;
  if (const double allowed = tolerance * std::abs(values_[at]); !(errors_[at] <= allowed)) flag(i, k, allowed);
}

template <class T>
BadRow BlockScorer<T>::score_groups(Groups groups, double tolerance) {
  if (is_for_double()) return score_groups_in_double(groups, tolerance);
  RowList rows = all_rows();
  if (subspace_ != nullptr) begin_screening();
  if (glance_ != nullptr && groups.size() == 2) rows = glance_at_rows(tolerance);
  const BadRow bad = for_each_tile(rows, [&](RowList tile, std::size_t first) {
    if (subspace_ == nullptr) {
      multiply(tile, first);
      return;
    }
    bounds_.project(*subspace_, centered_.data(), tile, first, norms_.data());
    screen(groups, tolerance, tile, first);
  });
  if (bad) return bad;
  score_survivors(rows, all_rows(), groups, tolerance);
  return {};
}

template <class T>
BadRow BlockScorer<T>::score_rivals(Groups groups, const double* log_priors, Rule rule, double tolerance,
                                    std::int64_t* winners) {
  if (subspace_ == nullptr) {
    std::fill_n(winners, count_, -1);
    return score_groups(groups, tolerance);
  }
  const std::size_t n_groups = groups.size() - 1;
  candidates_.resize(norms_.size() * n_groups);
  begin_screening();
  const BadRow bad = for_each_tile(all_rows(), [&](RowList tile, std::size_t first) {
    bounds_.project(*subspace_, centered_.data(), tile, first, norms_.data());
    find_candidates(groups, log_priors, tile, first, winners);
  });
  if (bad) return bad;
  evaluate();
  open_rows_.clear();
  for (std::size_t i = 0; i < count_; ++i) {
    if (!has_rivals(groups, log_priors, rule, i, static_cast<std::size_t>(winners[i]))) continue;
    open_rows_.push_back(i);
    winners[i] = -1;
    for (std::size_t g = 0; g < n_groups; ++g) flag_candidate(i, candidates_[i * n_groups + g], tolerance);
  }
  score_survivors(open_rows_, open_rows_, groups, tolerance);
  return {};
}

template <class T>
BadRow BlockScorer<T>::score_placed_groups(Groups groups, double tolerance) {
  for (std::size_t i = 0; i < count_; ++i)
    if (!std::isfinite(norms_[i])) return first_ + i;
  begin_screening();
  for (std::size_t first = 0; first < count_; first += tile_)
    screen(groups, tolerance, all_rows().subspan(first, std::min(tile_, count_ - first)), first);
  score_survivors(all_rows(), all_rows(), groups, tolerance);
  return {};
}

template <class T>
void BlockScorer<T>::score_survivors(RowList rows, RowList exact, Groups groups, double tolerance) {
  if (subspace_ != nullptr) {
    evaluate();
    find_challengers(rows, groups);
    evaluate();
    find_survivors(groups);
    evaluate();
    multiply_some();
  }
  flag_what_matters(exact, groups, tolerance);
  score_in_double([&](BlockScorer<double>& scorer) { scorer.score_groups(groups, tolerance); });
  refine();
}

template <class T>
void BlockScorer<T>::sharpen(RowList rows, Groups groups, double tolerance) {
  flag_what_matters(rows, groups, tolerance);
  refine();
}

template <class T>
std::span<const std::size_t> BlockScorer<T>::scored(std::size_t i) {
  if (product_row_[i] >= 0 || wider_row_[i] >= 0) return {all_components_.data(), all_components_.size()};
  scored_.clear();
  known_.for_each_of(i, [&](std::size_t k) { scored_.push_back(k); });
  std::sort(scored_.begin(), scored_.end());
  return scored_;
}

template <class T>
void BlockScorer<T>::flag_what_matters(RowList rows, Groups groups, double tolerance) {
  for (const std::size_t i : rows) {
    const std::span<const std::size_t> components = scored(i);
    for (std::size_t g = 0; g + 1 < groups.size(); ++g) flag_in_group(i, components, extent_of(groups, g), tolerance);
  }
}

template <class T>
void BlockScorer<T>::flag_in_group(std::size_t i, std::span<const std::size_t> components, Extent group, double tolerance) {
  const double* values = values_.data() + i * model_.n_components();
  const double* errors = errors_.data() + i * model_.n_components();
  const auto for_each = [&](const auto& visit) {
    for (const std::size_t k : components)
      if (group.holds(k)) visit(k);
  };
  double floor = -std::numeric_limits<double>::infinity();  // no best value is below it
  for_each([&](std::size_t k) { floor = values[k] - errors[k] > floor ? values[k] - errors[k] : floor; });

  double top = -std::numeric_limits<double>::infinity();
  double largest_error = 0.0;
  double n_terms = 0.0;
  std::size_t n_best = 0;
  const auto may_matter = [&](std::size_t k) { return core::may_matter(values[k], errors[k], floor); };
  const auto may_be_best = [&](std::size_t k) { return core::may_be_best(values[k], errors[k], floor); };
  for_each([&](std::size_t k) {
    if (!may_matter(k)) return;
    top = std::max(top, values[k]);
    // Not a number where a product has overflowed.
    largest_error = std::max(largest_error, errors[k] >= 0.0 ? errors[k] : std::numeric_limits<double>::infinity());
    n_terms += 1.0;
    if (may_be_best(k)) ++n_best;
  });
  // Most are settled without the sum: it lies between the largest term and as many of them as there are.
  const double least_size = top > 0.0 ? top : -top - std::log(n_terms);
  if (n_best <= 1 && largest_error <= tolerance * (least_size - largest_error)) return;

  core::LogSumExp sum;
  for_each([&](std::size_t k) {
    if (may_matter(k)) sum.add(values[k]);
  });
  const double allowed = core::allowed_error(tolerance, sum.value(), largest_error);
  for_each([&](std::size_t k) {
    if (!may_matter(k)) return;
    const double needed = n_best > 1 && may_be_best(k) ? 0.0 : allowed;
    if (!(errors[k] <= needed || core::is_small_by_share(values[k], errors[k], floor, n_terms, needed))) flag(i, k, needed);
  });
}

template <class T>
BlockScorer<double>& BlockScorer<T>::wider() {
  if (wider_ == nullptr) wider_ = std::make_unique<BlockScorer<double>>(model_, norms_.size(), false);
  return *wider_;
}

template <class T>
void BlockScorer<T>::take_from_wider(std::size_t i, std::size_t r) {
  const std::size_t K = model_.n_components();
  wider_row_[i] = static_cast<std::int32_t>(r);
  norms_[i] = wider_->norms_[r];
  std::copy_n(wider_->values(r), K, values_.data() + i * K);
  std::copy_n(wider_->errors(r), K, errors_.data() + i * K);
}

template <class T>
bool BlockScorer<T>::is_for_double() const {
  if constexpr (std::is_same_v<T, float>) {
    if (subspace_ != nullptr || is_trial_ || model_.n_components() == 1) return false;
    return model_.is_for_double([&] {
      constexpr std::size_t n = 16;
      std::vector<double> weights(model_.n_components());
      for (std::size_t k = 0; k < weights.size(); ++k) weights[k] = std::exp(model_.log_weight(k));
      std::vector<float> samples(n * model_.n_features());
      std::vector<std::int64_t> labels(n);
      sample(model_, weights.data(), 0, 0, n, true, samples.data(), labels.data(), 1);
      BlockScorer trial(model_, n, false);
      trial.is_trial_ = true;
      trial.load(rows_in_line(samples.data(), n, model_.n_features()), 0, n);
      if (trial.score_groups(model_.groups(), score_tolerance<float>)) return false;
      // A product in double takes as long as two in float.
      const auto open = std::count_if(trial.wider_row_.begin(), trial.wider_row_.end(), [](auto row) { return row >= 0; });
      return 4 * open > 3 * static_cast<std::ptrdiff_t>(n);
    });
  } else {
    return false;
  }
}

template <class T>
BadRow BlockScorer<T>::score_groups_in_double(Groups groups, double tolerance) {
  wider().load(rows_, first_, count_);
  if (const BadRow bad = wider_->score_groups(groups, tolerance)) return bad;
  for (std::size_t i = 0; i < count_; ++i) take_from_wider(i, i);
  return {};
}

template <class T>
template <class Score>
void BlockScorer<T>::score_in_double(const Score& score) {
  if constexpr (std::is_same_v<T, float>) {
    // How many it has is a row's own matter: it is scored in the same way whatever rows are beside it.
    const std::vector<std::size_t> members = flagged_.take_rows_of_many(too_many());
    if (members.empty()) return;
    const std::size_t d = model_.n_features();
    if (wider_rows_.data() == nullptr) wider_rows_ = AlignedBuffer<float>(norms_.size() * d);
    for (std::size_t r = 0; r < members.size(); ++r)
      std::copy_n(read_row(rows_, first_ + members[r], 0, d, read_buffers_.data()), d, wider_rows_.data() + r * d);
    wider().load(rows_in_line(wider_rows_.data(), members.size(), d), 0, members.size());
    score(*wider_);
    for (std::size_t r = 0; r < members.size(); ++r) take_from_wider(members[r], r);
  }
}

template class BlockScorer<float>;
template class BlockScorer<double>;

}  // namespace mfa::cpu
