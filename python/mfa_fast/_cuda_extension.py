"""The extension with the CUDA kernels, and why it cannot be had where it cannot.

No driver is touched before it is asked for.
"""

from __future__ import annotations

from functools import cache
from importlib import import_module
from importlib.util import find_spec
from types import ModuleType

# What the kernels read as it is. (bfloat16, which NumPy does not have, comes in torch tensors only.)
KERNEL_DTYPES = ("float32", "float64", "bfloat16", "uint8")


class CudaUnavailableError(RuntimeError):
    """A CUDA array or device was given to a build, or on a machine, that has no CUDA."""


def require_build() -> None:
    """Raise if this build has no CUDA kernels."""
    if find_spec("mfa_fast._cuda") is None:
        msg = (
            "this build of mfa_fast has no CUDA kernels; build it from source where nvcc is, with "
            "`pip install . -Ccmake.define.MFA_CUDA=ON`"
        )
        raise CudaUnavailableError(msg)


@cache
def cuda_kernels() -> ModuleType:
    """Return the extension with the CUDA kernels, or raise the reason why it cannot be had."""
    require_build()
    try:
        kernels = import_module("mfa_fast._cuda")
    except ImportError as error:
        msg = f"the CUDA kernels of mfa_fast cannot be loaded ({error}); build it again on this machine"
        raise CudaUnavailableError(msg) from error
    reason: str | None = kernels.unavailable()
    if reason is not None:
        raise CudaUnavailableError(reason)
    return kernels
