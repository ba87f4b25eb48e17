// LD-Grad on support vector machines.
#pragma once

#include <cstddef>
#include <cstdint>

#include "cpu/active.hpp"
#include "cpu/block.hpp"

namespace mfa::cpu {

// A fitted binary machine on (x - shift) * scale; positive decisions are for the second class.
struct Scaling {
  const double* shift;  // (d)
  const double* scale;  // (d)
};

struct LinearMachine {
  const double* weights;  // (d)
  double intercept;
  double reach;  // the size, for a sample of length 1, of all the terms that its own predict may add up
};

struct RbfMachine {
  const double* support_vectors;  // (n, d)
  const double* coefficients;     // (n)
  std::size_t n_vectors;
  double intercept;
  double gamma;
};

// Computes  x - (f / |g|^2) g with f = w.x + b, the nearest point of the hyperplane, theory.md (18).
// Shapes    rows (n, d), labels (n) in {0, 1}, outputs as in AttackOutput.
// Cost      some 16 d flops a sample and step, half of them for what rounding may do; one step is enough unless the result is
//           clipped.
// Numerics  double, until the sign holds against rounding, theory.md (18a).
// Source    plane geometry.
template <class T>
BadRow ld_grad(const LinearMachine& machine, const Loops& loops, const Scaling& scaling, const Rows& rows,
               const std::int64_t* labels, const StepOptions& options, const AttackOutput<T>& out,
               std::size_t n_threads);

// Computes  steps x - (f / |g|^2) g with f the RBF machine's decision and g its gradient, theory.md (17), (19), until the
//           sign of f changes; the last step ends at the root of f along it.
// Shapes    as above.
// Cost      6 d n_vectors flops a sample and step, n_vectors exponentials for each evaluation along the line.
// Numerics  double: |x - s_i|^2 cancels for x near s_i.
// Source    Richardson & Weiss, appendix C.2.
template <class T>
BadRow ld_grad(const RbfMachine& machine, const Loops& loops, const Scaling& scaling, const Rows& rows,
               const std::int64_t* labels, const StepOptions& options, const AttackOutput<T>& out,
               std::size_t n_threads);

}  // namespace mfa::cpu
