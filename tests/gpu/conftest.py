"""Two devices for one body of tests: a card, and the same kernels compiled for the CPU."""

import importlib
from collections.abc import Callable
from dataclasses import dataclass
from types import ModuleType
from typing import Any

import numpy as np
import pytest

import emulated_arrays
from mfa_fast import _core, _devices, synchronize


def why_not(device: str) -> str:
    """Say why tests cannot run on a device; nothing where they can."""
    if device == "emulated":
        try:
            importlib.import_module("mfa_fast._cuda_emulated")
        except ModuleNotFoundError:
            return "the CUDA kernels were not compiled for the CPU (cmake -DMFA_CUDA_EMULATION=ON, CONTRIBUTING.md)"
        return ""
    try:
        reason = importlib.import_module("mfa_fast._cuda").unavailable()
    except ModuleNotFoundError:
        return "this build of mfa_fast has no CUDA kernels"
    return f"CUDA cannot be used here: {reason}" if reason else ""


def has_no_device(library: str) -> str:
    """Say why a library cannot hold arrays on a card; nothing where it can."""
    try:
        module = importlib.import_module(library)
    except ModuleNotFoundError:
        return f"{library}, which would hold the arrays, is not installed"
    return "" if module.cuda.is_available() else f"{library} sees no CUDA device"


@dataclass(frozen=True)
class Device:
    """The kernels, and how their arrays come and go; `send` makes an array on the device, `fetch` one of NumPy's."""

    name: str
    kernels: ModuleType
    send: Callable[[np.ndarray], Any]
    fetch: Callable[[Any], np.ndarray]
    launch: dict[str, Any]  # what every call takes

    def empty(self, shape: Any, dtype: Any) -> Any:
        """Make an array full of what no result is."""
        nothing = {"f": np.nan, "i": -99, "b": True}[np.dtype(dtype).kind]
        return self.send(np.full(shape, nothing, dtype))

    def model(self, parameters: Any) -> Any:
        """Pack a model and copy it."""
        return self.kernels.Model(_core.Model(*map(np.ascontiguousarray, parameters)), **self.launch)

    def call(self, kernel: str, *arguments: Any, n_rows: int, **more: Any) -> None:
        """Run a kernel that must find all rows good."""
        assert self.bad_row(kernel, *arguments, **more) == n_rows

    def bad_row(self, kernel: str, *arguments: Any, **more: Any) -> int:
        """Run a kernel, and return the first row that it finds bad."""
        bad = self.empty(1, np.int64)
        getattr(self.kernels, kernel)(*arguments, bad_row=bad, **more, **self.launch)
        return int(self.fetch(bad)[0])


def emulated() -> Device:
    """Make NumPy arrays pass for arrays on a device."""
    kernels = importlib.import_module("mfa_fast._cuda_emulated")
    launch = {"stream": 0, "allocate": lambda n_bytes: np.full(n_bytes, 255, np.uint8)}  # not a number
    return Device("emulated", kernels, np.array, np.asarray, launch)


def card() -> Device:
    """Hold arrays in torch tensors."""
    import torch

    def send(array: np.ndarray) -> Any:
        if array.dtype.kind == "V":
            return (
                torch.from_numpy(array.view(np.uint16).astype(np.int32)).to("cuda", torch.uint16).view(torch.bfloat16)
            )
        return torch.from_numpy(np.ascontiguousarray(array)).cuda()

    def allocate(n_bytes: int) -> Any:
        return torch.full((n_bytes,), 255, dtype=torch.uint8, device="cuda")  # not a number

    launch = {"stream": torch.cuda.current_stream().cuda_stream, "allocate": allocate}
    return Device("cuda", importlib.import_module("mfa_fast._cuda"), send, lambda x: x.cpu().numpy(), launch)


@pytest.fixture(params=["cuda", "emulated"])
def device(request) -> Device:
    """Each device that there is."""
    reason = why_not(request.param) or ("" if request.param == "emulated" else has_no_device("torch"))
    if reason:
        pytest.skip(reason)
    return {"cuda": card, "emulated": emulated}[request.param]()


@pytest.fixture(params=["cuda-torch", "cuda-cupy", "emulated"])
def library(request, monkeypatch):
    """Each library of arrays on a device that there is."""
    device, _, name = request.param.partition("-")
    reason = why_not(device) or (name and has_no_device(name))
    if reason:
        pytest.skip(reason)
    synchronize()  # what another test left
    if device == "emulated":
        kernels = importlib.import_module("mfa_fast._cuda_emulated")
        monkeypatch.setattr(emulated_arrays.EmulatedArrays, "kernels", emulated_arrays.kernels_of(kernels))
        only = {"emulated_arrays": emulated_arrays.EmulatedArrays}
    else:
        only = {name: _devices.LIBRARIES[name]}
    monkeypatch.setattr(_devices, "LIBRARIES", only)
    return _devices.default_arrays()
