// What the kernels use of CUDA, made of ordinary C++, so that the very same sources run, and are tested, where there is no
// device. The threads of a block are fibers: one runs until it waits at a barrier, then the next does; blocks run one
// after the other. Every other kernel takes both last to first, so that one that depends on an order is found out. Copies to a
// block's memory are made when they are waited for, and not before. For test builds only.
#pragma once

#include <algorithm>
#include <bit>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <functional>

#define __global__
#define __device__
#define __host__
#define __shared__ static  // one block runs at a time
#define __align__(n) __attribute__((aligned(n)))
#define __launch_bounds__(...)

namespace mfa::emulation {

struct Index {
  unsigned x = 0, y = 0, z = 0;
};

// Runs body() once for every thread of every block, under a lock: there is one device. A block has so many bytes of memory.
void run_grid(std::size_t blocks, unsigned threads, std::size_t bytes, const std::function<void()>& body);
unsigned char* block_memory();

void start_copy(void* to, const void* from, unsigned bytes);
void commit_copies();
void await_copies(unsigned pending);

void wait_for_block();
void wait_for_warp();
// Memory (32 places of 8 bytes) that the lanes of the running thread's warp share, for the exchange between this barrier
// and the next but one.
std::uint64_t* exchange();

}  // namespace mfa::emulation

extern mfa::emulation::Index threadIdx, blockIdx, blockDim, gridDim;

inline void __syncthreads() { mfa::emulation::wait_for_block(); }
inline void __syncwarp() { mfa::emulation::wait_for_warp(); }

namespace mfa::emulation {

template <class T, class Read>
auto exchange_values(T value, const Read& read) {
  std::uint64_t* places = exchange();
  std::uint64_t bits = 0;
  std::memcpy(&bits, &value, sizeof(T));
  places[threadIdx.x % 32] = bits;
  wait_for_warp();
  return read([&](unsigned lane) {
    T other;
    std::memcpy(&other, &places[lane], sizeof(T));
    return other;
  });
}

}  // namespace mfa::emulation

template <class T>
T __shfl_xor_sync(unsigned, T value, int mask) {
  return mfa::emulation::exchange_values(
      value, [&](const auto& of) { return of((threadIdx.x % 32) ^ static_cast<unsigned>(mask)); });
}
template <class T>
T __shfl_sync(unsigned, T value, int lane) {
  return mfa::emulation::exchange_values(value, [&](const auto& of) { return of(static_cast<unsigned>(lane)); });
}
template <class T>
T __shfl_up_sync(unsigned, T value, unsigned step) {
  const unsigned lane = threadIdx.x % 32;
  return mfa::emulation::exchange_values(value, [&](const auto& of) { return of(lane < step ? lane : lane - step); });
}
inline unsigned __ballot_sync(unsigned, bool value) {
  return mfa::emulation::exchange_values(value, [&](const auto& of) {
    unsigned bits = 0;
    for (unsigned lane = 0; lane < 32; ++lane) bits |= static_cast<unsigned>(of(lane)) << lane;
    return bits;
  });
}
inline int __popc(unsigned bits) { return std::popcount(bits); }
inline int __ffs(int bits) { return bits == 0 ? 0 : std::countr_zero(static_cast<unsigned>(bits)) + 1; }

inline unsigned long long atomicMin(unsigned long long* at, unsigned long long value) {
  const unsigned long long before = *at;
  *at = std::min(before, value);
  return before;
}

inline int atomicAdd(int* at, int value) {
  const int before = *at;
  *at += value;
  return before;
}

using cudaStream_t = void*;
