// Work without the GIL that hears Ctrl-C. Each extension has its own of both.
#pragma once

#include <pybind11/pybind11.h>

#include <chrono>
#include <exception>
#include <thread>

#include "cpu/parallel.hpp"

namespace mfa::bindings {

namespace py = pybind11;

// Takes the GIL. Where the interpreter has ended meanwhile, Python before 3.14 ends the thread instead, which glibc does by
// unwinding it: through destructors, which may not be, and past helpers that still work for it. So it rests where it is, as
// from 3.14 on, and goes with the process.
template <class Take>
auto take_gil(const Take& take) {
  try {
    return take();
  } catch (...) {
    for (;;) std::this_thread::sleep_for(std::chrono::hours(1));
  }
}

class GilRelease {
 public:
  GilRelease() : state_(PyEval_SaveThread()) {}
  ~GilRelease() {
    take_gil([this] { PyEval_RestoreThread(state_); });
  }
  GilRelease(const GilRelease&) = delete;
  GilRelease& operator=(const GilRelease&) = delete;

 private:
  PyThreadState* const state_;
};

// For a while, on a thread that has released it.
class GilAcquire {
 public:
  GilAcquire() : state_(take_gil(PyGILState_Ensure)) {}
  ~GilAcquire() { PyGILState_Release(state_); }
  GilAcquire(const GilAcquire&) = delete;
  GilAcquire& operator=(const GilAcquire&) = delete;

 private:
  const PyGILState_STATE state_;
};

// The arrays stay alive and unchanged in shape while the GIL is released: the caller's frame holds references to them,
// and the kernels touch no Python object. Ctrl-C is asked for on the calling thread, which takes the GIL back for that moment.
template <class Call>
auto without_gil(const Call& call) {
  const GilRelease release;
  cpu::Interruption interruption([] {
    const GilAcquire gil;
    return PyErr_CheckSignals() != 0;
  });
  return call();
}

// The pending KeyboardInterrupt is what the caller gets to see.
inline void raise_interrupts() {
  py::register_local_exception_translator([](std::exception_ptr p) {
    try {
      if (p) std::rethrow_exception(p);
    } catch (const cpu::Interrupted&) {
      if (PyErr_Occurred() == nullptr) PyErr_SetNone(PyExc_KeyboardInterrupt);
    }
  });
}

}  // namespace mfa::bindings
