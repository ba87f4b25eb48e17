// A root between two points at which a function has different signs.
#pragma once

#include "core/config.hpp"

namespace mfa::core {
inline namespace MFA_ISA {

// Computes  a root of f between a, where f > 0, and b, where f <= 0, to 1e-14 of b; what it returns has f <= 0.
// Cost      about ten evaluations.
// Source    the Illinois variant of false position, Dowell & Jarratt 1971.
template <class F>
MFA_HD inline double bracketed_root(double a, double fa, double b, double fb, F f) {
  int stale = 0;  // how often in a row the same end was replaced: > 0 the right one, < 0 the left one
  for (int iteration = 0; iteration < 100 && fb < 0.0 && b - a > 1e-14 * b; ++iteration) {
    double t = b - fb * (b - a) / (fb - fa);
    if (!(t > a && t < b)) t = 0.5 * (a + b);
    const double ft = f(t);
    if (ft <= 0.0) {
      b = t;
      fb = ft;
      stale = stale > 0 ? stale + 1 : 1;
      if (stale > 1) fa *= 0.5;
    } else {
      a = t;
      fa = ft;
      stale = stale < 0 ? stale - 1 : -1;
      if (stale < -1) fb *= 0.5;
    }
  }
  return b;
}

}  // namespace MFA_ISA
}  // namespace mfa::core
