// Vectors of W numbers with the arithmetic operators, and the loads and stores that go with them.
#pragma once

#include <cstddef>
#include <cstring>

#if defined(__GNUC__) && defined(__SSE2__)
#include <immintrin.h>
#endif

#include "core/config.hpp"

namespace mfa::cpu {
inline namespace MFA_ISA {

#if defined(__GNUC__)
template <class T, std::size_t W>
struct VectorOf {
  typedef T type __attribute__((vector_size(W * sizeof(T))));
};
template <class T>
struct VectorOf<T, 1> {
  using type = T;
};
template <class T, std::size_t W>
using Vector = typename VectorOf<T, W>::type;
#else
// No vector extension: an array that the compiler may keep in registers. Which products it would contract into FMA could
// then differ between kernels for one row and for more, and a row's result has to be the same in all of them.
#pragma fp_contract(off)
template <class T, std::size_t W>
struct Vector {
  T lane[W];
  Vector& operator+=(const Vector& o) { for (std::size_t i = 0; i < W; ++i) lane[i] += o.lane[i]; return *this; }
  Vector& operator-=(const Vector& o) { for (std::size_t i = 0; i < W; ++i) lane[i] -= o.lane[i]; return *this; }
  Vector& operator*=(const Vector& o) { for (std::size_t i = 0; i < W; ++i) lane[i] *= o.lane[i]; return *this; }
  friend Vector operator+(Vector a, const Vector& b) { return a += b; }
  friend Vector operator-(Vector a, const Vector& b) { return a -= b; }
  friend Vector operator*(Vector a, const Vector& b) { return a *= b; }
  T operator[](std::size_t i) const { return lane[i]; }
};
#endif

template <class T, std::size_t W>
MFA_INLINE Vector<T, W> load(const T* p) {
  Vector<T, W> v;
  std::memcpy(&v, p, sizeof v);
  return v;
}

// The first `count` lanes; the others are zero.
template <class T, std::size_t W>
MFA_INLINE Vector<T, W> load(const T* p, std::size_t count) {
  T lanes[W] = {};
  std::memcpy(lanes, p, count * sizeof(T));
  return load<T, W>(lanes);
}

// All lanes, or the first `count`.
template <bool Whole, std::size_t W, class T>
MFA_INLINE Vector<T, W> load_some(const T* p, std::size_t count) {
  if constexpr (Whole) return load<T, W>(p);
  else return load<T, W>(p, count);
}

template <class T, std::size_t W>
MFA_INLINE void store(T* p, const Vector<T, W>& v) {
  std::memcpy(p, &v, sizeof v);
}

template <class T, std::size_t W>
MFA_INLINE Vector<T, W> broadcast(T value) {
  Vector<T, W> v;
  if constexpr (W == 1) {
    std::memcpy(&v, &value, sizeof v);
  } else {
#if defined(__GNUC__)
    v = value - Vector<T, W>{};
#else
    for (std::size_t i = 0; i < W; ++i) v.lane[i] = value;
#endif
  }
  return v;
}

template <bool Whole, std::size_t W, class T>
MFA_INLINE void store_some(T* p, const Vector<T, W>& v, std::size_t count) {
  std::memcpy(p, &v, Whole ? sizeof v : count * sizeof(T));
}

// A bit for every lane that is below `bound`; none where there is no number.
template <class T, std::size_t W>
MFA_INLINE unsigned lanes_below(const Vector<T, W>& v, const Vector<T, W>& bound) {
#if defined(__GNUC__) && defined(__AVX512F__)
  if constexpr (W == 16) return _mm512_cmp_ps_mask((__m512)v, (__m512)bound, _CMP_LT_OQ);
  else return _mm512_cmp_pd_mask((__m512d)v, (__m512d)bound, _CMP_LT_OQ);
#elif defined(__GNUC__) && defined(__AVX2__)
  if constexpr (W == 8) return static_cast<unsigned>(_mm256_movemask_ps((__m256)(v < bound)));
  else return static_cast<unsigned>(_mm256_movemask_pd((__m256d)(v < bound)));
#elif defined(__GNUC__) && defined(__SSE2__)
  if constexpr (W == 4) return static_cast<unsigned>(_mm_movemask_ps((__m128)(v < bound)));
  else return static_cast<unsigned>(_mm_movemask_pd((__m128d)(v < bound)));
#else
  T a[W], b[W];
  store<T, W>(a, v);
  store<T, W>(b, bound);
  unsigned bits = 0;
  for (std::size_t i = 0; i < W; ++i) bits |= (a[i] < b[i] ? 1u : 0u) << i;
  return bits;
#endif
}

// The lowest bit that is set, of at least one.
MFA_INLINE std::size_t lowest_bit(unsigned bits) {
#if defined(__GNUC__)
  return static_cast<std::size_t>(__builtin_ctz(bits));
#else
  std::size_t i = 0;
  while ((bits >> i & 1u) == 0) ++i;
  return i;
#endif
}

template <std::size_t W>
MFA_INLINE Vector<double, W> widen(const Vector<double, W>& v) {
  return v;
}

template <std::size_t W>
MFA_INLINE Vector<double, W> widen(const Vector<float, W>& v) {
#if defined(__GNUC__)
  if constexpr (W == 1) return static_cast<double>(v);
#if defined(__AVX512F__)
  // One instruction, of which GCC 12 makes five.
  else if constexpr (W == 8) return (Vector<double, W>)_mm512_maskz_cvtps_pd(0xff, (__m256)v);
#endif
  else return __builtin_convertvector(v, Vector<double, W>);
#else
  Vector<double, W> wide;
  for (std::size_t i = 0; i < W; ++i) wide.lane[i] = static_cast<double>(v.lane[i]);
  return wide;
#endif
}

// The lanes' sum, always in the same order: the upper half is added to the lower, again and again.
template <class T, std::size_t W>
MFA_INLINE T sum(const Vector<T, W>& v) {
  if constexpr (W == 1) {
    T lane;
    std::memcpy(&lane, &v, sizeof lane);
    return lane;
  } else {
    Vector<T, W / 2> halves[2];
    std::memcpy(halves, &v, sizeof v);
    return sum<T, W / 2>(halves[0] + halves[1]);
  }
}

}  // namespace MFA_ISA
}  // namespace mfa::cpu
