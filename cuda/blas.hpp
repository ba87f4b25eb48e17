// Matrix products by cuBLAS, which is found at run time in the CUDA libraries that torch or CuPy brought.
#pragma once

#include <cstddef>
#include <string>
#include <vector>

#include "device.hpp"

namespace mfa::cuda {

// Folders in which Python packages are, where it is looked for if the process has not loaded one and the system has none.
void set_package_folders(std::vector<std::string> folders);
// Why there is no cuBLAS; empty where there is one.
std::string blas_unavailable_reason();

class Blas {
 public:
  // Bytes of workspace that it is to be given, so that it allocates none of its own.
#if defined(MFA_CUDA_EMULATION)
  static constexpr std::size_t workspace_bytes = 0;
#else
  static constexpr std::size_t workspace_bytes = std::size_t{32} << 20;
#endif

  // On the current device. Others wait until this one goes: cuBLAS's handles are for one thread at a time.
  Blas(Stream stream, void* workspace);
  ~Blas();
  Blas(const Blas&) = delete;
  Blas& operator=(const Blas&) = delete;

  // out (n, columns) = x (n, depth) times right (columns, depth) transposed, all of them row by row in a line.
  void multiply(const double* x, std::size_t n, std::size_t depth, const double* right, std::size_t columns,
                double* out) const;

 private:
  void* handle_;
};

}  // namespace mfa::cuda
