// What the linear terms of all scores are made of, on the device from parameters that are there.
#pragma once

#include "device_model.hpp"

namespace mfa::cuda {

// Computes  columns D^-1 A C^-T and weighted means D^-1 (mu - center) of every component, theory.md (5).
// Shapes    columns (K, L, d), weighted_means (K, d); of the model, what they are made of has to be there.
// Cost      K L^2 d flops; on the host it would be that and a copy as large as the loadings.
// Numerics  double, as cpp/model.cpp makes them for the CPU: core::column_error bounds what either is off by.
// Source    forward substitution, for one feature after the other.
void make_columns(Stream stream, const ModelView& model, double* columns, double* weighted_means);

}  // namespace mfa::cuda
