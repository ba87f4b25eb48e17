// Sums over the members of components, who are listed as entries and have a share and factors each: what EM's statistics are.
#pragma once

#include <cstddef>

#include "core/views.hpp"
#include "entries.hpp"
#include "rows.hpp"

namespace mfa::cuda {

using mfa::Statistics;

// The members, and what is known of them.
struct Members {
  EntryView entries;
  std::size_t n_components, n_factors;
  const double* shares;   // (K, stride) responsibilities, or null for 1
  const double* weights;  // (n) how often each sample counts, or null for once
  std::size_t stride;
  const double* factors;  // z of row i and component k: factors + i * row_factors + k * component_factors
  std::size_t row_factors, component_factors;

  MFA_HD double share(std::size_t i, std::size_t k) const {
    return (shares == nullptr ? 1.0 : shares[k * stride + i]) * (weights == nullptr ? 1.0 : weights[i]);
  }
  MFA_HD const double* z(std::size_t i, std::size_t k) const {
    return factors + i * row_factors + k * component_factors;
  }
};

// How they are shared out: the list of them in equal parts; a member's numbers, which are its d features and then its L
// factors and a one, in slabs; the columns that these are multiplied with, its factors and the one, in groups.
struct Split {
  unsigned n_factors, n_features;
  unsigned feature_slabs, slabs;
  unsigned slab_blocks;  // blocks that have the same part and group, for all slabs
  unsigned groups;
  unsigned parts;
  double* sums;  // (2 parts, L + 2, slabs, numbers)
};

Split lay_out_split(Arena& arena, std::size_t n_factors, std::size_t n_features);

// Computes  the sums of theory.md (10) over the members; covariances (K, L, L) of their factors enter if they are given.
// Shapes    rows (n, d), means (K, d), members as listed.
// Cost      2 d (L + 3) flops a member in double, 2 d (L + 1) of them on tensor cores, and its row is read once for up to 32
//           columns.
// Numerics  about the means. Members are summed in the order of the list, in four sums for each of the squares and by the
//           tensor cores for the others, and the sums of parts in their order: the same every time.
template <class S>
void add_members(Stream stream, const Rows<S>& rows, const Members& members, const double* means,
                 const double* covariances, const Split& split, const Statistics& out);

}  // namespace mfa::cuda
