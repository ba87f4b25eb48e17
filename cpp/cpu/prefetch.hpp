// Memory that lies where the processor does not guess it.
#pragma once

#include <cstddef>

#include "core/config.hpp"

namespace mfa::cpu {
inline namespace MFA_ISA {

// Asks for `bytes` that will be read soon.
MFA_INLINE void prefetch(const void* p, std::size_t bytes) {
#if defined(__GNUC__)
  for (std::size_t i = 0; i < bytes; i += 64) __builtin_prefetch(static_cast<const char*>(p) + i);
#else
  (void)p, (void)bytes;
#endif
}

}  // namespace MFA_ISA
}  // namespace mfa::cpu
