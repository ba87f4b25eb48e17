// Entries one by one, in the two forms of docs/theory.md, section 1: (6a) about the component's own mean, and the
// residual form (8) for what that cannot resolve.
#pragma once

#include <cstddef>

#include "device_model.hpp"
#include "entries.hpp"
#include "rows.hpp"
#include "scores.hpp"

namespace mfa::cuda {

// Numbers of scratch that evaluate_residual wants.
std::size_t residual_scratch(std::size_t n_factors);

// Computes  the listed entries' log-densities, bounds on their errors and, where the scores have a place for them, factors v,
//           by (5) about the component's own mean; theory.md (6a).
// Shapes    rows (n, d), entries as listed, results into scores.
// Cost      2 d (L + 1) flops an entry in double, L of them on tensor cores. A row is read once for up to sixteen factors, a
//           component once for tile_entries rows.
// Numerics  each of a block's warps sums a quarter of the features.
// Source    Woodbury identity.
template <class S>
void evaluate_difference(Stream stream, const Rows<S>& rows, const ModelView& model, const EntryView& entries,
                         const ScoreView& scores);

// Computes  the same by the residual form (8) from the factors known so far, or from 0, in double; leaves z. Errors become 0.
// Cost      4 d L flops an entry and pass, of which one is the rule and four the most.
// Numerics  docs/theory.md, section 1.
// Source    Newton's step on a quadratic.
template <class S>
void evaluate_residual(Stream stream, const Rows<S>& rows, const ModelView& model, const EntryView& entries,
                       const ScoreView& scores, double* scratch);

// Computes  the listed entries' r^T S_k^-1 r with r = x - mean, into the scores' values; difference form, in double.
// Shapes    rows (n, d), mean (d).
// Cost      2 d (L + 1) flops an entry.
// Numerics  good to rounding of |r|^2_D.
// Source    Woodbury identity.
void evaluate_distance(Stream stream, const Rows<double>& rows, const ModelView& model, const double* mean,
                       const EntryView& entries, const ScoreView& scores);

}  // namespace mfa::cuda
