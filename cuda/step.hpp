// Steps of LD-Grad across the surface between two components.
#pragma once

#include <cstdint>

#include "reduced_step.hpp"
#include "scorer.hpp"
#include "tile_products.hpp"

namespace mfa::cuda {

struct StepLimits {
  double overshoot;
  double low, high;  // infinite for none
};

// Of a call's rows, what steps are reported to.
template <class T>
struct StepOutput {
  T* x;                   // (n, d)
  double* l2;             // (n) the length of the last step
  std::int64_t* n_steps;  // (n), counted up
};

// Rows sorted by their pair, so that those of one pair are moved together.
template <class T>
class PairSteps {
 public:
  void lay_out(Arena& arena, const ModelView& model, std::size_t stride);
  // To be called once before the first step.
  void begin(Stream stream, const ModelView& model);

  // Computes  x <- clip(x - a g), g = S_t^-1 (x - mu_t) - S_s^-1 (x - mu_s) with the a that closes the gap, and beyond that
  //           point by the overshoot, theory.md (14), (15); a and |x - center|^2 into `steps`, where rows that stay have 0.
  // Shapes    rows (n, d), which may be where the output is; pairs and steps of the same rows, the output of the call's.
  //           The factors z of both components are known.
  // Cost      one read of the rows and one write, 4 d L flops a row in double on tensor cores, where lengths are made without
  //           the features (reduced_step.hpp); else one read and 8 d L flops more, and for every eight factors after the first
  //           another read and 4 d L flops.
  // Numerics  g is never kept: it is made anew in double for the length and for the move. S^-1 r = D^-1 r - columns v cancels:
  //           of sixteen digits as many are lost as D^-1 r is longer than S^-1 r. What they enter is a step, whose end is scored
  //           anew.
  // Source    Richardson & Weiss, appendix C.2; S^-1 by Woodbury's identity.
  void step(Stream stream, const Rows<T>& rows, const Scorer<T>& scorer, const PairView& pairs, const StepLimits& limits,
            const StepView& steps, const StepOutput<T>& out);

 private:
  EntryView by_target_{};
  ReducedSteps reduced_;
  FactorMemory memory_{};
  double* scratch_ = nullptr;  // of blocks, where there are more factors than fit in their memory
};

}  // namespace mfa::cuda
