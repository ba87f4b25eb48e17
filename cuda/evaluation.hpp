// Entries one by one, in the residual form of docs/theory.md, section 1.
#pragma once

#include <cstddef>

#include "device_model.hpp"
#include "entries.hpp"
#include "rows.hpp"
#include "scores.hpp"

namespace mfa::cuda {

// First guesses at factors, affine in the coordinates y of a row: slopes_k y - offsets_k. Without coordinates they are 0.
struct FactorGuess {
  std::size_t n_directions = 0;
  const float* coordinates = nullptr;  // (stride, R)
  const float* slopes = nullptr;       // (K, L, R)
  const float* offsets = nullptr;      // (K, L)
};

// Numbers of scratch that the evaluations want.
std::size_t evaluation_scratch(std::size_t n_factors);

// Computes  the listed entries' log-densities by (8), in double, and their factors z where the scores have a place for them;
//           from the factors known so far, or from a guess. Errors become 0.
// Shapes    rows (n, d), entries as listed, results into scores.
// Cost      4 d L flops an entry and pass on tensor cores, in double; one pass is the rule and four the most. A pass reads a
//           row once for up to sixteen factors, a component once for tile_entries rows.
// Numerics  each of a block's warps sums a quarter of the features; docs/theory.md, section 1.
// Source    Newton's step on a quadratic.
template <class S>
void evaluate(Stream stream, const Rows<S>& rows, const ModelView& model, const FactorGuess& guess,
              const EntryView& entries, const ScoreView& scores, double* scratch);

// Computes  the listed entries' r^T S_k^-1 r with r = x - mean, into the scores' values, the same way.
// Shapes    rows (n, d), mean (d).
void evaluate_distance(Stream stream, const Rows<double>& rows, const ModelView& model, const double* mean,
                       const EntryView& entries, const ScoreView& scores, double* scratch);

}  // namespace mfa::cuda
