// Gradients of class scores: the backward pass of a classifier that is used as a layer.
#pragma once

#include "cpu/block.hpp"

namespace mfa::cpu {

// Computes  out_i = sum_g v_ig grad h_g(x_i), the product of the vectors v with the Jacobian of the class scores h;
//           grad h_g = -S_k^-1 (x - mu_k) for the group's best component k under the maximum rule, the mean of all of
//           them by posterior probability under the sum rule, theory.md (15a).
// Shapes    rows (n, d), groups (G + 1), vectors (n, G), out (n, d).
// Cost      one scoring pass, 2 n d K (L + 1) flops in T or fewer, and 4 d L in double per sample and group (under the
//           sum rule per component that has a share).
// Numerics  S^-1 (x - mu) = D^-1 (x - mu - A z) in double, from the factors z that scoring has refined; added up in
//           double and rounded once, so that the difference of two classes' gradients keeps its digits.
// Source    Woodbury identity; docs/theory.md, section 3.
template <class T>
BadRow gradient(const Model& model, const Rows& rows, Groups groups, Rule rule, bool screening, const double* vectors,
                T* out, std::size_t n_threads);

}  // namespace mfa::cpu
