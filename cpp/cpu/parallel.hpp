// Threads, which are started here and nowhere else, and Ctrl-C, which ends what they do.
#pragma once

#include <algorithm>
#include <atomic>
#include <chrono>
#include <condition_variable>
#include <cstddef>
#include <exception>
#include <mutex>
#include <stdexcept>
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

// Whether a call is to end early. It lives on the thread that was called, which alone asks `interrupted`, and is shared by all
// threads that parallel_for starts for it: also deep within, where a part of a model is made that takes as long as a call.
class Interruption {
 public:
  explicit Interruption(bool (*interrupted)()) : interrupted_(interrupted), outer_(of_thread()) { of_thread() = this; }
  ~Interruption() { of_thread() = outer_; }
  Interruption(const Interruption&) = delete;
  Interruption& operator=(const Interruption&) = delete;

  // That of the call which this thread works for, or null.
  static Interruption*& of_thread() {
    thread_local Interruption* current = nullptr;
    return current;
  }

  // Whether it comes from within another call, by way of a signal's handler.
  bool is_within(const void* other) const {
    for (const Interruption* call = outer_; call != nullptr; call = call->outer_)
      if (call == other) return true;
    return false;
  }

  void check() {
    if (ended_) throw Interrupted();
    if (std::this_thread::get_id() != called_ || Clock::now() - asked_ < std::chrono::milliseconds(50)) return;
    asked_ = Clock::now();
    if (!interrupted_()) return;
    ended_ = true;
    throw Interrupted();
  }

 private:
  using Clock = std::chrono::steady_clock;
  bool (*const interrupted_)();
  Interruption* const outer_;
  const std::thread::id called_ = std::this_thread::get_id();
  Clock::time_point asked_ = Clock::now();
  std::atomic<bool> ended_{false};
};

// Throws Interrupted where the call is to end. For what takes more than some tenths of a second.
inline void check_interruption() {
  if (Interruption* const call = Interruption::of_thread()) call->check();
}

// At most n threads, and no more than leave each a fifth of a millisecond of work; `microseconds` is what one would take for all.
inline std::size_t threads_for(double microseconds, std::size_t n_threads) {
  const double busy = 1.0 + microseconds / 200.0;
  return busy < static_cast<double>(n_threads) ? static_cast<std::size_t>(busy) : n_threads;
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
void parallel_for(std::size_t n_tasks, std::size_t n_threads, MakeWorker make_worker) {
  constexpr std::size_t most_threads = 1024;
  if (n_tasks == 0) return;
  std::atomic<std::size_t> next{0};
  std::atomic<bool> stop{false};
  std::mutex mutex;  // guards the two below
  std::exception_ptr failure;
  std::size_t n_ended = 0;  // of the helpers
  std::condition_variable ended;

  const auto guarded = [&](const auto& call) {
    try {
      call();
    } catch (...) {
      stop = true;
      const std::lock_guard<std::mutex> lock(mutex);
      if (!failure) failure = std::current_exception();
    }
  };
  const auto work = [&] {
    auto worker = make_worker();
    for (std::size_t task; !stop && (task = next.fetch_add(1)) < n_tasks;) {
      check_interruption();
      worker(task);
    }
  };

  std::vector<std::thread> helpers;
  const std::size_t n_helpers = std::min({std::max<std::size_t>(n_threads, 1), most_threads, n_tasks}) - 1;
  helpers.reserve(n_helpers);
  for (std::size_t i = 0; i < n_helpers; ++i) {
    try {
      helpers.emplace_back([&, call = Interruption::of_thread()] {
        Interruption::of_thread() = call;
        guarded(work);
        const std::lock_guard<std::mutex> lock(mutex);
        ++n_ended;
        ended.notify_one();
      });
      spread(helpers.back(), i);
    } catch (const std::exception&) {
      break;  // no more threads to be had, or no memory for one: those there are do the work
    }
  }
  guarded(work);
  // A helper's last task may take long: Ctrl-C is heard all the same.
  guarded([&] {
    std::unique_lock<std::mutex> lock(mutex);
    while (!ended.wait_for(lock, std::chrono::milliseconds(50), [&] { return n_ended == helpers.size(); })) {
      lock.unlock();
      check_interruption();
      lock.lock();
    }
  });
  for (std::thread& helper : helpers) helper.join();
  if (failure) std::rethrow_exception(failure);
}

}  // namespace mfa::cpu
