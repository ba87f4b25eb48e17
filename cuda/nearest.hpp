// The nearest adversarial example of each sample, with a certificate.
#pragma once

#include <cstdint>

#include "attack.hpp"
#include "core/diagonal_frame.hpp"
#include "core/gram_frame.hpp"

namespace mfa {
class Gram;
}

namespace mfa::cuda {

// What the search needs of a model beside its copy, on the device: inner products where its noise is spherical, otherwise
// its precisions. Made on the host, as cpp/gram.hpp and cpp/diagonal.hpp say; what is here only moves it.
class NearestModel {
 public:
  // `gram` is that of the model, or null where its noise is not spherical. In memory that `allocate` gives, which has to
  // stay for as long as this lives.
  NearestModel(const Model& model, const Gram* gram, Stream stream, const Allocate& allocate);

  bool is_spherical() const { return is_spherical_; }
  // Whether it can be that of a model, by its extents.
  bool is_of(const ModelView& model) const;
  // With the parts that the model's own copy has, which is to be on the same device.
  core::GramView gram(const ModelView& model) const;
  core::DiagonalView diagonal(const ModelView& model) const;

 private:
  bool is_spherical_;
  core::GramView gram_{};
  core::DiagonalView diagonal_{};
};

struct NearestOptions {
  Rule rule = Rule::max;
  bool screening = true;
  double rtol = 1e-6;
};

// Of n samples, on the device.
struct CertificateOutput {
  double* lower_bound;      // (n): no adversarial example is nearer; rounded down to what the samples' precision can say
  std::uint8_t* certified;  // (n): whether l2 is the least there is, to rtol and to what rounding x_adv moves it
};

// Computes  for each sample the point x + delta of least |delta| that the classifier puts in another class, theory.md (24)
//           to (36), as cpp/cpu/nearest.hpp says it; `out` comes with an attack's result, which is kept where nothing
//           nearer is found, and call.bad_row with what that found.
// Shapes    rows (n, d), groups (G + 1) and log_priors (G) on the host, labels (n) on the device.
// Cost      a warp has a row, and takes the next when it is done: with spherical noise two products of 2 d K (L + 1) flops
//           in double a sample, 4 d L for each component that is involved, and for each pair that is looked at
//           O((2 L)^3); with other noise some ten times d (2 L)^2 for each pair. Then the scores of what was found, once for
//           the most part and nine times at most, and three times what exploring found, which takes some hundreds of evaluations
//           of all scores along a line for each sample without a certificate. Memory is taken twice: for the warps, and for
//           the rows.
// Numerics  double. A pair is a set of one: eigenvectors are not needed. Products of a sample with the columns may be summed
//           in one chain: (36) is taken with the unit (D2). Under the sum rule no more than core::most_against components
//           of a class enter (33), the most probable ones.
// Source    More 1993; Richardson & Weiss 2021 for the quadratic form of the gap.
template <class S>
void nearest(const DeviceModel& model, const NearestModel& parts, const Rows<S>& rows, Groups groups,
             const double* log_priors, const std::int64_t* labels, const NearestOptions& options,
             const AttackOutput<Precision<S>>& out, const CertificateOutput& certificates, const Call& call);

}  // namespace mfa::cuda
