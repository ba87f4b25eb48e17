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

namespace mfa::cpu {

struct Interrupted : std::runtime_error {
  Interrupted() : std::runtime_error("interrupted") {}
};

struct Execution {
  std::size_t n_threads = 1;
  // Asked now and then on the calling thread; true ends the call with Interrupted.
  std::function<bool()> interrupted;
};

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
    } catch (const std::system_error&) {
      break;  // no more threads to be had: those there are do the work
    }
  }
  work(true);
  for (std::thread& helper : helpers) helper.join();
  if (failure) std::rethrow_exception(failure);
}

}  // namespace mfa::cpu
