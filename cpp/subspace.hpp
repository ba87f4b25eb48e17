// A model in a few of its leading directions, and what is left of every component outside of them: what screening needs.
// Made once per model, in float64, on the host.
#pragma once

#include <cstddef>
#include <memory>
#include <optional>
#include <vector>

#include "cpu/once.hpp"
#include "directions.hpp"
#include "model.hpp"

namespace mfa {

// Numbers of directions that a subspace may have: kernels may be made for each. Multiples of every vector's width, so that
// products with them have no columns more.
inline constexpr std::size_t direction_counts[] = {16, 32, 48, 64, 96, 128};

class Subspace {
 public:
  // Of the first `count` of the directions. Bounds are of c_k - q / 2 with these c_k (K), the model's own or another's.
  Subspace(const Model& model, std::shared_ptr<const Directions> directions, std::size_t count, const double* log_normalizers);

  // As many directions as may be of use, null where that is none; `near`, unless null, are a similar model's.
  static std::shared_ptr<const Directions> find_directions(const Model& model, Processor processor, const Directions* near);
  // Of as many of the directions as make scoring cheapest; null where it is cheapest without. `near`, if any, is what a similar
  // model has chosen: as long as its directions are kept, so is their number.
  static std::shared_ptr<const Subspace> choose(const Model& model, Processor processor,
                                                const std::shared_ptr<const Directions>& directions,
                                                const std::optional<std::shared_ptr<const Subspace>>& near);

  std::size_t n_directions() const { return n_directions_; }
  const Directions& directions() const { return *directions_; }
  // The model's shadow: its means about the centre, and its loadings, in the basis; noise s I.
  const Model& shadow() const { return *shadow_; }
  // Columns are the directions, for rows as BlockScorer keeps them: centred, and scaled but for spherical noise.
  template <class T>
  const cpu::Panel<T>& basis() const;  // laid out when first asked for
  const double* direction(std::size_t r) const { return directions_->direction(r); }
  // What bounds are made of, but for the row's own numbers; `epsilon` is the rounding unit of the products.
  template <class T>
  cpu::ScreenTerms<T> terms(double epsilon) const;
  // The shadow's factors are rotated: z (L) of component k, the model's, become these.
  void to_shadow_factors(std::size_t k, const double* z, double* out) const;

  // A bound on the terms that S_k^-1 (x - mu_k) is the sum of; `x_length` is |x|, about the centre.
  double precision_product_size(std::size_t k, double x_length, const double* z) const;
  // In all features: |mu_k| about the centre, |A_k|_F.
  double mean_length(std::size_t k) const { return mean_lengths_[k]; }
  double loading_length(std::size_t k) const { return loading_lengths_[k]; }

 private:
  // What terms() points to, rounded to the side on which the bounds stay bounds.
  template <class T>
  struct Rounded {
    std::vector<T> projected_means, spreads_by_factor;  // (L, K)
    std::vector<T> mean_norms, model_errors, means_left, spreads, inverse_noise_roots, inverse_weights, log_normalizers;
  };
  template <class T>
  const Rounded<T>& rounded() const;
  template <class T>
  void round(const Rounded<double>& exact, Rounded<T>& out) const;
  template <class T>
  const cpu::Panel<T>& lay_out(cpu::Once<cpu::Panel<T>>& basis) const;

  std::size_t n_directions_;
  std::shared_ptr<const Directions> directions_;  // all that were found, and more than these
  std::unique_ptr<Model> shadow_;
  std::vector<double> rotations_;  // (K, L, L)
  std::vector<double> mean_lengths_, loading_lengths_;  // (K), in all features
  Rounded<float> rounded_f32_;
  Rounded<double> rounded_f64_;
  mutable cpu::Once<cpu::Panel<float>> basis_f32_;
  mutable cpu::Once<cpu::Panel<double>> basis_f64_;
};

}  // namespace mfa
