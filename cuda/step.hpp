// Steps of LD-Grad across the surface between two components.
#pragma once

#include <cstdint>

#include "scorer.hpp"
#include "tile_products.hpp"

namespace mfa::cuda {

// The pairs that rows step between.
struct PairView {
  const std::uint8_t* done;  // (stride) rows that stay where they are
  const int* sources;        // (stride) components
  const int* targets;        // (stride)
  const double* gaps;        // (stride) how far the source leads
};

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

  // Computes  x <- clip(x - a g), g = S_t^-1 (x - mu_t) - S_s^-1 (x - mu_s) with the a that closes the gap, and beyond that
  //           point by the overshoot, theory.md (14), (15); a and |x - center|^2 into `steps`, where rows that stay have 0.
  // Shapes    rows (n, d), which may be where the output is; pairs and steps of the same rows, the output of the call's.
  //           The factors z of both components are known.
  // Cost      two reads of the rows, the second mostly from a cache, and one write; 12 d L flops a row in double on tensor
  //           cores. For every eight factors after the first, one read and 4 d L flops more.
  // Numerics  g is never kept: it is made twice, in double. S^-1 r = D^-1 r - columns v cancels: of sixteen digits as many are
  //           lost as D^-1 r is longer than S^-1 r. What they enter is a step, whose end is scored anew.
  // Source    Richardson & Weiss, appendix C.2; S^-1 by Woodbury's identity.
  void step(Stream stream, const Rows<T>& rows, const Scorer<T>& scorer, const PairView& pairs, const StepLimits& limits,
            const StepView& steps, const StepOutput<T>& out);

 private:
  EntryView by_target_{};
  FactorMemory memory_{};
  double* scratch_ = nullptr;  // of blocks, where there are more factors than fit in their memory
};

}  // namespace mfa::cuda
