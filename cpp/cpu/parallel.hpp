// The only file that knows about threads.
#pragma once

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstddef>
#include <exception>
#include <functional>
#include <mutex>
#include <stdexcept>
#include <system_error>
#include <thread>
#include <vector>

#if defined(__GLIBC__)
#include <pthread.h>
#include <sched.h>
#endif

namespace mfa::cpu {

struct Interrupted : std::runtime_error {
  Interrupted() : std::runtime_error("interrupted") {}
};

struct Execution {
  std::size_t n_threads = 1;
  // Asked now and then on the calling thread; true ends the call with Interrupted.
  std::function<bool()> interrupted;
};

// At most n threads, and no more than leave each a fifth of a millisecond of work; `microseconds` is what one would take for all.
inline Execution with_work(std::size_t n_threads, double microseconds) {
  const double busy = 1.0 + microseconds / 200.0;
  return {busy < static_cast<double>(n_threads) ? static_cast<std::size_t>(busy) : n_threads, nullptr};
}

// Moves a new thread to another processor than the caller's, the index-th of those that may be used, and leaves it free
// again. Linux starts a thread where its maker runs; where the other processors have long been idle, both may share one for
// milliseconds, as long as many a call takes.
inline void spread([[maybe_unused]] std::thread& helper, [[maybe_unused]] std::size_t index) {
#if defined(__GLIBC__)
  cpu_set_t allowed;
  const int here = sched_getcpu();
  if (here < 0 || here >= CPU_SETSIZE || pthread_getaffinity_np(pthread_self(), sizeof allowed, &allowed) != 0) return;
  CPU_CLR(static_cast<unsigned>(here), &allowed);
  const int others = CPU_COUNT(&allowed);
  if (others == 0) return;
  auto left = static_cast<int>(index % static_cast<std::size_t>(others));
  unsigned chosen = static_cast<unsigned>(here);
  do chosen = (chosen + 1) % CPU_SETSIZE;
  while (!CPU_ISSET(chosen, &allowed) || left-- > 0);
  cpu_set_t one;
  CPU_ZERO(&one);
  CPU_SET(chosen, &one);
  CPU_SET(static_cast<unsigned>(here), &allowed);
  pthread_setaffinity_np(helper.native_handle(), sizeof one, &one);
  pthread_setaffinity_np(helper.native_handle(), sizeof allowed, &allowed);
#endif
}

// Runs worker(task) for every task in [0, n_tasks), each thread with a worker of its own from make_worker(), in which
// it keeps its scratch memory. Which thread takes a task is left to chance, so a worker's result may depend on the task
// only. Threads are started anew in every call: that costs some 20 microseconds and leaves nothing behind that a fork
// could break.
template <class MakeWorker>
void parallel_for(std::size_t n_tasks, const Execution& execution, MakeWorker make_worker) {
  using Clock = std::chrono::steady_clock;
  std::atomic<std::size_t> next{0};
  std::atomic<bool> stop{false};
  std::exception_ptr failure;
  std::mutex failure_mutex;

  const auto work = [&](bool calling_thread) {
    try {
      auto worker = make_worker();
      auto asked = Clock::now();
      for (std::size_t task; !stop && (task = next.fetch_add(1)) < n_tasks;) {
        worker(task);
        if (calling_thread && execution.interrupted && Clock::now() - asked > std::chrono::milliseconds(50)) {
          asked = Clock::now();
          if (execution.interrupted()) throw Interrupted();
        }
      }
    } catch (...) {
      stop = true;
      const std::lock_guard<std::mutex> lock(failure_mutex);
      if (!failure) failure = std::current_exception();
    }
  };

  std::vector<std::thread> helpers;
  const std::size_t n_helpers = std::min(execution.n_threads, n_tasks) - (n_tasks > 0 ? 1 : 0);
  helpers.reserve(n_helpers);
  for (std::size_t i = 0; i < n_helpers; ++i) {
    try {
      helpers.emplace_back(work, false);
      spread(helpers.back(), i);
    } catch (const std::system_error&) {
      break;  // no more threads to be had: those there are do the work
    }
  }
  work(true);
  for (std::thread& helper : helpers) helper.join();
  if (failure) std::rethrow_exception(failure);
}

}  // namespace mfa::cpu
