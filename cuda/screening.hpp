// Which components can matter to a row, from a few coordinates of it (docs/theory.md, section 6).
#pragma once

#include <cstddef>
#include <cstdint>

#include "blas.hpp"
#include "device_model.hpp"
#include "rows.hpp"
#include "scores.hpp"

namespace mfa::cuda {

// Rows that one block makes the coordinates of.
inline constexpr std::size_t coordinate_rows = 64;

// Of one row: what bounds are made of besides its product.
struct RowTerms {
  float y_norm, shift, outside;
};

struct ScreenSpace {
  float* coordinates;  // (stride, R)
  float* product;      // (stride, K L + K)
  RowTerms* terms;     // (stride)
  float* upper;        // (K, stride) bounds on values
  float* guess;        // (K, stride)
};

inline ScreenSpace lay_out_screen(Arena& arena, const ModelView& model, const ScreenView& screen,
                                  std::size_t stride) {
  const std::size_t K = model.n_components;
  return {arena.take<float>(stride * screen.n_directions), arena.take<float>(stride * K * (model.n_factors + 1)),
          arena.take<RowTerms>(stride), arena.take<float>(K * stride), arena.take<float>(K * stride)};
}

// Computes  coordinates y of the rows in the subspace, |x|^2, upper bounds on all log-densities and a guess at each, (21) to
//           (23), (D1); forgets what was known of the scores, and marks in every group the component of the highest guess.
// Shapes    rows (n, d), scores and space as laid out. n is at most the stride, which is a multiple of coordinate_rows.
// Cost      one read of the rows and of the basis (d, R) for 64 of them; 2 d R flops on tensor cores and 2 R K (L + 1)
//           in float.
// Numerics  rows are centred in float (float64 ones in double) and rounded to TF32, as the basis has been: their products
//           are exact then, and what both roundings and the sums may have moved is in the bounds, theory.md (D1).
// Source    this library.
template <class S>
void screen_rows(Stream stream, const Blas& blas, const Rows<S>& rows, const ModelView& model, const ScreenView& screen,
                 const GroupView& groups, const ScoreView& scores, const ScreenSpace& space, std::int64_t* bad_row);

// Marks, of the components that have not been evaluated, those that the values known so far leave standing; with
// `only_one` just the one of the highest bound in every group.
void mark_survivors(Stream stream, const GroupView& groups, bool only_one, const ScoreView& scores,
                    const ScreenSpace& space);

}  // namespace mfa::cuda
