// The edge to CUDA's run time: streams, copies, launches and memory. All else under cuda/ goes through it, so that the
// sources compile for a device and, in test builds, for the CPU.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <string>
#include <utility>
#include <vector>

#include "core/config.hpp"

#if defined(MFA_CUDA_EMULATION)
#include "emulation/cuda_on_cpu.hpp"
#else
#include <cuda_runtime.h>
#endif

namespace mfa::cuda {

using Stream = cudaStream_t;

// Memory on the device for as long as its owner says, from the caller's allocator.
using Allocate = std::function<void*(std::size_t bytes)>;

inline constexpr unsigned warp_size = 32;
inline constexpr unsigned all_lanes = 0xffffffffu;

// Throws std::runtime_error where the run time reports an error of what was queued by this thread.
void check_launch(const char* what);
void copy_to_device(Stream stream, void* to, const void* from, std::size_t bytes);
void fill_zero(Stream stream, void* at, std::size_t bytes);
// Blocks that keep the whole device busy, for kernels whose blocks take task after task.
std::size_t resident_blocks();
// Bytes of shared memory that kernels can be launched with, beside what they declare themselves.
std::size_t room_in_block();
// Lets a kernel be launched with as much shared memory as a block may have.
void allow_block_memory(const void* kernel);
// Why there is no device to run on; empty where there is one.
std::string unavailable_reason();
std::vector<std::string> device_names();

// The number of the device that some memory lies on.
int device_of(const void* memory);

// That device is the current one of this thread while this lives.
class OnDevice {
 public:
  explicit OnDevice(int device);
  ~OnDevice();
  OnDevice(const OnDevice&) = delete;
  OnDevice& operator=(const OnDevice&) = delete;

 private:
  int before_ = 0;
  bool changed_ = false;
};

// Parts of one allocation. With no memory it only counts, so that one function both measures and lays out.
class Arena {
 public:
  explicit Arena(void* memory = nullptr) : memory_(static_cast<char*>(memory)) {}

  template <class T>
  T* take(std::size_t count) {
    constexpr std::size_t alignment = 256;
    T* part = memory_ == nullptr ? nullptr : reinterpret_cast<T*>(memory_ + used_);
    used_ += (count * sizeof(T) + alignment - 1) / alignment * alignment;
    return part;
  }
  std::size_t used() const { return used_; }

 private:
  char* memory_;
  std::size_t used_ = 0;
};

inline std::size_t ceil_div(std::size_t a, std::size_t b) { return (a + b - 1) / b; }

#if defined(__CUDACC__) || defined(MFA_CUDA_EMULATION)

// Queues a kernel of `blocks` blocks of `threads` threads, each block with so many bytes at block_memory().
template <class... Parameters, class... Arguments>
void launch_with_memory(Stream stream, std::size_t blocks, unsigned threads, std::size_t bytes,
                        void (*kernel)(Parameters...), Arguments&&... arguments) {
  if (blocks == 0) return;
#if defined(MFA_CUDA_EMULATION)
  (void)stream;
  emulation::run_grid(blocks, threads, bytes, [&] { kernel(arguments...); });
#else
  if (bytes > 0) allow_block_memory(reinterpret_cast<const void*>(kernel));
  kernel<<<static_cast<unsigned>(blocks), threads, bytes, stream>>>(std::forward<Arguments>(arguments)...);
  check_launch("a kernel");
#endif
}
template <class... Parameters, class... Arguments>
void launch(Stream stream, std::size_t blocks, unsigned threads, void (*kernel)(Parameters...),
            Arguments&&... arguments) {
  launch_with_memory(stream, blocks, threads, 0, kernel, std::forward<Arguments>(arguments)...);
}

// The shared memory that a block was launched with.
__device__ inline unsigned char* block_memory() {
#if defined(MFA_CUDA_EMULATION)
  return emulation::block_memory();
#else
  extern __shared__ __align__(128) unsigned char memory_of_block[];
  return memory_of_block;
#endif
}

// Copies `Bytes` (4, 8 or a multiple of 16, aligned like that) to shared memory while the block goes on. Those of a thread
// since its last commit_copies() make up a group; await_copies<n>() waits until no more than its n newest are under way. What
// is copied Once stays out of the processor's own cache, in pieces of 16 bytes; smaller ones cannot.
template <unsigned Bytes, bool Once = false>
__device__ void copy_to_block(void* to, const void* from) {
#if defined(MFA_CUDA_EMULATION)
  emulation::start_copy(to, from, Bytes);
#else
  constexpr unsigned piece = Bytes < 16 ? Bytes : 16;
  const auto at = static_cast<unsigned>(__cvta_generic_to_shared(to));
#pragma unroll
  for (unsigned done = 0; done < Bytes; done += piece) {
    const auto* of = static_cast<const char*>(from) + done;
    if constexpr (Once && piece == 16)
      asm volatile("cp.async.cg.shared.global.L2::256B [%0], [%1], 16;" ::"r"(at + done), "l"(of) : "memory");
    else
      asm volatile("cp.async.ca.shared.global [%0], [%1], %2;" ::"r"(at + done), "l"(of), "n"(piece) : "memory");
  }
#endif
}
__device__ inline void commit_copies() {
#if defined(MFA_CUDA_EMULATION)
  emulation::commit_copies();
#else
  asm volatile("cp.async.commit_group;" ::: "memory");
#endif
}
template <unsigned Pending>
__device__ void await_copies() {
#if defined(MFA_CUDA_EMULATION)
  emulation::await_copies(Pending);
#else
  asm volatile("cp.async.wait_group %0;" ::"n"(Pending) : "memory");
#endif
}

inline constexpr unsigned task_threads = 256;

// The number of a thread among all of its kernel's: launched by launch_tasks, with one thread per task.
__device__ inline std::size_t task_index() {
  return static_cast<std::size_t>(blockIdx.x) * blockDim.x + threadIdx.x;
}
template <class... Parameters, class... Arguments>
void launch_tasks(Stream stream, std::size_t tasks, void (*kernel)(Parameters...), Arguments&&... arguments) {
  launch(stream, ceil_div(tasks, task_threads), task_threads, kernel, std::forward<Arguments>(arguments)...);
}

// Few numbers that go to the device with a launch: unlike a copy from the host that never waits.
template <class T>
struct Payload {
  static constexpr std::size_t most = 2048 / sizeof(T);
  T values[most];
};
template <class T>
__global__ void store_kernel(Payload<T> from, std::size_t count, T* to) {
  for (std::size_t i = threadIdx.x; i < count; i += blockDim.x) to[i] = from.values[i];
}
template <class T>
void send(Stream stream, const T* from, std::size_t count, T* to) {
  for (std::size_t first = 0; first < count; first += Payload<T>::most) {
    const std::size_t n = count - first < Payload<T>::most ? count - first : Payload<T>::most;
    Payload<T> payload{};
    std::copy_n(from + first, n, payload.values);
    launch(stream, 1, task_threads, store_kernel<T>, payload, n, to + first);
  }
}

// a b, rounded before anything is added to it.
__device__ inline double rounded_product(double a, double b) {
#if defined(MFA_CUDA_EMULATION)
  return a * b;
#else
  return __dmul_rn(a, b);
#endif
}

// The sum over the lanes of a warp, in one fixed order, for all of them.
__device__ inline double warp_sum(double value) {
  for (int mask = 16; mask > 0; mask /= 2) value += __shfl_xor_sync(all_lanes, value, mask);
  return value;
}

// Notes a row as bad, the lowest one in the end.
__device__ inline void report_bad_row(std::int64_t* bad_row, std::size_t row) {
  atomicMin(reinterpret_cast<unsigned long long*>(bad_row), static_cast<unsigned long long>(row));
}

#endif

}  // namespace mfa::cuda
