// A model's parameters along the few directions in which they extend most. Made once per model, in float64 but for the
// search itself, on the host.
#pragma once

#include <cstddef>
#include <vector>

#include "model.hpp"

namespace mfa {

class Directions {
 public:
  // `near` (count, d), unless null, are directions of a similar model: they save rounds of the search.
  Directions(const Model& model, std::size_t count, const double* near);

  std::size_t count() const { return count_; }
  // Orthonormal directions (count, d), for rows as BlockScorer keeps them: centred, and scaled but for spherical noise.
  // Of a model with fewer the last are zero.
  const std::vector<double>& directions() const { return directions_; }
  // Row l of component k along all directions (count): its l-th loading, or for l = L its mean about the centre.
  const double* inside(std::size_t k, std::size_t l) const { return inside_.data() + (k * rows_ + l) * stride_; }
  // The product of rows l and m of component k, over all features.
  double product(std::size_t k, std::size_t l, std::size_t m) const { return products_[(k * rows_ + l) * rows_ + m]; }

 private:
  void search(const std::vector<double>& rows, const cpu::Loops& loops, const double* near);
  void orthonormalize(const cpu::Loops& loops, int passes);

  std::size_t count_, n_features_, rows_, stride_ = 0;  // rows of one component: L + 1
  std::vector<double> directions_, inside_, products_;
};

}  // namespace mfa
