// Inner products of all that a model with spherical noise is made of: what the search for the nearest adversarial example
// needs instead of the features. Made once per model, in float64, on the host.
#pragma once

#include <atomic>
#include <cstddef>
#include <vector>

#include "core/gram_frame.hpp"
#include "cpu/parallel.hpp"
#include "model.hpp"

namespace mfa {

// H_st - (w_t - w_s) I = V_s V_s^T - V_t V_t^T of two components s < t in its eigenvectors, theory.md (30).
struct PairEigen {
  std::size_t rank = 0;
  std::vector<double> eigenvalues;  // (rank)
  std::vector<double> vectors;      // (rank, 2 L): coefficients of the eigenvectors on [V_s, V_t]
  double error = 0.0;               // bound on what the eigenvalues are off by
  double length_error = 0.0;        // and on that of squared lengths, relative
};

class Gram {
 public:
  // The model must outlive it.
  Gram(const Model& model, std::size_t n_threads);
  ~Gram();

  const Model& model() const { return model_; }
  // What the columns are: core/gram_frame.hpp.
  const core::GramView& view() const { return view_; }
  // Inner products (n_columns) of a row with the columns, from its row of the model's matrix product and the row about the
  // centre (d).
  void gather(const double* product, const double* centered, double* out) const;

  // Of components s < t; kept while there is room, else made into `scratch`.
  const PairEigen& pair(std::size_t s, std::size_t t, PairEigen& scratch) const;

 private:
  void make_pair(std::size_t s, std::size_t t, PairEigen& out) const;

  const Model& model_;
  core::GramView view_{};
  std::vector<double> weights_;   // (K)
  std::vector<double> products_;  // (n_columns, n_columns)
  std::vector<double> probe_;     // (d)
  mutable std::vector<std::atomic<const PairEigen*>> pairs_;  // (K, K), above the diagonal
  mutable std::atomic<std::size_t> room_;                     // bytes left for pairs
  double column_error_;
};

}  // namespace mfa
