// Sufficient statistics of EM: sums over samples, from which Python makes the M-step.
#pragma once

#include <cstddef>
#include <cstdint>

#include "core/views.hpp"
#include "cpu/score.hpp"

namespace mfa::cpu {

// Features that one task adds up: the sums of a slab stay in the second-level cache, and rows, which lie anywhere, are
// gone to few times.
inline constexpr std::size_t slab_features = 1024;

// Every number is summed in the order of the rows, so that samples in several calls give the same bits as in one.
using mfa::Statistics;

// Computes  the E-step: the statistics above, theory.md (10), and log p(x_i) into log_likelihoods (n).
// Shapes    rows (n, d), weights (n) or null for 1 each, outputs as in Statistics. A row of weight 0 adds nothing, but has to
//           be as finite as all others.
// Cost      one scoring pass, and 2 d (L + 2) flops for every responsibility above 1e-16.
// Numerics  summed in double, in the order of the rows whatever the number of threads; about the current means, so that
//           no square of a mean is taken off.
// Source    Ghahramani & Hinton 1996, section 3.
template <class T>
BadRow expectation(const Model& model, const Rows& rows, const double* weights, bool screening, const Statistics& out,
                   double* log_likelihoods, std::size_t n_threads);

// Computes  the same sums for known labels and factors, which are taken as exact: g is 0 or 1, M^-1 is left out. The
//           first M-step, from a clustering, is made of it.
// Shapes    rows (n, d), weights (n) or null, means (K, d), labels (n), factors (n, L).
// Cost      2 n d (L + 2) flops.
// Numerics  as above.
// Source    Ghahramani & Hinton 1996, with known responsibilities.
template <class T>
void assigned(const Loops& loops, const Rows& rows, const double* weights, std::size_t n_components,
              std::size_t n_factors, const double* means, const std::int64_t* labels, const double* factors,
              const Statistics& out, std::size_t n_threads);

// Computes  total + sum_i w_i v_i, added one by one, so that values in several calls give the same bits as in one.
// Shapes    values (n), weights (n) or null for 1 each.
// Cost      n additions that wait for each other.
// Numerics  double; the order is all there is to it.
double add_in_order(double total, const double* values, const double* weights, std::size_t n);

}  // namespace mfa::cpu
