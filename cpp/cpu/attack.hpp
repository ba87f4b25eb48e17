// LD-Grad: closed-form steps across the surface between two factor analyzers.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>

#include "cpu/active.hpp"
#include "cpu/block.hpp"

namespace mfa::cpu {

struct LdGradOptions {
  StepOptions step;
  Rule rule = Rule::max;
  bool screening = true;
  // Components, counted within their class's mixture, that are kept throughout; otherwise the best one is taken anew at
  // every step.
  std::optional<std::size_t> source, target;
};

// The components of each sample's last step, counted within their class's mixture; -1 where none was taken.
struct PairOutput {
  std::int64_t* source;  // (n)
  std::int64_t* target;  // (n)
};

// Computes  x <- x - a g until the classifier leaves the sample's class, with g the gradient of log p_s - log p_t for the
//           best component s of that class and the best t of another, a from (14); theory.md (14), (15). Under the
//           sum rule the gradients of all components of the two classes, by their posterior probabilities.
// Shapes    rows (n, d), groups (G + 1), log_priors (G), labels (n) in [0, G), outputs as in AttackOutput and PairOutput.
// Cost      per sample and step one scoring pass, 2 d K (L + 1) flops in T or fewer, and 12 d L flops in double beside it.
// Numerics  near the surface the gap between the classes is refined to double precision; the step ends beyond it by
//           overshoot times its length, and by no less than what rounding to T may take back, or (15) asks for where it
//           begins on the surface.
// Source    Richardson & Weiss, appendix C.2.
template <class T>
BadRow ld_grad(const Model& model, const Rows& rows, Groups groups, const double* log_priors,
               const std::int64_t* labels, const LdGradOptions& options, const AttackOutput<T>& out,
               const PairOutput& pairs, std::size_t n_threads);

}  // namespace mfa::cpu
