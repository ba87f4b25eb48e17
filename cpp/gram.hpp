// Inner products of all that a model with spherical noise is made of: what the search for the nearest adversarial example
// needs instead of the features. Made once per model, in float64, on the host.
#pragma once

#include <atomic>
#include <cstddef>
#include <memory>
#include <vector>

#include "cpu/parallel.hpp"
#include "model.hpp"

namespace mfa {

// H_st - (w_t - w_s) I = V_s V_s^T - V_t V_t^T of two components s < t in its eigenvectors, theory.md (30).
struct PairEigen {
  std::size_t rank = 0;
  std::vector<double> eigenvalues;  // (rank)
  std::vector<double> vectors;      // (rank, 2 L): coefficients of the eigenvectors on [V_s, V_t]
  double error = 0.0;               // bound on what the eigenvalues are off by
};

class Gram {
 public:
  // The model must outlive it.
  Gram(const Model& model, const cpu::Execution& execution);
  ~Gram();

  const Model& model() const { return model_; }
  // Scores are multiplied by the least noise variance, which makes them squared distances in size.
  double kappa() const { return kappa_; }
  double weight(std::size_t k) const { return weights_[k]; }  // kappa / s_k
  bool equal_noise() const { return equal_noise_; }

  // Columns, component after component: the L of V_k = (kappa / s_k)^(1/2) A_k (s_k I + A_k^T A_k)^(-1/2), and
  // mu_k - center; at last the probe, a direction that is in no component's subspace.
  std::size_t columns_per_component() const { return model_.n_factors() + 1; }
  std::size_t n_columns() const { return model_.n_components() * columns_per_component() + 1; }
  std::size_t column(std::size_t k, std::size_t l) const { return k * columns_per_component() + l; }
  std::size_t probe() const { return n_columns() - 1; }
  // Their inner products with column i, (n_columns).
  const double* products(std::size_t i) const { return products_.data() + i * n_columns(); }
  // Inner products (n_columns) of a row with the columns, from its row of the model's matrix product and |x - center|^2.
  void gather(const double* product, const double* centered, double* out) const;
  // out (d) += factor * column i.
  void add_column(std::size_t i, double factor, double* out) const;

  // Of components s < t; kept while there is room, else made into `scratch`.
  const PairEigen& pair(std::size_t s, std::size_t t, PairEigen& scratch) const;

 private:
  double scale(std::size_t l, std::size_t k) const;
  void make_pair(std::size_t s, std::size_t t, PairEigen& out) const;

  const Model& model_;
  double kappa_;
  bool equal_noise_;
  std::vector<double> weights_;   // (K)
  std::vector<double> products_;  // (n_columns, n_columns)
  std::vector<double> probe_;     // (d)
  mutable std::vector<std::atomic<const PairEigen*>> pairs_;  // (K, K), above the diagonal
  mutable std::atomic<std::size_t> room_;                     // bytes left for pairs
};

}  // namespace mfa
