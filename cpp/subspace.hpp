// A model in a few of its leading directions, and what is left of every component outside of them: what screening needs.
// Made once per model, in float64, on the host.
#pragma once

#include <cstddef>
#include <memory>
#include <vector>

#include "directions.hpp"
#include "model.hpp"

namespace mfa {

class Subspace {
 public:
  // Of the first `count` of the directions.
  Subspace(const Model& model, const Directions& directions, std::size_t count);

  // Of as many directions as make scoring cheapest; null where it is cheapest without. `near`, unless null, is one of a
  // similar model, whose choice is kept and whose directions are a start.
  static std::unique_ptr<Subspace> choose(const Model& model, const Subspace* near);

  std::size_t n_directions() const { return n_directions_; }
  // The model's shadow: its means about the centre, and its loadings, in the basis; noise s I.
  const Model& shadow() const { return *shadow_; }
  // Columns are the directions, for rows as BlockScorer keeps them: centred, and scaled where the noise is shared.
  template <class T>
  const cpu::Panel<T>& basis() const;
  // What bounds are made of, but for the row's own numbers; `epsilon` is the rounding unit of the products.
  cpu::ScreenTerms terms(const Model& model, double epsilon) const;
  // The shadow's factors are rotated: z (L) of component k becomes the model's.
  void to_model_factors(std::size_t k, double* z) const;

 private:
  std::size_t n_directions_;
  std::vector<double> directions_;  // all that were found (count, d), for the next model
  std::unique_ptr<Model> shadow_;
  std::vector<double> rotations_;                                           // (K, L, L)
  std::vector<double> spreads_by_factor_;                                   // (L, K)
  std::vector<double> means_left_, spreads_, inverse_noise_roots_, inverse_weights_;  // (K)
  cpu::Panel<float> basis_f32_;
  cpu::Panel<double> basis_f64_;
};

}  // namespace mfa
