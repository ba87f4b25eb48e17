// Which components can matter to a row, from a few coordinates of it (docs/theory.md, section 6).
#pragma once

#include "coordinates.hpp"

namespace mfa::cuda {

// Computes  upper bounds on all log-densities, (21), (22), from coordinates, their errors and |x|^2; forgets what was known of
//           the scores, and marks in every group the component of the highest guess, (23).
// Shapes    scores and space as laid out.
// Cost      6 R K (L + 1) flops in TF32; the rows are not read.
// Numerics  coordinates and the shadow's columns are taken as sums of two numbers of eleven bits; the product of the smaller
//           parts is left out. That, and what the sums may have lost, is in the bounds, theory.md (D3).
// Source    this library.
void screen_by_coordinates(Stream stream, const ModelView& model, const ScreenView& screen, const GroupView& groups,
                           const ScoreView& scores, const ScreenSpace& space);

// Marks, of the components that have not been evaluated, those and no others that the values known so far leave standing.
void mark_survivors(Stream stream, std::size_t n_components, const GroupView& groups, const ScoreView& scores,
                    const ScreenSpace& space);

}  // namespace mfa::cuda
