// Scores of samples under a model: every component's, or what is left of them after a reduction over groups. Meanings
// are those of cpp/cpu/score.hpp.
#pragma once

#include "core/views.hpp"
#include "scorer.hpp"

namespace mfa::cuda {

using mfa::Reduced;

// Computes  log w_k + log N(x_i; mu_k, S_k) for every i and k, theory.md (2), into out (n, K).
// Shapes    rows (n, d), out (n, K).
// Cost      two reads of the rows and 2 n d K (L + 1) flops in double; 2 d (L + 1) for each entry that these do not resolve, and
//           4 d L for each of those that is refined.
// Numerics  difference form (5) where its error bound (6) is below tolerance * |value|; else about the component's own mean,
//           where (6a) is; else residual form (8).
// Source    Woodbury identity; docs/theory.md, section 1.
template <class S>
void log_densities(const DeviceModel& model, const Rows<S>& rows, Precision<S>* out, const Call& call);

// Computes  per group: log-sum-exp (9), best component, responsibilities; factors of the best component.
// Shapes    rows (n, d), groups (G + 1) on the host, outputs as in Reduced.
// Cost      with screening one read of the rows, and one for the entries of each round of evaluation, of which most
//           rows have one or two; without, the products of log_densities, and 4 d L for each entry that is refined.
// Numerics  the best component is the one that double precision finds, whatever S is.
// Source    docs/theory.md, sections 1 and 6.
template <class S>
void reduce(const DeviceModel& model, const Rows<S>& rows, Groups groups, double tolerance, bool screening,
            const Reduced<Precision<S>>& out, const Call& call);

}  // namespace mfa::cuda
