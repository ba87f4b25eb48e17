// What the search for the nearest adversarial example needs of a model whose noise is not spherical. Made in float64, on the
// host.
#pragma once

#include <vector>

#include "core/diagonal_frame.hpp"
#include "model.hpp"

namespace mfa {

class Diagonal {
 public:
  // The model must outlive it.
  explicit Diagonal(const Model& model);
  Diagonal(const Diagonal&) = delete;
  Diagonal& operator=(const Diagonal&) = delete;

  const core::DiagonalView& view() const { return view_; }

 private:
  std::vector<double> means_, weights_, columns_, largest_;
  core::DiagonalView view_{};
};

}  // namespace mfa
