// Samples of a model, each a function of the seed and its index alone.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "cpu/parallel.hpp"
#include "model.hpp"

namespace mfa::cpu {

// Computes  the component of the sample of an index, in proportion to weights of which `cumulative` has the sums up to each:
//           the first that reaches beyond the number drawn. One of weight 0 reaches no further than the one before it.
// Cost      one block of Philox and log K comparisons.
std::size_t draw_component(std::uint64_t seed, std::uint64_t index, const std::vector<double>& cumulative);

// Computes  x_i = mu_k + A_k^T z + D_k^(1/2) e for i in [start, start + n), with the component k drawn in proportion to
//           the weights and z, e standard normal; theory.md (1), (20). Without noise the last term is left out.
// Shapes    weights (K), out (n, d), labels (n).
// Cost      n d (2 L + 1) flops, n d normal numbers.
// Numerics  added up in double, rounded once.
// Source    Salmon et al. 2011; Box & Muller 1958.
template <class T>
void sample(const Model& model, const double* weights, std::uint64_t seed, std::uint64_t start, std::size_t n, bool noise,
            T* out, std::int64_t* labels, std::size_t n_threads);

// Computes  mu_k + A_k^T z_i for given components and factors: samples put back into their subspaces.
// Shapes    labels (n), factors (n, L), out (n, d).
// Cost      2 n d L flops.
// Numerics  added up in double, rounded once.
// Source    Ghahramani & Hinton 1996, section 2.
template <class T>
void reconstruct(const Model& model, std::size_t n, const std::int64_t* labels, const double* factors, T* out,
                 std::size_t n_threads);

}  // namespace mfa::cpu
