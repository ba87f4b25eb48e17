// All entries of some rows by matrix products.
#pragma once

#include <cstddef>
#include <cstdint>

#include "blas.hpp"
#include "device_model.hpp"
#include "rows.hpp"
#include "scores.hpp"

namespace mfa::cuda {

struct DenseSpace {
  double* centered;      // (stride, d)
  double* squares;       // (stride, d), or null for spherical noise
  double* dots;          // (stride, K)
  double* square_norms;  // (stride, K), or null
};

inline DenseSpace lay_out_dense(Arena& arena, const ModelView& model, std::size_t stride) {
  const bool spherical = model.inverse_noise == nullptr;
  DenseSpace space{};
  space.centered = arena.take<double>(stride * model.n_features);
  space.dots = arena.take<double>(stride * model.n_components);
  if (spherical) return space;
  space.squares = arena.take<double>(stride * model.n_features);
  space.square_norms = arena.take<double>(stride * model.n_components);
  return space;
}

// Computes  every component's log-density, its error bound and factors v, theory.md (5).
// Shapes    rows (n, d), results into scores; no marks are left.
// Cost      one read of the rows; 2 n d K (L + 1) flops in double, which the devices that this is for multiply as fast
//           as they do float.
// Numerics  the products may be summed in one chain: (6) with the unit (D2).
// Source    Woodbury identity.
template <class S>
void score_densely(Stream stream, const Blas& blas, const Rows<S>& rows, const ModelView& model, const ScoreView& scores,
                   const DenseSpace& space, std::int64_t* bad_row);

}  // namespace mfa::cuda
