// LD-Grad: closed-form steps across the surface between two factor analyzers.
#pragma once

#include <cstdint>
#include <optional>

#include "gradient.hpp"

namespace mfa::cuda {

struct LdGradOptions {
  std::size_t steps = 3;
  double overshoot = 1e-6;
  double clip_low = 0.0, clip_high = 0.0;  // infinite for none
  Rule rule = Rule::max;
  bool screening = true;
  // Components, counted within their class's mixture, that are kept throughout; otherwise the best one is taken anew at
  // every step.
  std::optional<std::size_t> source, target;
};

// Of n samples, on the device.
template <class T>
struct AttackOutput {
  T* x_adv;               // (n, d)
  double* l2;             // (n)
  std::uint8_t* success;  // (n)
  std::int64_t* n_steps;  // (n)
  std::int64_t* source;   // (n) components of the last step, counted within their class's mixture; -1 where there was none
  std::int64_t* target;   // (n)
};

// Computes  x <- x - a g until the classifier leaves the sample's class; theory.md (14), (15), as cpp/cpu/attack.hpp says it.
// Shapes    rows (n, d), groups (G + 1) and log_priors (G) on the host, labels (n) on the device.
// Cost      per step one scoring pass over the rows that are still in their class, and 4 to 12 d L flops in double for each,
//           step.hpp; by the rule of sums 6 d L for each component that g is made of, gradient.hpp.
//           Where rows are screened, the noise is spherical and nothing is clipped, coordinates move along with rows: after
//           the first pass, one is 4 R K (L + 1) flops in half precision and the evaluation of what may matter.
// Numerics  scores to core::gap_tolerance, near the surface to that of double. Steps are taken in the samples' precision, and
//           what is scored is what is returned.
// Source    Richardson & Weiss, appendix C.2.
template <class S>
void ld_grad(const DeviceModel& model, const Rows<S>& rows, Groups groups, const double* log_priors,
             const std::int64_t* labels, const LdGradOptions& options, const AttackOutput<Precision<S>>& out,
             const Call& call);

}  // namespace mfa::cuda
