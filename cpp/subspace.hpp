// A few directions in which a model's parameters extend most, and what is left of every component outside of them: what
// screening needs. Made once per model, in float64, on the host.
#pragma once

#include <cstddef>
#include <memory>
#include <vector>

#include "model.hpp"

namespace mfa {

class Subspace {
 public:
  Subspace(const Model& model, std::size_t n_directions);

  std::size_t n_directions() const { return n_directions_; }
  // The model's shadow: its means about the centre, and its loadings, in the basis; noise s I.
  const Model& shadow() const { return *shadow_; }
  // What is outside the subspace, by component (core/screening.hpp).
  const double* means_left() const { return means_left_.data(); }
  const double* loadings_left() const { return loadings_left_.data(); }
  const double* inverse_roots() const { return inverse_roots_.data(); }
  // The shadow's factors are rotated, so that I + A_y^T A_y / s is diagonal: its inverse eigenvalues (L, K), and the
  // rotation (L, L) that takes the shadow's factors back to the model's, for component k.
  const double* inverse_eigenvalues() const { return inverse_eigenvalues_.data(); }
  void to_model_factors(std::size_t k, double* z) const;
  const double* inverse_noise_roots() const { return inverse_noise_roots_.data(); }
  const double* inverse_weights() const { return inverse_weights_.data(); }
  // Columns are the directions, for rows as BlockScorer keeps them: centred, and scaled where the noise is shared.
  template <class T>
  const cpu::Panel<T>& basis() const;

 private:
  void find_basis(const std::vector<double>& rows, const cpu::Loops& loops);

  std::size_t n_directions_, n_features_;
  std::vector<double> directions_;  // (R, d)
  std::unique_ptr<Model> shadow_;
  std::vector<double> rotations_, inverse_eigenvalues_;
  std::vector<double> means_left_, loadings_left_, inverse_roots_, inverse_noise_roots_, inverse_weights_;  // (K)
  cpu::Panel<float> basis_f32_;
  cpu::Panel<double> basis_f64_;
};

}  // namespace mfa
