#include "device.hpp"

#include <mutex>
#include <set>
#include <stdexcept>
#include <string>
#include <utility>

namespace mfa::cuda {
namespace {

void check(cudaError_t error, const char* what) {
  if (error != cudaSuccess)
    throw std::runtime_error(std::string("CUDA: ") + what + " failed: " + cudaGetErrorString(error));
}

}  // namespace

void check_launch(const char* what) { check(cudaGetLastError(), what); }

// Memory that may be paged out is staged before the call returns, and may change or go then; but where the device reads it by
// the host's own page tables, nothing is, and the copy has to be waited for.
void copy_to_device(Stream stream, void* to, const void* from, std::size_t bytes) {
  if (bytes == 0) return;
  check(cudaMemcpyAsync(to, from, bytes, cudaMemcpyHostToDevice, stream), "copying to the device");
  int device = 0, coherent = 0;
  check(cudaGetDevice(&device), "asking for the device");
  check(cudaDeviceGetAttribute(&coherent, cudaDevAttrPageableMemoryAccessUsesHostPageTables, device),
        "asking how the device reads the host's memory");
  if (coherent != 0) check(cudaStreamSynchronize(stream), "copying to the device");
}

void fill_zero(Stream stream, void* at, std::size_t bytes) {
  if (bytes > 0) check(cudaMemsetAsync(at, 0, bytes, stream), "setting memory to zero");
}

std::size_t resident_blocks() {
  constexpr int blocks_per_processor = 8;
  int device = 0, processors = 0;
  check(cudaGetDevice(&device), "asking for the device");
  check(cudaDeviceGetAttribute(&processors, cudaDevAttrMultiProcessorCount, device), "asking for the device's size");
  return static_cast<std::size_t>(processors) * blocks_per_processor;
}

// Of a block, what its kernel declares included.
static int most_shared_memory() {
  int device = 0, bytes = 0;
  check(cudaGetDevice(&device), "asking for the device");
  check(cudaDeviceGetAttribute(&bytes, cudaDevAttrMaxSharedMemoryPerBlockOptin, device), "asking for shared memory");
  return bytes;
}

std::size_t room_in_block() {
  constexpr int declared = 21 << 10;  // the most that a kernel declares which is launched with what this returns
  return static_cast<std::size_t>(most_shared_memory() - declared);
}

// What is allowed without asking is less than what a kernel and its launch take together. Always as much as there is: another
// thread may be about to launch the same kernel with more than this one needs.
void allow_block_memory(const void* kernel) {
  int device = 0;
  check(cudaGetDevice(&device), "asking for the device");
  // Once on each device: asking takes as long as a launch.
  static std::mutex mutex;
  static std::set<std::pair<const void*, int>> allowed;
  const std::lock_guard lock(mutex);
  if (allowed.contains({kernel, device})) return;
  cudaFuncAttributes declared{};
  check(cudaFuncGetAttributes(&declared, kernel), "asking for a kernel's memory");
  check(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize,
                             most_shared_memory() - static_cast<int>(declared.sharedSizeBytes)),
        "asking for shared memory");
  allowed.insert({kernel, device});
}

std::string unavailable_reason() {
  int version = 0, count = 0, device = 0, major = 0;
  if (cudaDriverGetVersion(&version) != cudaSuccess || version == 0) return "no NVIDIA driver is installed";
  cudaError_t error = cudaGetDeviceCount(&count);
  if (error == cudaSuccess && count > 0) error = cudaGetDevice(&device);
  if (error == cudaSuccess && count > 0)
    error = cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, device);
  if (error != cudaSuccess) {
    (void)cudaGetLastError();  // it is not to be met again
    return cudaGetErrorString(error);
  }
  if (count == 0) return "the driver sees no device";
  constexpr int oldest = 8;  // the least that the kernels are compiled for
  if (major < oldest)
    return "the device has compute capability " + std::to_string(major) + ", of which " + std::to_string(oldest) +
           " is the least";
  return {};
}

std::vector<std::string> device_names() {
  int count = 0;
  check(cudaGetDeviceCount(&count), "counting devices");
  std::vector<std::string> names;
  for (int device = 0; device < count; ++device) {
    cudaDeviceProp properties{};
    check(cudaGetDeviceProperties(&properties, device), "asking for a device's name");
    names.emplace_back(properties.name);
  }
  return names;
}

int device_of(const void* memory) {
  cudaPointerAttributes attributes{};
  check(cudaPointerGetAttributes(&attributes, memory), "asking where an array lies");
  if (attributes.type != cudaMemoryTypeDevice && attributes.type != cudaMemoryTypeManaged)
    throw std::runtime_error("CUDA: an array does not lie on a device");
  return attributes.device;
}

OnDevice::OnDevice(int device) {
  check(cudaGetDevice(&before_), "asking for the device");
  if (device == before_) return;
  check(cudaSetDevice(device), "choosing the device");
  changed_ = true;
}

// A device that was not chosen is not chosen again: that would wake it.
OnDevice::~OnDevice() {
  if (changed_) (void)cudaSetDevice(before_);
}

}  // namespace mfa::cuda
