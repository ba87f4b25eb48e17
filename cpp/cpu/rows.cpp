#include "cpu/rows.hpp"

#include <cmath>
#include <cstdint>

namespace mfa::cpu {
namespace {

// IEEE half precision, as NumPy stores it; C++20 has no type for it.
struct Half {
  std::uint16_t bits;
  operator double() const {
    const int exponent = bits >> 10 & 0x1f;
    const int fraction = bits & 0x3ff;
    double value;
    if (exponent == 0x1f) value = fraction == 0 ? HUGE_VAL : std::nan("");
    else if (exponent == 0) value = std::ldexp(fraction, -24);
    else value = std::ldexp(fraction + 0x400, exponent - 25);
    return bits >> 15 ? -value : value;
  }
};

template <class Source, class T>
void convert(const char* p, std::ptrdiff_t stride, std::size_t count, T* out) {
  if (stride == static_cast<std::ptrdiff_t>(sizeof(Source))) {
    const Source* source = reinterpret_cast<const Source*>(p);
    for (std::size_t i = 0; i < count; ++i) out[i] = static_cast<T>(source[i]);
  } else {
    for (std::size_t i = 0; i < count; ++i)
      out[i] = static_cast<T>(*reinterpret_cast<const Source*>(p + static_cast<std::ptrdiff_t>(i) * stride));
  }
}

}  // namespace

template <>
const float* read_row(const Rows& rows, std::size_t row, std::size_t first, std::size_t count, float* buffer) {
  const char* p = address(rows, row, first);
  if (rows.column_stride == sizeof(float)) return reinterpret_cast<const float*>(p);
  convert<float>(p, rows.column_stride, count, buffer);
  return buffer;
}

template <>
const double* read_row(const Rows& rows, std::size_t row, std::size_t first, std::size_t count, double* buffer) {
  const std::ptrdiff_t stride = rows.column_stride;
  const char* p = address(rows, row, first);
  switch (rows.type) {
    case ElementType::f64:
      if (stride == sizeof(double)) return reinterpret_cast<const double*>(p);
      convert<double>(p, stride, count, buffer);
      break;
    case ElementType::f32: convert<float>(p, stride, count, buffer); break;
    case ElementType::f16: convert<Half>(p, stride, count, buffer); break;
    case ElementType::long_double: convert<long double>(p, stride, count, buffer); break;
    case ElementType::boolean:
    case ElementType::u8: convert<std::uint8_t>(p, stride, count, buffer); break;
    case ElementType::u16: convert<std::uint16_t>(p, stride, count, buffer); break;
    case ElementType::u32: convert<std::uint32_t>(p, stride, count, buffer); break;
    case ElementType::u64: convert<std::uint64_t>(p, stride, count, buffer); break;
    case ElementType::i8: convert<std::int8_t>(p, stride, count, buffer); break;
    case ElementType::i16: convert<std::int16_t>(p, stride, count, buffer); break;
    case ElementType::i32: convert<std::int32_t>(p, stride, count, buffer); break;
    case ElementType::i64: convert<std::int64_t>(p, stride, count, buffer); break;
  }
  return buffer;
}

}  // namespace mfa::cpu
