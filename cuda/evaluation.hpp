// Entries one by one, about their components' means: docs/theory.md, section 1, "Single rows".
#pragma once

#include "device_model.hpp"
#include "entries.hpp"
#include "rows.hpp"
#include "scores.hpp"

namespace mfa::cuda {

// Computes  the listed entries' log-densities, with bounds on their errors by (6a), in double, and their factors v where the
//           scores have a place for them. *any_coarse becomes 1, as scores.coarse of its row does, if one of them is not right
//           to `tolerance`, relative to its size, or not a number.
// Shapes    rows (n, d), entries as listed, results into scores.
// Cost      2 d (L + 1) flops an entry, 2 d L of them on tensor cores. For every sixteen factors a row is read once, and the
//           columns of a component once for tile_entries rows.
// Numerics  |r|_D^2 - |v|^2 cancels where r lies near the loadings; (6a) bounds that, and refinement.hpp is for what it does not
//           resolve. Each of a block's warps sums the features of every fourth piece of sixteen.
// Source    Woodbury's identity.
template <class S>
void evaluate(Stream stream, const Rows<S>& rows, const ModelView& model, double tolerance, const EntryView& entries,
              const ScoreView& scores, int* any_coarse);

// Computes  the listed entries' r^T S_k^-1 r with r = x - mean, into the scores' values, the same way: off by twice (6a) at most.
// Shapes    rows (n, d), mean (d).
void evaluate_distance(Stream stream, const Rows<double>& rows, const ModelView& model, const double* mean,
                       const EntryView& entries, const ScoreView& scores);

}  // namespace mfa::cuda
