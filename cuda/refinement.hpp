// Entries to all digits, in the residual form of docs/theory.md, section 1.
#pragma once

#include <cstddef>

#include "device_model.hpp"
#include "entries.hpp"
#include "rows.hpp"
#include "scores.hpp"

namespace mfa::cuda {

// Numbers of scratch that refinement wants.
std::size_t refinement_scratch(std::size_t n_factors);

// Computes  by (8), in double, those of the listed entries that are not right to `tolerance`, relative to their size: their
//           log-densities, and their factors z where the scores have a place for them, which it starts from as well. Their
//           errors become 0. Nothing is done where if_not_zero is given and points to 0.
// Shapes    rows (n, d), entries as listed, results into scores.
// Cost      4 d L flops an entry and pass on tensor cores, in double, and 2 d L more for every sixteen factors after the first.
//           One pass is the rule where factors are known and two where not, four the most. A pass reads a row once for up to
//           sixteen factors, a component once for tile_entries rows.
// Numerics  each of a block's warps sums a quarter of the features; docs/theory.md, section 1.
// Source    Newton's step on a quadratic.
template <class S>
void refine(Stream stream, const Rows<S>& rows, const ModelView& model, double tolerance, const int* if_not_zero,
            const EntryView& entries, const ScoreView& scores, double* scratch);

}  // namespace mfa::cuda
