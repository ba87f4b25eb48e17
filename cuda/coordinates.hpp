// The coordinates of rows in the subspace that screening works in, made from the rows or moved along with them
// (docs/theory.md, sections 3 and 6).
#pragma once

#include <cstddef>
#include <cstdint>

#include "device_model.hpp"
#include "rows.hpp"
#include "scores.hpp"

namespace mfa::cuda {

// Chunks of rows are a multiple of it.
inline constexpr std::size_t coordinate_rows = 64;

struct ScreenSpace {
  float* coordinates;  // (stride, R)
  float* upper;        // (K, stride) bounds on values
  // Where rows move, else null:
  double* errors;      // (stride) how far off the coordinates may be
  double* moving;      // (stride, R) coordinates that move along
};

// For R directions, or fewer.
inline ScreenSpace lay_out_screen(Arena& arena, std::size_t n_components, std::size_t R, bool rows_move, std::size_t stride) {
  return {arena.take<float>(stride * R), arena.take<float>(stride * n_components),
          rows_move ? arena.take<double>(stride) : nullptr, rows_move ? arena.take<double>(stride * R) : nullptr};
}

// Steps x <- x - a g of rows, g = sum_k share_k S_k^-1 (x - mu_k), with the factors z of their components known. The shares are
// -1 of a source and 1 of a target; where these are null they stand in the scores' errors.
struct StepView {
  double* lengths;  // (stride) a; 0 for rows that stay
  double* norms;    // (stride) |x - center|^2 after the step
  const int* sources = nullptr;  // (stride) of rows that move
  const int* targets = nullptr;
};

// Computes  coordinates y of the rows in the subspace and |x|^2, of those features that it is of; and where rows move what these
//           start from. What stands there for rows that are skipped is of no use.
// Shapes    rows (n, d), scores and space as laid out. n is at most the stride, which is a multiple of coordinate_rows.
// Cost      one read of these features for up to 64 directions, two for more; 6 d R flops on tensor cores in bfloat16.
// Numerics  rows are centred in float (float64 ones in double). Rows and basis are taken as sums of two numbers of eight
//           bits; the product of the smaller parts is left out. That, and what the sums may have lost, is (D1).
// Source    this library.
template <class S>
void make_coordinates(Stream stream, const Rows<S>& rows, const ScreenView& screen, const ScoreView& scores,
                      const ScreenSpace& space, std::int64_t* bad_row);

// Computes  the coordinates, errors and norms of rows after a step, theory.md (14a), (22a).
// Shapes    steps (n); space.moving (n, R).
// Cost      2 R (L + 1) flops in double for every share.
// Numerics  g is a sum of the parameters' coordinates and the row's, of whose error a part comes back.
// Source    this library.
void move_coordinates(Stream stream, const ModelView& model, const ScreenView& screen, const ScoreView& scores,
                      const StepView& steps, const ScreenSpace& space, std::size_t first_row, std::int64_t* bad_row);

}  // namespace mfa::cuda
