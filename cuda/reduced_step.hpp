// The lengths of LD-Grad's steps between components with spherical noise, without the features (docs/theory.md, (14b)).
#pragma once

#include <cstddef>
#include <cstdint>

#include "coordinates.hpp"
#include "device_model.hpp"
#include "entries.hpp"
#include "scores.hpp"

namespace mfa::cuda {

// The pairs that rows step between.
struct PairView {
  const std::uint8_t* done;  // (stride) rows that stay where they are
  const int* sources;        // (stride) components
  const int* targets;        // (stride)
  const double* gaps;        // (stride) how far the source leads
};

// Inner products of a model's parameters, and what follows from them.
class ReducedSteps {
 public:
  // What it takes; nothing where features differ in their noise, or the products are too many to be made in every call.
  void lay_out(Arena& arena, const ModelView& model);
  // Whether there is anything to be found so.
  bool applies() const { return products_ != nullptr; }

  // Computes  the inner products of all loadings and means, about the centre. To be called once before find.
  // Shapes    (K (L + 1), K (L + 1)), component after component, a component's loadings and then its mean.
  // Cost      d flops for each, in double on tensor cores.
  void begin(Stream stream, const ModelView& model);
  // Computes  the lengths a of (14), (15) for the listed rows, in steps.lengths, which are no numbers before. Where they are not
  //           known well by this they stay so, and any_unknown() becomes 1.
  // Shapes    entries of sources; pairs and steps of the same rows. The factors z of both components are known.
  // Cost      8 (L + 1)^2 flops a row.
  // Numerics  core/pair_step.hpp. In place of |x|, which (15) has for the rounding of x, |x - center| + |center|.
  // Source    this library.
  void find(Stream stream, const ModelView& model, const PairView& pairs, const EntryView& entries, const ScoreView& scores,
            double overshoot, double epsilon, const StepView& steps);
  const int* any_unknown() const { return any_unknown_; }

 private:
  double* products_ = nullptr;
  int* any_unknown_ = nullptr;
};

}  // namespace mfa::cuda
