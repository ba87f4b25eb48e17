// A model's parameters along the few directions in which they extend most. Made once per model, in float64 but for the
// search itself, on the host.
#pragma once

#include <cstddef>
#include <memory>
#include <utility>
#include <vector>

#include "cpu/once.hpp"
#include "model.hpp"

namespace mfa {

namespace cuda {
struct RoundedBasis;
}

// Orthonormal directions (count, d), which models that keep them share, and what a device made of them when it first asked.
struct Basis {
  explicit Basis(std::vector<double>&& from) : numbers(std::move(from)) {}

  const std::vector<double> numbers;
  mutable cpu::Once<std::shared_ptr<const cuda::RoundedBasis>> rounded;
};

// For how long directions are kept: while they leave no more than so many times what they left when they were found, and for so
// many models at least where others have done better.
struct Keeping {
  double as_well;
  int least_patience;
};

class Directions {
 public:
  // `near`, unless null, are as many directions of a similar model: they are kept while they do as well for this one, and from
  // time to time are where a search for others starts.
  Directions(const Model& model, std::size_t count, const Keeping& keeping, const Directions* near);

  std::size_t count() const { return count_; }
  std::size_t n_features() const { return n_features_; }
  // Whether they are those of `near`.
  bool kept() const { return age_ > 0; }
  // Orthonormal, (d) each, for rows as BlockScorer keeps them: centred, and scaled but for spherical noise. Of a model with
  // fewer, those too many are zero.
  const double* direction(std::size_t r) const { return basis_->numbers.data() + r * n_features_; }
  const Basis& basis() const { return *basis_; }
  // Row l of component k along all directions (count): its l-th loading, or for l = L its mean about the centre.
  const double* inside(std::size_t k, std::size_t l) const { return inside_.data() + (k * rows_ + l) * stride_; }
  // The product of rows l and m of component k, over all features.
  double product(std::size_t k, std::size_t l, std::size_t m) const { return products_[(k * rows_ + l) * rows_ + m]; }

 private:
  // The rows of component k, (L + 1, d).
  void read_rows(const Model& model, std::size_t k, double* rows) const;
  void multiply_rows(const Model& model);  // with each other
  void sketch(const float* rows, std::size_t n, std::size_t n_threads, double* directions) const;
  // Directions, from those of `near` or, where that is null, from a sketch.
  std::vector<double> search(const Model& model, const Basis* near) const;
  void project(const Model& model);
  // The share of the rows' squares that lies outside of the directions.
  double share_left() const;

  std::size_t count_, n_features_, rows_, stride_ = 0;  // rows of one component: L + 1
  std::shared_ptr<const Basis> basis_;
  std::vector<double> inside_, products_;
  double share_left_when_found_ = 0.0;
  int patience_, age_ = 0;  // models that they are kept for before others are looked for, and have been kept for
};

}  // namespace mfa
