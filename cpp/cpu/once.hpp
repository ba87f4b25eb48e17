// A part that is made when it is first asked for.
#pragma once

#include <atomic>
#include <chrono>
#include <condition_variable>
#include <memory>
#include <mutex>
#include <thread>

#include "cpu/parallel.hpp"

namespace mfa::cpu {

// How often this process has been forked off another. Threads of the other do not exist in it.
inline std::atomic<unsigned> n_forks{0};

// As std::call_once, and Ctrl-C is heard meanwhile: by who makes the part, and by who waits for it. To hear it is to run the
// handlers of signals, and one of these may ask for the same part; so no lock is held while it is made.
template <class T>
class Once {
 public:
  // What make() returned when it came to its end for the first time.
  template <class Make>
  const T& get(const Make& make) {
    const T* part = peek();
    return part != nullptr ? *part : make_or_wait(make);
  }
  // Null where it has not been made yet.
  const T* peek() const { return part_.load(std::memory_order_acquire); }

 private:
  template <class Make>
  const T& make_or_wait(const Make& make) {
    const std::thread::id here = std::this_thread::get_id();
    std::unique_lock lock(mutex_);
    while (kept_ == nullptr && is_being_made() && maker_ != here) {
      changed_.wait_for(lock, std::chrono::milliseconds(50));
      lock.unlock();
      check_interruption();
      lock.lock();
    }
    if (kept_ != nullptr) return *kept_;
    const bool within = is_being_made();  // by a handler: the thread goes on to make it afterwards
    maker_ = here;
    forks_before_ = n_forks;
    lock.unlock();
    std::unique_ptr<const T> made;
    try {
      made = std::make_unique<const T>(make());
    } catch (...) {
      lock.lock();
      if (!within) end();
      throw;
    }
    lock.lock();
    if (kept_ == nullptr) {
      kept_ = std::move(made);
      part_.store(kept_.get(), std::memory_order_release);
    }
    if (!within) end();
    return *kept_;
  }
  bool is_being_made() const { return maker_ != std::thread::id{} && forks_before_ == n_forks; }
  void end() {
    maker_ = {};
    changed_.notify_all();
  }

  std::atomic<const T*> part_{nullptr};
  std::mutex mutex_;  // guards the three below
  std::unique_ptr<const T> kept_;
  std::thread::id maker_;
  unsigned forks_before_ = 0;
  std::condition_variable changed_;
};

}  // namespace mfa::cpu
