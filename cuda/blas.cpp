#include "blas.hpp"

#include <dlfcn.h>

#include <map>
#include <mutex>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

namespace mfa::cuda {
namespace {

// The few functions that are called, as cublas_api.h declares them: numbers of enumerations and all.
using Handle = void*;
constexpr int transpose = 1, no_transpose = 0;  // CUBLAS_OP_T, CUBLAS_OP_N

struct Library {
  int (*create)(Handle*) = nullptr;
  int (*set_stream)(Handle, cudaStream_t) = nullptr;
  int (*set_workspace)(Handle, void*, std::size_t) = nullptr;
  int (*dgemm)(Handle, int, int, int, int, int, const double*, const double*, int, const double*, int, const double*,
               double*, int) = nullptr;
  std::string missing;
};

template <class F>
bool find(void* library, const char* name, F& function) {
  function = reinterpret_cast<F>(dlsym(library, name));
  return function != nullptr;
}

std::mutex mutex;  // of all below

std::vector<std::string>& package_folders() {
  static std::vector<std::string> folders;
  return folders;
}

// One that the process has loaded comes first, then the system's, then NVIDIA's Python packages for CUDA 13 and 12.
void* open_blas() {
  for (const int flags : {RTLD_NOW | RTLD_NOLOAD, RTLD_NOW})
    for (const char* name : {"libcublas.so.13", "libcublas.so.12"})
      if (void* library = dlopen(name, flags)) return library;
  struct Place {
    const char *folder, *version;
  };
  for (const Place& place : {Place{"/nvidia/cu13/lib/", "13"}, Place{"/nvidia/cublas/lib/", "12"}})
    for (const std::string& packages : package_folders()) {
      const std::string folder = packages + place.folder;
      // The one is made of the other, which it does not find by itself.
      if (dlopen((folder + "libcublasLt.so." + place.version).c_str(), RTLD_NOW) == nullptr) continue;
      if (void* library = dlopen((folder + "libcublas.so." + place.version).c_str(), RTLD_NOW)) return library;
    }
  return nullptr;
}

Library open_library() {
  Library lib;
  void* library = open_blas();
  if (library == nullptr) {
    lib.missing =
        "cuBLAS (libcublas.so.13 or .12) was not found; import torch or cupy first, or pip install nvidia-cublas";
    return lib;
  }
  const bool complete = find(library, "cublasCreate_v2", lib.create) &&
                        find(library, "cublasSetStream_v2", lib.set_stream) &&
                        find(library, "cublasSetWorkspace_v2", lib.set_workspace) &&
                        find(library, "cublasDgemm_v2", lib.dgemm);
  if (!complete) lib.missing = "the cuBLAS that was found lacks functions of version 12";
  return lib;
}

// One that was not found may have been loaded since.
const Library& library() {
  static Library lib;
  if (lib.create == nullptr || !lib.missing.empty()) lib = open_library();
  return lib;
}

void check(int status, const char* what) {
  if (status != 0)
    throw std::runtime_error(std::string("cuBLAS: ") + what + " failed with status " + std::to_string(status));
}

// Kept until the process ends: making one takes long.
Handle handle_of_current_device() {
  static std::map<int, Handle> handles;
  int device = 0;
  if (cudaGetDevice(&device) != cudaSuccess) throw std::runtime_error("CUDA: there is no current device");
  Handle& handle = handles[device];
  if (handle == nullptr) {
    if (!library().missing.empty()) throw std::runtime_error(library().missing);
    check(library().create(&handle), "making a handle");
  }
  return handle;
}

}  // namespace

void set_package_folders(std::vector<std::string> folders) {
  const std::lock_guard lock(mutex);
  package_folders() = std::move(folders);
}

std::string blas_unavailable_reason() {
  const std::lock_guard lock(mutex);
  return library().missing;
}

Blas::Blas(Stream stream, void* workspace) {
  mutex.lock();
  try {
    handle_ = handle_of_current_device();
    check(library().set_stream(handle_, stream), "choosing the stream");  // takes the workspace away
    check(library().set_workspace(handle_, workspace, workspace_bytes), "setting the workspace");
  } catch (...) {
    mutex.unlock();
    throw;
  }
}

Blas::~Blas() { mutex.unlock(); }

// cuBLAS reads matrices column by column: ours are their transposes, and out^T (columns, n) is what it makes.
void Blas::multiply(const double* x, std::size_t n, std::size_t depth, const double* right, std::size_t columns,
                    double* out) const {
  if (n == 0 || columns == 0) return;
  const auto m = static_cast<int>(columns), count = static_cast<int>(n), k = static_cast<int>(depth);
  const double one = 1.0, zero = 0.0;
  check(library().dgemm(handle_, transpose, no_transpose, m, count, k, &one, right, k, x, k, &zero, out, m),
        "multiplying");
}

}  // namespace mfa::cuda
