// Work without the GIL that hears Ctrl-C. Each extension has its own of both.
#pragma once

#include <pybind11/pybind11.h>

#include <exception>

#include "cpu/parallel.hpp"

namespace mfa::bindings {

namespace py = pybind11;

// The arrays stay alive and unchanged in shape while the GIL is released: the caller's frame holds references to them,
// and the kernels touch no Python object. Ctrl-C is asked for on the calling thread, which takes the GIL back for that moment.
template <class Call>
auto without_gil(const Call& call) {
  const py::gil_scoped_release release;
  cpu::Interruption interruption([] {
    const py::gil_scoped_acquire gil;
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
