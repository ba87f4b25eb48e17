#include "blas.hpp"

namespace mfa::cuda {

void set_package_folders(std::vector<std::string>) {}
std::string blas_unavailable_reason() { return {}; }
Blas::Blas(Stream, void*) : handle_(nullptr) {}
Blas::~Blas() = default;
// In one chain, which is the worst that a library may do.
void Blas::multiply(const double* x, std::size_t n, std::size_t depth, const double* right, std::size_t columns,
                    double* out) const {
  for (std::size_t i = 0; i < n; ++i)
    for (std::size_t c = 0; c < columns; ++c) {
      double sum = 0.0;
      for (std::size_t j = 0; j < depth; ++j) sum += x[i * depth + j] * right[c * depth + j];
      out[i * columns + c] = sum;
    }
}

}  // namespace mfa::cuda
