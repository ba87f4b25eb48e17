// Samples of a model, each a function of the seed and its index alone: the same numbers as cpp/cpu/sample.hpp's.
#pragma once

#include <cstdint>

#include "device_model.hpp"
#include "scorer.hpp"

namespace mfa::cuda {

// Computes  x_i = mu_k + A_k^T z + D_k^(1/2) e for i in [start, start + n), theory.md (1), (20). Without noise the last term
//           is left out.
// Shapes    weights (K) on the host; out (n, d), labels (n) on the device.
// Cost      n d (2 L + 1) flops, n d normal numbers, one write of out; loadings are read once for a tile of samples. In
//           float some fifty instructions for a number, of which ten are Philox's and twenty-seven Box and Muller's.
// Numerics  added up in double, rounded once.
// Source    Salmon et al. 2011; Box & Muller 1958.
template <class T>
void sample(const DeviceModel& model, const double* weights, std::uint64_t seed, std::uint64_t start, std::size_t n,
            bool noise, T* out, std::int64_t* labels, const Call& call);

// Computes  mu_k + A_k^T z_i for given components and factors.
// Shapes    labels (n) in [0, K), factors (n, L), out (n, d).
// Cost      2 n d L flops, one write of out.
// Numerics  added up in double, rounded once.
// Source    Ghahramani & Hinton 1996, section 2.
template <class T>
void reconstruct(const DeviceModel& model, std::size_t n, const std::int64_t* labels, const double* factors, T* out,
                 const Call& call);

}  // namespace mfa::cuda
