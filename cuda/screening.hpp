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
  double* errors;      // (stride) how far off the coordinates may be
  double* moving;      // (stride, R) coordinates that move along with rows, or null where rows stay where they are
};

inline ScreenSpace lay_out_screen(Arena& arena, const ModelView& model, const ScreenView& screen, bool rows_move,
                                  std::size_t stride) {
  const std::size_t K = model.n_components;
  const std::size_t R = screen.n_directions;
  return {arena.take<float>(stride * R),
          arena.take<float>(stride * K * (model.n_factors + 1)),
          arena.take<RowTerms>(stride),
          arena.take<float>(K * stride),
          arena.take<float>(K * stride),
          arena.take<double>(stride),
          rows_move ? arena.take<double>(stride * R) : nullptr};
}

// Steps x <- x - a g of rows, g = sum_k share_k S_k^-1 (x - mu_k), with the shares in the scores' errors and the factors z
// of their components known.
struct StepView {
  double* lengths;  // (stride) a; 0 for rows that stay
  double* norms;    // (stride) |x - center|^2 after the step
};

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

// Computes  the same from coordinates that there are, with their errors and |x|^2.
// Cost      2 R K (L + 1) flops in float; the rows are not read.
void screen_by_coordinates(Stream stream, const Blas& blas, const ModelView& model, const ScreenView& screen,
                           const GroupView& groups, const ScoreView& scores, const ScreenSpace& space);

// Computes  the coordinates, errors and norms of rows after a step, theory.md (14a), (22a).
// Shapes    steps (n); space.moving (n, R).
// Cost      2 R (L + 1) flops in double for every share.
// Numerics  g is a sum of the parameters' coordinates and the row's, of whose error a part comes back.
// Source    this library.
void move_coordinates(Stream stream, const ModelView& model, const ScreenView& screen, const ScoreView& scores,
                      const StepView& steps, const ScreenSpace& space, std::size_t first_row, std::int64_t* bad_row);

// Marks, of the components that have not been evaluated, those that the values known so far leave standing; with
// `only_one` just the one of the highest bound in every group.
void mark_survivors(Stream stream, const GroupView& groups, bool only_one, const ScoreView& scores,
                    const ScreenSpace& space);

}  // namespace mfa::cuda
