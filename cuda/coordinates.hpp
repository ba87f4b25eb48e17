// The coordinates of rows in the subspace that screening works in, made from the rows or moved along with them
// (docs/theory.md, sections 3 and 6).
#pragma once

#include <cstddef>
#include <cstdint>
#include <stdexcept>
#include <string>
#include <type_traits>

#include "device_model.hpp"
#include "entries.hpp"
#include "rows.hpp"
#include "scores.hpp"

namespace mfa::cuda {

// Chunks of rows are a multiple of it.
inline constexpr std::size_t coordinate_rows = 64;

struct ScreenSpace {
  FourHalves* coordinates;  // (stride, R / 4), a row's length being measured in screen.length_of_one
  float* shifts;            // (stride) how far off they may be, rounded up
  float* upper;             // (K, stride) bounds on values
  // Where rows move, else null:
  double* errors;      // (stride) how far off the coordinates may be that move along
  double* moving;      // (stride, R) these
};

// For R directions, or fewer.
inline ScreenSpace lay_out_screen(Arena& arena, std::size_t n_components, std::size_t R, bool rows_move, std::size_t stride) {
  return {arena.take<FourHalves>(stride * R / 4), arena.take<float>(stride), arena.take<float>(stride * n_components),
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

// Calls launch(R / Unit), as a constant, for a number R of directions that a subspace may have.
template <unsigned Unit, class Launch>
void for_directions(std::size_t R, const Launch& launch) {
  if (R == 16) launch(std::integral_constant<unsigned, 16 / Unit>{});
  else if (R == 32) launch(std::integral_constant<unsigned, 32 / Unit>{});
  else if (R == 48) launch(std::integral_constant<unsigned, 48 / Unit>{});
  else if (R == 64) launch(std::integral_constant<unsigned, 64 / Unit>{});
  else if (R == 96) launch(std::integral_constant<unsigned, 96 / Unit>{});
  else if (R == 128) launch(std::integral_constant<unsigned, 128 / Unit>{});
  else throw std::logic_error("no kernel for " + std::to_string(R) + " directions");
}

// Computes  coordinates y of the live rows in the subspace, what they may be off by, and |x|^2, of those features that it is of;
//           and where rows move what these start from.
// Shapes    rows (n, d), scores and space as laid out. n is at most the stride, which is a multiple of coordinate_rows.
// Cost      one read of these features; 2 d R flops on tensor cores in half precision.
// Numerics  rows are centred in float (float64 ones in double) and, as the basis is, rounded to halves. That, and what the sums
//           may have lost, is (D1).
// Source    this library.
template <class S>
void make_coordinates(Stream stream, const Rows<S>& rows, const ScreenView& screen, const ScoreView& scores,
                      const ScreenSpace& space, std::int64_t* bad_row);

// Computes  the coordinates, errors and norms of rows after a step, theory.md (14a), (22a).
// Shapes    steps (n), of pairs also the list of their rows that move, by pair; space.moving (n, R).
// Cost      2 R (L + 1) flops in double for every share.
// Numerics  g is a sum of the parameters' coordinates and the row's, of whose error a part comes back.
// Source    this library.
void move_coordinates(Stream stream, const ModelView& model, const ScreenView& screen, const ScoreView& scores,
                      const StepView& steps, const EntryView& by_pair, const ScreenSpace& space, std::size_t first_row,
                      std::int64_t* bad_row);

}  // namespace mfa::cuda
