// Which components can matter to a row, from a few coordinates of it (docs/theory.md, section 6).
#pragma once

#include "coordinates.hpp"

namespace mfa::cuda {

// Computes  upper bounds on all log-densities of the live rows, (21), (D1), from coordinates, what they are off by and |x|^2;
//           marks in every group the component of the highest guess, (23), unless its score is known.
// Shapes    scores and space as laid out.
// Cost      4 R K (L + 1) flops in half precision; the rows are not read.
// Numerics  the shadow's columns are taken as sums of two halves. What that leaves of them, and what the sums may have lost, is
//           in the bounds, theory.md (D3), (D4).
// Source    this library.
void screen_by_coordinates(Stream stream, const ModelView& model, const ScreenView& screen, const GroupView& groups,
                           const ScoreView& scores, const ScreenSpace& space);

// Marks, of the components that have not been evaluated, those and no others that the values known so far leave standing.
void mark_survivors(Stream stream, std::size_t n_components, const GroupView& groups, const ScoreView& scores,
                    const ScreenSpace& space);

// Finds the rows (n) in which they leave none standing. All components are one group.
void find_done(Stream stream, const GroupView& groups, const ScoreView& scores, const ScreenSpace& space, std::uint8_t* done);

}  // namespace mfa::cuda
