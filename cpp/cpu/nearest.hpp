// The nearest adversarial example of each sample, with a certificate.
#pragma once

#include <cstddef>
#include <cstdint>

#include "cpu/attack.hpp"
#include "gram.hpp"

namespace mfa::cpu {

struct NearestOptions {
  Rule rule = Rule::max;
  bool screening = true;
  double rtol = 1e-6;
};

// What is known of n samples.
struct CertificateOutput {
  double* lower_bound;  // (n): no adversarial example is nearer
  bool* certified;      // (n): whether l2 is the least there is, to rtol and to what rounding x_adv to T moves it
};

// Computes  for each sample the point x + delta of least |delta| that the classifier puts in another class, from the duals of
//           the problems "component t beats the components s of the sample's class", theory.md (24) to (36); `out` and
//           `pairs` come with an attack's result, which is kept where nothing nearer is found.
// Shapes    rows (n, d), groups (G + 1), log_priors (G), labels (n) in [0, G), outputs as in AttackOutput, PairOutput and
//           CertificateOutput; `gram` is that of the model where its noise is spherical, else null.
// Cost      with `gram` two products of 2 d K (L + 1) flops in double a sample (inner products, and the scores of
//           the result), 4 d L for each component that is involved, and O(L^2) for each pair that is looked at; without it
//           some ten times d (2 L)^2 for each pair. Where no certificate is found, some hundreds of evaluations of all scores
//           along a line, core/nearest_explore.hpp.
// Numerics  double. Scores are multiplied by the least noise variance, so that nothing depends on how small that is. The
//           bound is lowered by what rounding may have added, the point is moved beyond the surface until the array that
//           is returned is in another class by the scores that `predict` goes by.
// Source    More 1993; Richardson & Weiss 2021 for the quadratic form of the gap.
template <class T>
BadRow nearest(const Model& model, const Gram* gram, const Rows& rows, Groups groups, const double* log_priors,
               const std::int64_t* labels, const NearestOptions& options, const AttackOutput<T>& out,
               const PairOutput& pairs, const CertificateOutput& certificates, std::size_t n_threads);

}  // namespace mfa::cpu
