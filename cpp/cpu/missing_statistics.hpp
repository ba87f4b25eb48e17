// Sufficient statistics of EM from samples with missing values.
#pragma once

#include "cpu/marginal_block.hpp"
#include "cpu/statistics.hpp"

namespace mfa::cpu {

// Computes  the E-step of rows with missing values, theory.md (44), (45), added to the statistics of the others, and
//           log p of what is observed into log_likelihoods (n), at the rows that `patterns` lists. `weights` (n), unless
//           null, say how many times a row counts.
// Shapes    rows (n, d), outputs as in Statistics.
// Cost      one scoring pass (MarginalBlock), 2 d (L + 2) + 2 d_m L flops for every responsibility above 1e-16, and d_m L^2
//           for every block of rows of one pattern, and component that it has.
// Numerics  summed in double, in the order of the patterns whatever the number of threads; about the current means.
// Source    Ghahramani & Jordan 1994; Ghahramani & Hinton 1996.
BadRow marginal_expectation(const Model& model, const Rows& rows, const Patterns& patterns, const double* weights,
                            const Statistics& out, double* log_likelihoods, std::size_t n_threads);

}  // namespace mfa::cpu
