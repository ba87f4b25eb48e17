// Sufficient statistics of EM, with the meanings of cpp/cpu/statistics.hpp.
#pragma once

#include <cstdint>

#include "scorer.hpp"
#include "sums.hpp"

namespace mfa::cuda {

// Computes  the E-step: the statistics, theory.md (10), and log p(x_i) into log_likelihoods (n).
// Shapes    rows (n, d), sample_weight (n) on the device or null for 1, outputs as in Statistics.
// Cost      one scoring pass, and the sums over those of which a row's responsibility is above 1e-16.
// Numerics  sums.hpp; about the current means.
// Source    Ghahramani & Hinton 1996, section 3.
template <class S>
void expectation(const DeviceModel& model, const Rows<S>& rows, const double* sample_weight, bool screening,
                 const Statistics& out, double* log_likelihoods, const Call& call);

// Computes  the same sums of samples whose components and factors are taken as known, each with responsibility 1 and
//           without M^-1: what the start of EM is made of.
// Shapes    rows (n, d), means (K, d), labels (n), factors (n, L), sample_weight (n) or null, all on the device.
template <class S>
void assigned(const Rows<S>& rows, std::size_t n_components, std::size_t n_factors, std::size_t n_features,
              const double* means, const std::int64_t* labels, const double* factors, const double* sample_weight,
              const Statistics& out, const Call& call);

}  // namespace mfa::cuda
