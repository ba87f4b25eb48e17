// Classes of samples, where no more than the class is asked for.
#pragma once

#include <cstddef>
#include <cstdint>

#include "cpu/block.hpp"

namespace mfa::cpu {

// Computes  the group g of the highest log_priors[g] + score, by the rule; the first on a tie.
// Shapes    rows (n, d), groups (G + 1), log_priors (G), out (n).
// Cost      with screening one component a row, where it leaves all other groups behind; else as reduce.
// Numerics  bounds tell it, theory.md (21), or scores to double precision.
// Source    docs/theory.md, section 6.
template <class T>
BadRow classify(const Model& model, const Rows& rows, Groups groups, const double* log_priors, Rule rule, bool screening,
                std::int64_t* out, std::size_t n_threads);

}  // namespace mfa::cpu
