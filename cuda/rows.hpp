// Samples as they lie on the device: rows of one of four types, any distance apart, entries in a line.
#pragma once

#include <bit>
#include <cstddef>
#include <cstdint>
#include <type_traits>

#include "core/config.hpp"

namespace mfa::cuda {

// The upper half of a float.
struct Bfloat16 {
  std::uint16_t bits;
  MFA_HD operator float() const { return std::bit_cast<float>(static_cast<std::uint32_t>(bits) << 16); }
};

enum class ElementType { f32, f64, bf16, u8 };

// Each of the four types, for what is instantiated of templates of them.
#define MFA_FOR_SAMPLE_TYPES(INSTANTIATE) \
  INSTANTIATE(float) INSTANTIATE(double) INSTANTIATE(Bfloat16) INSTANTIATE(std::uint8_t)

// The type in which results are given, and to whose tolerance: as on the CPU float32 for float32, float64 for images in
// uint8.
template <class S>
using Precision = std::conditional_t<std::is_same_v<S, float> || std::is_same_v<S, Bfloat16>, float, double>;

template <class S>
struct Rows {
  const char* data;
  std::ptrdiff_t stride;  // bytes
  std::size_t count;
  std::size_t first = 0;  // where they stand among the caller's

  MFA_HD const S* row(std::size_t i) const {
    return reinterpret_cast<const S*>(data + static_cast<std::ptrdiff_t>(i) * stride);
  }
  // Whether four entries can be read at once wherever they begin with a multiple of four.
  MFA_HD bool has_aligned_fours() const {
    return (reinterpret_cast<std::uintptr_t>(data) | static_cast<std::uintptr_t>(stride)) % (4 * sizeof(S)) == 0;
  }
  Rows part(std::size_t begin, std::size_t n) const {
    return {data + static_cast<std::ptrdiff_t>(begin) * stride, stride, n, first + begin};
  }
};

// Samples whose type is known when a call comes.
struct AnyRows {
  const void* data = nullptr;
  ElementType type = ElementType::f32;
  std::size_t count = 0;
  std::ptrdiff_t stride = 0;

  template <class S>
  Rows<S> of() const {
    return {static_cast<const char*>(data), stride, count};
  }
};

// Calls call(S{}) with the type of the rows.
template <class Call>
decltype(auto) by_type(const AnyRows& rows, const Call& call) {
  switch (rows.type) {
    case ElementType::f64: return call(double{});
    case ElementType::bf16: return call(Bfloat16{});
    case ElementType::u8: return call(std::uint8_t{});
    default: return call(float{});
  }
}

template <class T>
struct alignas(4 * sizeof(T)) Four {
  T values[4];
};
// The next four numbers, of which `left` there are: 0 stands for the others. `aligned` if they can be read at once.
template <class T>
MFA_HD Four<T> load_four(const T* from, unsigned left, bool aligned) {
  if (aligned && left >= 4) return *reinterpret_cast<const Four<T>*>(from);
  Four<T> four{};
  for (unsigned e = 0; e < 4; ++e)
    if (e < left) four.values[e] = from[e];
  return four;
}

// Stores those of four numbers that there is room for.
template <class T>
MFA_HD void store_four(const Four<T>& four, T* to, unsigned left, bool aligned) {
  if (aligned && left >= 4) {
    *reinterpret_cast<Four<T>*>(to) = four;
    return;
  }
  for (unsigned e = 0; e < 4; ++e)
    if (e < left) to[e] = four.values[e];
}

template <class A, class S>
MFA_HD A to(S value) {
  if constexpr (std::is_same_v<S, Bfloat16>) return static_cast<A>(static_cast<float>(value));
  else return static_cast<A>(value);
}

}  // namespace mfa::cuda
