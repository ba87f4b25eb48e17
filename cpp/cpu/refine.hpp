// The residual form of some rows of one component, to all digits (docs/theory.md, section 1).
#pragma once

#include <algorithm>
#include <cstddef>

#include "core/gaussian.hpp"
#include "cpu/isa.hpp"

namespace mfa::cpu {

// Rows that are computed again at once: the loadings are read once for all of them.
inline constexpr std::size_t refined_rows = 16;

// Computes  q = min_z |x - mu - A z|^2_D + |z|^2 and the z that it is reached at, theory.md (8), from factors that are near:
//           what is taken off q(z) is as small as their error. Where that is so large beside q that the difference would
//           show rounding, the row takes another pass.
// Shapes    x (rows), at most refined_rows of them; z and gradient (rows, L), scratch lanes_scratch(rows, L),
//           mahalanobis (rows).
// Cost      4 d L flops per row and pass: one pass, four at most.
// Numerics  a sum of squares. Rows that have settled stay as they are, so that none depends on the rows beside it.
template <class T>
void refine_factors(const TypedLoops<T>& loops, const T* const* x, std::size_t rows, const ComponentView& component,
                    double* z, double* scratch, double* gradient, double* mahalanobis) {
  const std::size_t n = component.n_factors;
  double q[refined_rows];
  bool settled[refined_rows] = {};
  const auto all_settled = [&] { return std::all_of(settled, settled + rows, [](bool s) { return s; }); };
  for (int pass = 0; pass < core::most_residual_passes && !all_settled(); ++pass) {
    loops.residual_form(x, rows, component, z, scratch, q, gradient);
    for (std::size_t r = 0; r < rows; ++r) {
      if (settled[r]) continue;
      const double taken_off = core::complete_residual_form(n, component.cholesky, z + r * n, gradient + r * n);
      mahalanobis[r] = core::distance_of_difference(q[r] - taken_off);
      settled[r] = core::has_settled(taken_off, mahalanobis[r]);
    }
  }
}

}  // namespace mfa::cpu
