// The right-hand side of a matrix product, laid out once in the order in which the product walks it.
#pragma once

#include <algorithm>
#include <cstddef>
#include <memory>
#include <new>

#include "cpu/isa.hpp"

namespace mfa::cpu {

// Memory aligned to a cache line, which is also the widest vector.
template <class T>
class AlignedBuffer {
 public:
  explicit AlignedBuffer(std::size_t size = 0)
      : data_(size == 0 ? nullptr
                        : static_cast<T*>(::operator new(size * sizeof(T), std::align_val_t{64}))) {}
  T* data() const { return data_.get(); }

 private:
  struct Free {
    void operator()(T* p) const { ::operator delete(p, std::align_val_t{64}); }
  };
  std::unique_ptr<T, Free> data_;
};

// A matrix (depth, columns) as tiles of two vectors of columns, the last of one where that is enough for it and filled up
// with zeros.
template <class T>
class Panel {
 public:
  Panel() = default;
  Panel(const TypedLoops<T>& loops, std::size_t depth, std::size_t columns)
      : loops_(&loops),
        depth_(depth),
        n_vectors_((columns + loops.width - 1) / loops.width),
        data_(n_vectors_ * loops.width * depth) {
    if (columns < this->columns()) std::fill(tile_of(columns).begin, data_.data() + this->columns() * depth, T{0});
  }

  // Columns of the product; those beyond the matrix's own are zero.
  std::size_t columns() const { return loops_ == nullptr ? 0 : n_vectors_ * loops_->width; }

  // Entries `stride` apart in memory become a column.
  void set_column(std::size_t column, const double* values, std::size_t stride = 1) {
    const Tile to = tile_of(column);
    for (std::size_t j = 0; j < depth_; ++j) to.begin[j * to.width + to.column] = static_cast<T>(values[j * stride]);
  }

  // Lines, one after the other in memory, become columns from the first on.
  void set_columns(const double* lines, std::size_t count) {
    constexpr std::size_t part = 64;  // what is written of a tile stays in the first-level cache until it is full
    for (std::size_t start = 0; start < depth_; start += part)
      for (std::size_t column = 0; column < count; ++column) {
        const Tile to = tile_of(column);
        const double* line = lines + column * depth_;
        const std::size_t end = std::min(start + part, depth_);
        for (std::size_t j = start; j < end; ++j) to.begin[j * to.width + to.column] = static_cast<T>(line[j]);
      }
  }

  // Lines of so many numbers, one after the other in memory, become columns [first, end) of the rows.
  void set_rows(const T* lines, std::size_t length, std::size_t first, std::size_t end) {
    const std::size_t width = 2 * loops_->width;
    const std::size_t part = 16 * width;  // a few pages of memory at once
    for (std::size_t start = first; start < end; start += part)
      for (std::size_t row = 0; row < depth_; ++row)
        for (std::size_t column = start; column < std::min(start + part, end); column += width)
          std::copy_n(lines + row * length + column, std::min(width, end - column),
                      data_.data() + column * depth_ + row * std::min(width, columns() - column));
  }

  // out (rows, columns()) = x (rows, depth) times the matrix.
  void multiply(const T* x, std::size_t rows, T* out) const {
    loops_->multiply({x, rows, depth_, depth_}, data_.data(), n_vectors_, {out, rows, columns(), columns()});
  }

 private:
  // The tile that a column lies in, and which of its columns that is.
  struct Tile {
    T* begin;
    std::size_t width, column;
  };
  Tile tile_of(std::size_t column) const {
    const std::size_t width = 2 * loops_->width;
    const std::size_t first = column / width * width;
    return {data_.data() + first * depth_, std::min(width, columns() - first), column - first};
  }

  const TypedLoops<T>* loops_ = nullptr;
  std::size_t depth_ = 0;
  std::size_t n_vectors_ = 0;
  AlignedBuffer<T> data_;
};

}  // namespace mfa::cpu
