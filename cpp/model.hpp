// Parameters -> packed model. Everything delicate happens here, once per model, in float64 on the host.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <mutex>
#include <optional>
#include <span>
#include <vector>

#include "core/views.hpp"
#include "cpu/isa.hpp"
#include "cpu/once.hpp"
#include "cpu/panel.hpp"
#include "cpu/parallel.hpp"

namespace mfa {

enum class Noise {
  spherical,  // D_k = s_k I
  shared,     // one diagonal D for all components: the features are scaled by D^-1/2 and the noise becomes I
  diagonal,   // a diagonal D_k each: features scaled by their geometric mean D^-1/2; |x|^2_D is a matrix product of its own
};

// The right-hand sides of the matrix products that all scores come from.
template <class T>
struct ScorePanels {
  cpu::Panel<T> columns;  // column l K + k is D_k^-1 A_k C_k^-T [:, l]; the last K are D_k^-1 (mu_k - center)
  cpu::Panel<T> squares;  // with diagonal noise: column k is D_k^-1, to be multiplied with squares
};

struct Parameters {
  std::size_t n_components, n_factors, n_features;
  const double* weights;         // (K)
  const double* means;           // (K, d)
  const double* loadings;        // (K, L, d)
  const double* noise_variance;  // (K, d)
  const double* center = nullptr;  // (d); null for the mean of the means
  // Components [groups[g], groups[g + 1]) will be scored as a class of its own, if one likes: how much screening is worth
  // depends on it, and no result does beyond rounding. Empty for one group of all.
  std::span<const std::int64_t> groups = {};
};

// What scores are made on: what is quick on one may be slow on the other.
enum class Processor { cpu, cuda };

class Directions;
class Glance;
class Subspace;

// What was found for screening on each processor: the directions that were looked at; the subspace of those that it uses; and
// what it looks at first. Of the last two null where it would not pay, nothing where it has not been asked for.
struct Screening {
  std::array<std::shared_ptr<const Directions>, 2> directions;
  std::array<std::optional<std::shared_ptr<const Subspace>>, 2> subspaces;
  std::array<std::optional<std::shared_ptr<const Glance>>, 2> glances;
};

class Model {
 public:
  // `near`, unless null, is a similar model: what screening has found for it by now is taken up. The threads are for what is
  // made here and when first asked for; how many they are shows in no number.
  Model(const Parameters& parameters, const cpu::Loops& loops, const Model* near = nullptr, std::size_t n_threads = 1);
  ~Model();

  // Calls work(k), of make_work() in every thread, for all components; one takes some `nanoseconds`.
  template <class MakeWork>
  void for_each_component(std::size_t nanoseconds, MakeWork make_work) const {
    const double all = 1e-3 * static_cast<double>(nanoseconds * n_components_);
    cpu::parallel_for(n_components_, cpu::threads_for(all, n_threads_), make_work);
  }

  // Whether what the scores are made of is: parameters may be finite and their squares not.
  bool is_finite() const;

  std::size_t n_components() const { return n_components_; }
  std::size_t n_factors() const { return n_factors_; }
  std::size_t n_features() const { return n_features_; }
  Noise noise() const { return noise_; }
  const cpu::Loops& loops() const { return loops_; }
  std::size_t n_threads() const { return n_threads_; }
  // (n_groups + 1), from 0 to the number of components.
  std::span<const std::int64_t> groups() const { return groups_; }

  ComponentView component(std::size_t k) const;
  double log_weight(std::size_t k) const { return log_weights_[k]; }
  const double* noise_variance(std::size_t k) const { return noise_variance_.data() + k * n_features_; }

  // Features are centred and, but for spherical noise, scaled before the product. The centre is made of floats, so that
  // it is the same for rows of either type.
  template <class T>
  const T* center() const;
  template <class T>
  const T* scale() const;  // null for 1
  // What the difference form needs besides the panel; each indexed by component (projected means as the panel's columns,
  // without the last K).
  const double* inverse_noise_scalars() const { return inverse_scalars_.data(); }
  const double* projected_means() const { return projected_means_.data(); }
  const double* mean_norms() const { return mean_norms_.data(); }
  const double* log_normalizers() const { return log_normalizers_.data(); }
  const double* model_errors() const { return model_errors_.data(); }
  double column_error() const;  // the largest relative error of what M's factors are applied to
  // Of component k, in scaled features.
  double largest_noise(std::size_t k) const { return largest_noise_[k]; }
  double mean_noise(std::size_t k) const;
  // Of all features of all components.
  double least_noise_std() const;
  const double* posterior_covariance(std::size_t k) const {
    return posterior_covariances_.data() + k * n_factors_ * n_factors_;
  }

  template <class T>
  const ScorePanels<T>& panels() const;  // built when first asked for
  // One component as the difference form reads it for single rows, about its own mean and in unscaled features.
  template <class T>
  cpu::DifferenceView<T> difference(std::size_t k) const;
  // |mu - mu rounded to T|_D.
  template <class T>
  double mean_rounding(std::size_t k) const;
  // What screening needs; null where it would not pay.
  const Subspace* subspace(Processor processor) const;
  // What screening looks at first, where all components are one group; null where that would not pay.
  const Glance* glance(Processor processor) const;
  // Whether float is too coarse for matrix products with all components, as try_out() says when it is first asked for.
  template <class TryOut>
  bool is_for_double(const TryOut& try_out) const {
    return in_double_.get(try_out);
  }
  Screening found_screening() const;  // so far

 private:
  // Components for the difference form, one by one.
  template <class T>
  struct Single {
    cpu::AlignedBuffer<T> means, columns, inverse_noise;  // (K, d), (K, L, d), (K, d)
    std::vector<double> mean_rounding;                    // (K)
  };
  template <class T>
  struct Lazy {
    cpu::Once<ScorePanels<T>> panels;
    cpu::Once<Single<T>> single;
  };
  template <class T>
  Lazy<T>& lazy() const;
  void classify_noise();
  void factorize(const double* loadings);  // and takes them over, which touches much new memory
  template <class T>
  ScorePanels<T> make_panels() const;
  template <class T>
  Single<T> make_single() const;
  template <class T>
  const Single<T>& single() const;
  // D^-1 A C^-T (L, d), with feature j of D^-1 replaced by weight(j).
  template <class Weight>
  void columns(std::size_t k, const Weight& weight, double* out) const;
  double inverse_noise(std::size_t k, std::size_t j) const;
  double column_weight(std::size_t k, std::size_t j) const;
  template <class Part>
  Part take_near(Part& part) const;  // of near_, which does not keep it
  double scaled_noise(std::size_t k, std::size_t j) const;

  std::size_t n_components_, n_factors_, n_features_;
  const cpu::Loops& loops_;
  std::size_t n_threads_;
  Noise noise_ = Noise::spherical;
  std::vector<double> log_weights_, noise_variance_;
  cpu::AlignedBuffer<double> means_, loadings_;  // (K, d), (K, L, d)
  std::vector<double> center_, scale_, inverse_noise_, inverse_scalars_, largest_noise_;
  std::vector<float> center_f32_, scale_f32_;
  std::vector<double> cholesky_, log_normalizers_, model_errors_, projected_means_, mean_norms_, posterior_covariances_;
  mutable Lazy<float> lazy_f32_;
  mutable Lazy<double> lazy_f64_;
  std::vector<std::int64_t> groups_;
  mutable std::array<cpu::Once<std::shared_ptr<const Directions>>, 2> directions_;
  mutable std::array<cpu::Once<std::shared_ptr<const Subspace>>, 2> subspaces_;
  mutable std::array<cpu::Once<std::shared_ptr<const Glance>>, 2> glances_;
  mutable cpu::Once<bool> in_double_;
  mutable std::mutex mutex_;  // guards the one below
  mutable Screening near_;    // a similar model's
};

}  // namespace mfa
