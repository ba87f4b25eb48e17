// The macros that all code shares: functions that compile for host and device, inner loops that must be inlined, and one
// namespace per instruction set.
#pragma once

#if defined(__CUDACC__)
#define MFA_HD __host__ __device__
#else
#define MFA_HD
#endif

// The same, but never inlined on a device: what takes much of a thread's own memory, of which every copy would be kept for
// as many threads as there may be.
#if defined(__CUDACC__)
#define MFA_HD_APART __host__ __device__ __noinline__
#else
#define MFA_HD_APART
#endif

#if defined(__GNUC__)
#define MFA_INLINE inline __attribute__((always_inline))
#else
#define MFA_INLINE inline
#endif

// Inline functions that are compiled with different instruction sets must not share a symbol: the linker would keep
// one of them for all, and a machine without AVX-512 would meet AVX-512 code.
#ifndef MFA_ISA
#define MFA_ISA portable
#endif
