#include "blas.hpp"

namespace mfa::cuda {
namespace {

// In one chain, which is the worst that a library may do.
template <class T>
void multiply_in_chains(const T* x, std::size_t n, std::size_t depth, const T* right, std::size_t columns, T* out) {
  for (std::size_t i = 0; i < n; ++i)
    for (std::size_t c = 0; c < columns; ++c) {
      T sum = 0;
      for (std::size_t j = 0; j < depth; ++j) sum += x[i * depth + j] * right[c * depth + j];
      out[i * columns + c] = sum;
    }
}

}  // namespace

void set_package_folders(std::vector<std::string>) {}
std::string blas_unavailable_reason() { return {}; }
Blas::Blas(Stream, void*) : handle_(nullptr) {}
Blas::~Blas() = default;
void Blas::multiply(const float* x, std::size_t n, std::size_t depth, const float* right, std::size_t columns,
                    float* out) const {
  multiply_in_chains(x, n, depth, right, columns, out);
}
void Blas::multiply(const double* x, std::size_t n, std::size_t depth, const double* right, std::size_t columns,
                    double* out) const {
  multiply_in_chains(x, n, depth, right, columns, out);
}

}  // namespace mfa::cuda
