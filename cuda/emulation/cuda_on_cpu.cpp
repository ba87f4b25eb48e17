#include "emulation/cuda_on_cpu.hpp"

#include <setjmp.h>
#include <ucontext.h>

#include <cstdio>
#include <cstdlib>
#include <deque>
#include <memory>
#include <mutex>
#include <utility>
#include <vector>

mfa::emulation::Index threadIdx, blockIdx, blockDim, gridDim;

namespace mfa::emulation {
namespace {

constexpr std::size_t stack_bytes = std::size_t{1} << 17;
constexpr unsigned warp_size = 32;

enum class Waits { no, block, warp };

// Fibers are made by ucontext and changed by _longjmp, which makes no system call.
struct Fiber {
  ucontext_t context;
  jmp_buf jump;
  bool begun = false;
  std::unique_ptr<char[]> stack{new char[stack_bytes]};
  unsigned thread = 0;
  Waits waits = Waits::no;
  bool idle = true;
};

struct Copy {
  void* to;
  const void* from;
  unsigned bytes;
};
// What a thread has begun to copy: some since its last commit, and the groups before that.
struct Copies {
  std::vector<Copy> open;
  std::deque<std::vector<Copy>> groups;
};

struct Warp {
  unsigned started = 0, waiting = 0, finished = 0;
  std::uint64_t places[2][warp_size];
};

// One block in flight. A fiber takes thread after thread as long as none has to wait, so that kernels without barriers
// never change fibers.
struct Block {
  const std::function<void()>* body = nullptr;
  bool backwards = false;  // last to first
  unsigned threads = 0, started = 0, finished = 0, waiting = 0;
  std::vector<Warp> warps;
  std::vector<unsigned> exchanges;  // of every thread
  std::vector<Copies> copies;       // the same
  std::vector<std::unique_ptr<Fiber>> fibers;
  Fiber* current = nullptr;
  std::vector<unsigned char> memory;
  jmp_buf scheduler;
};

Block block;
std::mutex one_device;

void leave(Fiber& self) {
  if (_setjmp(self.jump) == 0) _longjmp(block.scheduler, 1);
}

void fiber_main() {
  Fiber& self = *block.current;
  for (;;) {
    while (block.started < block.threads) {
      self.thread = block.backwards ? block.threads - 1 - block.started : block.started;
      ++block.started;
      ++block.warps[self.thread / warp_size].started;
      threadIdx.x = self.thread;
      (*block.body)();
      ++block.finished;
      ++block.warps[self.thread / warp_size].finished;
    }
    self.idle = true;
    leave(self);
  }
}

Fiber& idle_fiber() {
  for (const auto& fiber : block.fibers)
    if (fiber->idle) return *fiber;
  block.fibers.push_back(std::make_unique<Fiber>());
  Fiber& fiber = *block.fibers.back();
  getcontext(&fiber.context);
  fiber.context.uc_stack.ss_sp = fiber.stack.get();
  fiber.context.uc_stack.ss_size = stack_bytes;
  fiber.context.uc_link = nullptr;
  makecontext(&fiber.context, fiber_main, 0);
  return fiber;
}

void resume(Fiber& fiber) {
  block.current = &fiber;
  threadIdx.x = fiber.thread;
  if (_setjmp(block.scheduler) != 0) return;
  if (fiber.begun) _longjmp(fiber.jump, 1);
  fiber.begun = true;
  setcontext(&fiber.context);
}

void wait(Waits what) {
  Fiber& self = *block.current;
  self.waits = what;
  leave(self);
}

// Lets go those whose barrier all have reached that are still running.
bool release() {
  bool any = false;
  if (block.waiting > 0 && block.started == block.threads && block.waiting == block.threads - block.finished) {
    block.waiting = 0;
    for (const auto& fiber : block.fibers)
      if (fiber->waits == Waits::block) fiber->waits = Waits::no;
    any = true;
  }
  for (unsigned w = 0; w < block.warps.size(); ++w) {
    Warp& warp = block.warps[w];
    if (warp.waiting == 0 || warp.started < warp_size || warp.waiting != warp_size - warp.finished) continue;
    warp.waiting = 0;
    for (const auto& fiber : block.fibers)
      if (fiber->waits == Waits::warp && fiber->thread / warp_size == w) fiber->waits = Waits::no;
    any = true;
  }
  return any;
}

void run_block() {
  block.started = block.finished = block.waiting = 0;
  block.warps.assign(block.threads / warp_size, Warp{});
  block.exchanges.assign(block.threads, 0);
  block.copies.assign(block.threads, {});
  for (const auto& fiber : block.fibers) fiber->waits = Waits::no;
  while (block.finished < block.threads) {
    bool moved = false;
    if (block.started < block.threads) {
      Fiber& fiber = idle_fiber();
      fiber.idle = false;
      resume(fiber);
      moved = true;
    }
    if (release()) {
      moved = true;
      for (std::size_t f = 0; f < block.fibers.size(); ++f)
        if (Fiber& fiber = *block.fibers[f]; !fiber.idle && fiber.waits == Waits::no) resume(fiber);
    }
    if (!moved) {
      std::fprintf(stderr, "threads of one block wait at different barriers\n");
      std::abort();
    }
  }
}

}  // namespace

void start_copy(void* to, const void* from, unsigned bytes) {
  block.copies[block.current->thread].open.push_back({to, from, bytes});
}

void commit_copies() {
  Copies& own = block.copies[block.current->thread];
  own.groups.push_back(std::move(own.open));
  own.open.clear();
}

void await_copies(unsigned pending) {
  for (auto& groups = block.copies[block.current->thread].groups; groups.size() > pending; groups.pop_front())
    for (const Copy& copy : groups.front()) std::memcpy(copy.to, copy.from, copy.bytes);
}

void wait_for_block() {
  ++block.waiting;
  wait(Waits::block);
}

void wait_for_warp() {
  ++block.warps[block.current->thread / warp_size].waiting;
  wait(Waits::warp);
}

std::uint64_t* exchange() {
  const unsigned thread = block.current->thread;
  return block.warps[thread / warp_size].places[block.exchanges[thread]++ % 2];
}

unsigned char* block_memory() { return block.memory.data(); }

void run_grid(std::size_t blocks, unsigned threads, std::size_t bytes, const std::function<void()>& body) {
  if (threads % warp_size != 0) {
    std::fprintf(stderr, "a block of %u threads is not made of whole warps\n", threads);
    std::abort();
  }
  const std::lock_guard lock(one_device);
  block.body = &body;
  block.memory.assign(bytes, 0xff);  // not a number
  block.backwards = !block.backwards;
  block.threads = threads;
  blockDim.x = threads;
  gridDim.x = static_cast<unsigned>(blocks);
  for (std::size_t b = 0; b < blocks; ++b) {
    blockIdx.x = static_cast<unsigned>(block.backwards ? blocks - 1 - b : b);
    run_block();
  }
}

}  // namespace mfa::emulation
