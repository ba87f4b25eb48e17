#include "cpu/isa.hpp"

#include <atomic>
#include <stdexcept>
#include <string>

#if defined(_MSC_VER) && MFA_X86
#include <immintrin.h>
#include <intrin.h>
#endif

namespace mfa::cpu {

#if MFA_X86
namespace v2 { extern const Loops loops; }
namespace v3 { extern const Loops loops; }
namespace v4 { extern const Loops loops; }
#else
namespace baseline { extern const Loops loops; }
#endif

namespace {

#if MFA_X86 && defined(_MSC_VER)
bool has_v3() {
  int r[4];
  __cpuid(r, 1);
  const bool fma_and_os = (r[2] >> 12 & 1) && (r[2] >> 27 & 1) && (_xgetbv(0) & 6) == 6;
  __cpuidex(r, 7, 0);
  return fma_and_os && (r[1] >> 5 & 1) && (r[1] >> 8 & 1);
}
bool has_v4() {
  int r[4];
  __cpuidex(r, 7, 0);
  const unsigned wanted = 1u << 16 | 1u << 17 | 1u << 28 | 1u << 30 | 1u << 31;
  return has_v3() && (_xgetbv(0) & 0xe6) == 0xe6 && (static_cast<unsigned>(r[1]) & wanted) == wanted;
}
#elif MFA_X86
bool has_v3() {
  return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("bmi") &&
         __builtin_cpu_supports("bmi2");
}
bool has_v4() {
  return has_v3() && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
         __builtin_cpu_supports("avx512cd") && __builtin_cpu_supports("avx512dq") &&
         __builtin_cpu_supports("avx512vl");
}
#endif

// Atomic, as models are packed without the GIL.
std::atomic<const Loops*>& forced() {
  static std::atomic<const Loops*> table{nullptr};
  return table;
}

}  // namespace

std::vector<const Loops*> available_loops() {
#if MFA_X86
  std::vector<const Loops*> tables{&v2::loops};
  if (has_v3()) tables.push_back(&v3::loops);
  if (has_v4()) tables.push_back(&v4::loops);
  return tables;
#else
  return {&baseline::loops};
#endif
}

const Loops& current_loops() {
  static const Loops* const best = available_loops().back();
  const Loops* const table = forced();
  return table != nullptr ? *table : *best;
}

void force_loops(std::string_view name) {
  std::string known;
  for (const Loops* table : available_loops()) {
    if (name == table->name) {
      forced() = table;
      return;
    }
    known += known.empty() ? table->name : std::string(", ") + table->name;
  }
  throw std::invalid_argument("instruction set '" + std::string(name) + "' is not one of this machine's: " + known);
}

}  // namespace mfa::cpu
