// The part of the extension that takes missing values.
#pragma once

#include <pybind11/pybind11.h>

namespace mfa::bindings {

void bind_missing(pybind11::module_& m);

}  // namespace mfa::bindings
