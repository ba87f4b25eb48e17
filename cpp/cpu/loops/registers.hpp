// The register file that the loops are written for. Part of loops.cpp.
#pragma once

#include <cstddef>

#include "cpu/simd.hpp"

namespace mfa::cpu::inline MFA_ISA {
namespace {

// Bytes of a vector register, and rows of the matrix product whose accumulators fit the register file.
#if defined(__AVX512F__)
constexpr std::size_t vector_bytes = 64;
constexpr std::size_t product_rows = 8;
#elif defined(__AVX2__)
constexpr std::size_t vector_bytes = 32;
constexpr std::size_t product_rows = 6;
#else
constexpr std::size_t vector_bytes = 16;
constexpr std::size_t product_rows = 4;
#endif
template <class T>
constexpr std::size_t width = vector_bytes / sizeof(T);

}  // namespace
}  // namespace mfa::cpu::MFA_ISA
