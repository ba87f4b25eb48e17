// Samples as the caller has them: any real type, any strides. They are read row by row, never copied as a whole.
#pragma once

#include <cstddef>

#include "cpu/prefetch.hpp"

namespace mfa::cpu {

enum class ElementType { f16, f32, f64, long_double, boolean, u8, u16, u32, u64, i8, i16, i32, i64 };

struct Rows {
  const void* data = nullptr;
  ElementType type = ElementType::f64;
  std::size_t n_rows = 0;
  std::size_t n_features = 0;
  std::ptrdiff_t row_stride = 0;     // bytes
  std::ptrdiff_t column_stride = 0;  // bytes
};

// Rows (n, d) in memory of our own.
template <class T>
Rows rows_in_line(const T* data, std::size_t n, std::size_t d) {
  return {data, sizeof(T) == sizeof(float) ? ElementType::f32 : ElementType::f64, n, d,
          static_cast<std::ptrdiff_t>(d * sizeof(T)), sizeof(T)};
}

// Where element `first` of a row lies.
inline const char* address(const Rows& rows, std::size_t row, std::size_t first) {
  return static_cast<const char*>(rows.data) + static_cast<std::ptrdiff_t>(row) * rows.row_stride +
         static_cast<std::ptrdiff_t>(first) * rows.column_stride;
}

// Rows [first, first + count).
inline Rows part(const Rows& rows, std::size_t first, std::size_t count) {
  return {address(rows, first, 0), rows.type, count, rows.n_features, rows.row_stride, rows.column_stride};
}

// Elements [first, first + count) of a row: where they lie if they are of type T and in a line, else converted into the
// buffer (count). float is for rows of float, double for all.
template <class T>
const T* read_row(const Rows& rows, std::size_t row, std::size_t first, std::size_t count, T* buffer);

// Asks for those elements, where they lie in a line.
inline void prefetch_row(const Rows& rows, std::size_t row, std::size_t first, std::size_t count) {
  if (rows.column_stride > static_cast<std::ptrdiff_t>(sizeof(double))) return;
  prefetch(address(rows, row, first), count * static_cast<std::size_t>(rows.column_stride > 0 ? rows.column_stride : 0));
}

}  // namespace mfa::cpu
