// A part that is made when it is first asked for.
#pragma once

#include <algorithm>
#include <atomic>
#include <chrono>
#include <memory>
#include <thread>

#include "cpu/parallel.hpp"

namespace mfa::cpu {

// How often this process has been forked off another. Threads of the other do not exist in it.
inline std::atomic<unsigned> n_forks{0};

// As std::call_once, and Ctrl-C is heard meanwhile, by who makes the part and by who waits for it. To hear it is to run the
// handlers of signals, and one of these may ask for the same part: a call that comes from within the one that makes it does
// not wait, but makes its own. Whoever is done first is the one whose part is kept. There is no lock, which a fork could find
// taken.
template <class T>
class Once {
 public:
  Once() = default;
  ~Once() { delete part_.load(); }
  Once(const Once&) = delete;
  Once& operator=(const Once&) = delete;

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
    using Clock = std::chrono::steady_clock;
    thread_local const char thread = 0;
    const Interruption* const call = Interruption::of_thread();
    const void* const own = call != nullptr ? static_cast<const void*>(call) : &thread;
    const void* maker = nullptr;
    bool claimed = false;
    for (const auto start = Clock::now(); !claimed && !(maker != nullptr && call != nullptr && call->is_within(maker));) {
      if (const T* part = peek()) return *part;
      maker = maker_;
      if (maker == nullptr || forks_before_ != n_forks) {
        claimed = maker_.compare_exchange_strong(maker, own);
        continue;
      }
      // The longer it takes, the less often it is asked for.
      std::this_thread::sleep_for(std::clamp<Clock::duration>((Clock::now() - start) / 8, std::chrono::microseconds(20),
                                                              std::chrono::milliseconds(20)));
      check_interruption();
    }
    if (claimed) forks_before_ = n_forks.load();
    std::unique_ptr<const T> made;
    try {
      made = std::make_unique<const T>(make());
    } catch (...) {
      if (claimed) end(own);
      throw;
    }
    const T* kept = nullptr;
    if (part_.compare_exchange_strong(kept, made.get(), std::memory_order_acq_rel)) kept = made.release();
    if (claimed) end(own);
    return *kept;
  }
  void end(const void* own) { maker_.compare_exchange_strong(own, nullptr); }

  std::atomic<const T*> part_{nullptr};
  std::atomic<const void*> maker_{nullptr};  // the call, or where there is none the thread, that is to make it
  std::atomic<unsigned> forks_before_{0};
};

}  // namespace mfa::cpu
