// What a model says of samples with missing values (NaN): densities by the observed features, and the distribution of the
// missing ones.
#pragma once

#include <cstddef>
#include <cstdint>

#include "cpu/marginal_block.hpp"
#include "cpu/score.hpp"

namespace mfa::cpu {

// All of them take the rows (n, d) that `patterns` lists; their outputs are indexed by row and left as they are elsewhere.
// The cost of scoring is that of MarginalBlock: with few patterns about that of a dense evaluation of the observed features
// in double, with a pattern for every row O(d_o L^2 + L^3) per row and component.

// Computes  log w_k + log N of the observed features, theory.md (39).
// Shapes    rows (n, d), out (n, K).
// Cost      that of scoring.
// Numerics  double, in whichever form its bound allows: see MarginalBlock.
// Source    Ghahramani & Jordan 1994.
template <class T>
BadRow marginal_log_densities(const Model& model, const Rows& rows, const Patterns& patterns, T* out,
                              std::size_t n_threads);

// Computes  per group what `reduce` does, of the marginal densities (39).
// Shapes    rows (n, d), groups (G + 1), outputs as in Reduced.
// Cost      that of scoring.
// Numerics  double, whatever T is.
// Source    Ghahramani & Jordan 1994.
template <class T>
BadRow marginal_reduce(const Model& model, const Rows& rows, const Patterns& patterns, Groups groups,
                       const Reduced<T>& out, std::size_t n_threads);

// Outputs of `conditional`; null for what is not wanted. Of mean and variance the missing entries are written.
template <class T>
struct Conditional {
  T* mean = nullptr;              // (n, d)
  T* variance = nullptr;          // (n, d)
  T* responsibilities = nullptr;  // (n, K)
  double* factors = nullptr;      // (n, K, L)  posterior means
};

// Computes  mean and variance of the missing features given the observed ones, under the mixture, theory.md (43).
// Shapes    rows (n, d), outputs as in Conditional.
// Cost      2 d_m L flops for every responsibility above 1e-16, and d_m L^2 per pattern and component for variances.
// Numerics  added up in double, rounded once; no difference of squares.
// Source    Ghahramani & Jordan 1994.
template <class T>
BadRow conditional(const Model& model, const Rows& rows, const Patterns& patterns, const Conditional<T>& out,
                   std::size_t n_threads);

// Computes  draws of the missing features given the observed ones, which are copied: the component by its
//           responsibility, its factors by their posterior, then noise.
// Shapes    out (n_draws, n, d). Draw s of row i is a function of the seed, s, i and the row.
// Cost      d (2 L + 1) flops and d normal numbers for each.
// Numerics  added up in double, rounded once.
// Source    Salmon et al. 2011; Box & Muller 1958.
template <class T>
BadRow conditional_sample(const Model& model, const Rows& rows, const Patterns& patterns, std::uint64_t seed,
                          std::size_t n_draws, T* out, std::size_t n_threads);

}  // namespace mfa::cpu
