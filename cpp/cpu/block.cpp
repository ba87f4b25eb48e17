#include "cpu/block.hpp"

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>

#include "core/reduce.hpp"
#include "core/screening.hpp"

namespace mfa::cpu {
namespace {

// By how many times q the first factors may overestimate it: three digits of sixteen are lost in the difference.
constexpr double largest_correction = 1e3;

}  // namespace

std::size_t block_rows(std::size_t n_rows, std::size_t n_threads) {
  constexpr std::size_t unit = 24;  // a multiple of every matrix product's row tile
  const std::size_t wanted = n_rows / 4 / std::max<std::size_t>(n_threads, 1) / unit * unit;
  return std::clamp<std::size_t>(wanted, unit, 480);
}

template <class T>
BlockScorer<T>::BlockScorer(const Model& model, std::size_t max_rows, bool screening)
    : model_(model),
      loops_(typed<T>(model.loops())),
      unit_(core::rounding_unit(std::numeric_limits<T>::epsilon(), model.n_features())),
      double_unit_(core::lane_rounding_unit(model.n_features())),
      subspace_(screening ? model.subspace() : nullptr),
      centered_(max_rows * model.n_features()),
      squares_(model.noise() == Noise::diagonal ? max_rows * model.n_features() : 0),
      norms_(max_rows),
      values_(max_rows * model.n_components()),
      errors_(max_rows * model.n_components()),
      read_buffers_(refined_rows * model.n_features()),
      product_row_(max_rows),
      starts_(model.n_components() + 1),
      slot_(max_rows * model.n_components(), -1),
      last_slot_(max_rows, -1),
      factors_(refined_rows * model.n_factors()),
      gradient_(refined_rows * model.n_factors()),
      scratch_(residual_scratch(refined_rows, model.n_factors())) {
  if (subspace_ == nullptr) return;
  coordinates_ = AlignedBuffer<T>(max_rows * subspace_->template basis<T>().columns());
  shadow_product_ = AlignedBuffer<T>(max_rows * subspace_->shadow().template panels<T>().columns.columns());
  upper_.resize(max_rows * model.n_components());
  guess_.resize(model.n_components());
  dot_products_.resize(refined_rows * (model.n_factors() + 1));
}

template <class T>
bool BlockScorer<T>::load(const Rows& rows, std::size_t first, std::size_t count) {
  const std::size_t d = model_.n_features();
  rows_ = rows;
  first_ = first;
  count_ = count;
  for (const Slot& entry : slotted_) slot_[entry.row * model_.n_components() + entry.component] = -1;
  slotted_.clear();
  std::fill(last_slot_.begin(), last_slot_.end(), -1);
  flagged_.clear();
  for (std::size_t i = 0; i < count; ++i) {
    const T* x = read_row(rows, first + i, 0, d, read_buffers_.data());
    T* squares = squares_.data() == nullptr ? nullptr : squares_.data() + i * d;
    norms_[i] = loops_.center(x, model_.center<T>(), model_.scale<T>(), d, centered_.data() + i * d, squares);
    if (!std::isfinite(norms_[i])) {
      bad_row_ = first + i;
      return false;
    }
  }
  return true;
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

// Made when first wanted: with screening that may be never.
template <class T>
const ScorePanels<T>& BlockScorer<T>::prepare_products() {
  const ScorePanels<T>& panels = model_.panels<T>();
  if (product_.data() == nullptr) {
    product_ = AlignedBuffer<T>(norms_.size() * panels.columns.columns());
    square_product_ = AlignedBuffer<T>(norms_.size() * panels.squares.columns());
  }
  return panels;
}

template <class T>
void BlockScorer<T>::multiply_all() {
  const ScorePanels<T>& panels = prepare_products();
  panels.columns.multiply(centered_.data(), count_, product_.data());
  const bool diagonal = squares_.data() != nullptr;
  if (diagonal) panels.squares.multiply(squares_.data(), count_, square_product_.data());
  for (std::size_t i = 0; i < count_; ++i) {
    product_row_[i] = static_cast<std::int32_t>(i);
    log_densities(i, product_.data() + i * panels.columns.columns(),
                  diagonal ? square_product_.data() + i * panels.squares.columns() : nullptr);
  }
}

template <class T>
void BlockScorer<T>::multiply_some() {
  if (dense_rows_.empty()) return;
  const ScorePanels<T>& panels = prepare_products();
  const std::size_t d = model_.n_features();
  const std::size_t n = dense_rows_.size();
  const bool diagonal = squares_.data() != nullptr;
  const auto gather = [&](const AlignedBuffer<T>& from, AlignedBuffer<T>& to) {
    if (to.data() == nullptr) to = AlignedBuffer<T>(norms_.size() * d);
    for (std::size_t r = 0; r < n; ++r) std::copy_n(from.data() + dense_rows_[r] * d, d, to.data() + r * d);
  };
  gather(centered_, gathered_);
  panels.columns.multiply(gathered_.data(), n, product_.data());
  if (diagonal) {
    gather(squares_, gathered_squares_);
    panels.squares.multiply(gathered_squares_.data(), n, square_product_.data());
  }
  for (std::size_t r = 0; r < n; ++r) {
    product_row_[dense_rows_[r]] = static_cast<std::int32_t>(r);
    log_densities(dense_rows_[r], product_.data() + r * panels.columns.columns(),
                  diagonal ? square_product_.data() + r * panels.squares.columns() : nullptr);
  }
}

template <class T>
void BlockScorer<T>::score_all(double tolerance) {
  multiply_all();
  const std::size_t K = model_.n_components();
  for (std::size_t i = 0; i < count_; ++i)
    for (std::size_t k = 0; k < K; ++k)
      // Written so that a product that overflowed (infinite or not a number) is computed again as well.
      if (const double allowed = tolerance * std::abs(values_[i * K + k]); !(errors_[i * K + k] <= allowed))
        flag(i, k, allowed);
  refine();
}

template <class T>
void BlockScorer<T>::score_groups(Groups groups, double tolerance) {
  if (subspace_ == nullptr) {
    multiply_all();
  } else {
    screen(groups, tolerance);
    evaluate();
    find_survivors(groups);
    evaluate();
    multiply_some();
  }
  flag_what_matters(groups, tolerance);
  refine();
}

template <class T>
std::span<const std::size_t> BlockScorer<T>::scored(std::size_t i) {
  if (product_row_[i] >= 0) {
    scored_.resize(model_.n_components());
    std::iota(scored_.begin(), scored_.end(), std::size_t{0});
  } else {
    scored_.clear();
    for (std::int32_t slot = last_slot_[i]; slot >= 0; slot = slotted_[static_cast<std::size_t>(slot)].before)
      scored_.push_back(slotted_[static_cast<std::size_t>(slot)].component);
  }
  return scored_;
}

template <class T>
void BlockScorer<T>::flag_what_matters(Groups groups, double tolerance) {
  for (std::size_t i = 0; i < count_; ++i) {
    scored(i);
    for (std::size_t g = 0; g + 1 < groups.size(); ++g)
      flag_in_group(i, static_cast<std::size_t>(groups[g]), static_cast<std::size_t>(groups[g + 1]), tolerance);
  }
}

template <class T>
void BlockScorer<T>::flag_in_group(std::size_t i, std::size_t begin, std::size_t end, double tolerance) {
  const double* values = values_.data() + i * model_.n_components();
  const double* errors = errors_.data() + i * model_.n_components();
  const auto for_each = [&](const auto& visit) {
    for (const std::size_t k : scored_)
      if (k >= begin && k < end) visit(k);
  };
  double floor = -std::numeric_limits<double>::infinity();  // no best value is below it
  for_each([&](std::size_t k) { floor = values[k] - errors[k] > floor ? values[k] - errors[k] : floor; });

  double top = -std::numeric_limits<double>::infinity();
  double largest_error = 0.0;
  double n_terms = 0.0;
  std::size_t n_best = 0;
  const auto may_matter = [&](std::size_t k) { return !(values[k] + errors[k] < floor - core::negligible_nats); };
  const auto may_be_best = [&](std::size_t k) { return !(values[k] + errors[k] < floor); };
  for_each([&](std::size_t k) {
    if (!may_matter(k)) return;
    top = std::max(top, values[k]);
    largest_error = std::max(largest_error, errors[k]);
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
  // The sum is known to the largest error at this point; what may be left of it sets what is allowed. Errors enter the
  // sum by their components' shares: those within what is allowed keep it there together, and the others may stay as
  // they are where their shares are small enough.
  const double allowed = tolerance * std::max(0.0, std::abs(sum.value()) - largest_error);
  for_each([&](std::size_t k) {
    if (!may_matter(k)) return;
    const double needed = n_best > 1 && may_be_best(k) ? 0.0 : allowed;
    const auto small = [&] {
      const double share = std::exp(std::min(0.0, values[k] + errors[k] - floor));
      return errors[k] * share * n_terms <= 0.1 * needed;
    };
    if (!(errors[k] <= needed || small())) flag(i, k, needed);
  });
}

template <class T>
void BlockScorer<T>::sort_flagged() {
  std::fill(starts_.begin(), starts_.end(), 0);
  for (const Entry& entry : flagged_) ++starts_[entry.component + 1];
  for (std::size_t k = 0; k + 1 < starts_.size(); ++k) starts_[k + 1] += starts_[k];
  order_.resize(flagged_.size());
  std::vector<std::size_t> next(starts_.begin(), starts_.end() - 1);
  for (std::size_t e = 0; e < flagged_.size(); ++e) order_[next[flagged_[e].component]++] = e;
}

template <class T>
void BlockScorer<T>::refine() {
  if (flagged_.empty()) return;
  sort_flagged();
  reserve_slots();
  for (std::size_t k = 0; k + 1 < starts_.size(); ++k)
    for (std::size_t at = starts_[k]; at < starts_[k + 1]; at += refined_rows)
      refine_rows(k, order_.data() + at, std::min(refined_rows, starts_[k + 1] - at));
  flagged_.clear();
}

// About |x|^2_D + |mu|^2_D, with x and mu about the centre.
template <class T>
double BlockScorer<T>::norms(std::size_t i, std::size_t k) const {
  return norms_[i] / model_.largest_noise(k) + model_.mean_norms()[k];
}

// In double the difference form is good enough for most, and takes half the time of the residual form.
template <class T>
void BlockScorer<T>::refine_rows(std::size_t k, const std::size_t* members, std::size_t count) {
  std::size_t difference[refined_rows], residual[refined_rows];
  std::size_t n_difference = 0, n_residual = 0;
  for (std::size_t r = 0; r < count; ++r) {
    const Entry& entry = flagged_[members[r]];
    const double error = core::difference_form_error(norms(entry.row, k), double_unit_, model_.model_errors()[k]);
    if (error <= entry.allowed) difference[n_difference++] = members[r];
    else residual[n_residual++] = members[r];
  }
  if (n_difference > 0) refine_in_double(k, difference, n_difference, true);
  if (n_residual > 0) refine_in_double(k, residual, n_residual, false);
}

// Both forms are (8), from z = 0 or from the factors that are known so far: what is taken off q(z) is as small as their
// error. A row settles where what the difference may be off by is allowed, or else where it is so small a part of q that
// no digit of it is lost; until then it takes another pass. Rows that have settled stay as they are, so that none depends
// on the rows beside it.
template <class T>
void BlockScorer<T>::refine_in_double(std::size_t k, const std::size_t* members, std::size_t count, bool from_zero) {
  const std::size_t d = model_.n_features();
  const std::size_t K = model_.n_components();
  const std::size_t n = model_.n_factors();
  const ComponentView component = model_.component(k);
  const T* x[refined_rows];
  double* z = factors_.data();
  for (std::size_t r = 0; r < count; ++r) {
    const std::size_t i = flagged_[members[r]].row;
    x[r] = read_row(rows_, first_ + i, 0, d, read_buffers_.data() + r * d);
    if (from_zero) std::fill_n(z + r * n, n, 0.0);
    else factors(i, k, z + r * n);
  }

  double q[refined_rows];
  double mahalanobis[refined_rows];
  double error[refined_rows] = {};
  bool settled[refined_rows] = {};
  constexpr int max_passes = 4;
  for (int pass = 0; pass < max_passes && !std::all_of(settled, settled + count, [](bool s) { return s; }); ++pass) {
    const bool at_zero = from_zero && pass == 0;
    loops_.residual_form(x, count, component, at_zero ? nullptr : z, scratch_.data(), q, gradient_.data());
    for (std::size_t r = 0; r < count; ++r) {
      if (settled[r]) continue;
      const double taken_off =
          core::complete_residual_form(n, component.cholesky, z + r * n, gradient_.data() + r * n);
      const double rest = q[r] - taken_off;
      mahalanobis[r] = rest < 0.0 ? 0.0 : rest;  // not a number stays what it is
      error[r] = at_zero ? core::difference_form_error(q[r], double_unit_, model_.model_errors()[k]) : 0.0;
      settled[r] = at_zero ? error[r] <= flagged_[members[r]].allowed
                           : taken_off <= largest_correction * mahalanobis[r];
    }
  }
  for (std::size_t r = 0; r < count; ++r) {
    const std::size_t i = flagged_[members[r]].row;
    values_[i * K + k] = core::log_density(model_.log_normalizers()[k], mahalanobis[r]);
    errors_[i * K + k] = error[r];  // 0: as good as it gets
    std::copy_n(z + r * n, n, &slot_factors(i, k, true));
  }
}

template <class T>
void BlockScorer<T>::reserve_slots() {
  const std::size_t most = slotted_.size() + flagged_.size();
  slotted_.reserve(most);
  if (slot_factors_.size() < most * model_.n_factors() + 1) slot_factors_.resize(2 * most * model_.n_factors() + 1);
}

// The place of an entry's factors z, or of v = C^T z where they are not solved for, made if there is none yet.
template <class T>
double& BlockScorer<T>::slot_factors(std::size_t i, std::size_t k, bool solved) {
  std::int32_t& slot = slot_[i * model_.n_components() + k];
  if (slot < 0) {
    slot = static_cast<std::int32_t>(slotted_.size());
    slotted_.push_back({i, k, last_slot_[i], solved});
    last_slot_[i] = slot;
  }
  slotted_[static_cast<std::size_t>(slot)].solved = solved;
  return slot_factors_[static_cast<std::size_t>(slot) * model_.n_factors()];
}

template <class T>
void BlockScorer<T>::factors_of(const Model& model, const T* product, std::size_t k, double* z) const {
  const std::size_t K = model.n_components();
  const std::size_t n = model.n_factors();
  bool finite = true;
  for (std::size_t l = 0; l < n; ++l) {
    z[l] = static_cast<double>(product[l * K + k]) - model.projected_means()[l * K + k];
    finite = finite && std::isfinite(z[l]);
  }
  if (!finite) std::fill_n(z, n, 0.0);
  core::solve_lower_transposed(n, model.component(k).cholesky, z);
}

template <class T>
void BlockScorer<T>::factors(std::size_t i, std::size_t k, double* z) const {
  const std::int32_t slot = slot_[i * model_.n_components() + k];
  if (slot >= 0) {
    std::copy_n(slot_factors_.data() + static_cast<std::size_t>(slot) * model_.n_factors(), model_.n_factors(), z);
    if (!slotted_[static_cast<std::size_t>(slot)].solved)
      core::solve_lower_transposed(model_.n_factors(), model_.component(k).cholesky, z);
  } else if (product_row_[i] >= 0) {
    const auto row = static_cast<std::size_t>(product_row_[i]);
    factors_of(model_, product_.data() + row * model_.panels<T>().columns.columns(), k, z);
  } else {
    const Model& shadow = subspace_->shadow();
    factors_of(shadow, shadow_product_.data() + i * shadow.panels<T>().columns.columns(), k, z);
    subspace_->to_model_factors(k, z);
  }
}

template class BlockScorer<float>;
template class BlockScorer<double>;

}  // namespace mfa::cpu
