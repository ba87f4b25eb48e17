# The CUDA kernels, with `_core`'s names and meanings. An absent module means a build without CUDA; importing it
# touches no driver. `_cuda_emulated`, which only test builds have, is the same sources run on the CPU: the same
# interface on NumPy arrays (`__array_interface__`), with `stream` 0.
#
# Arrays on the device are objects with `__cuda_array_interface__`, C-contiguous and of exactly the type that the
# comment beside `_Device` names; samples X may have any distance between rows. Types of X: float32, float64, uint8,
# and bfloat16 as the typestr "<V2", which torch gives it. float32 and bfloat16 rows are scored to float32's
# tolerance, and what has "the precision of X" is float32; uint8 and float64 rows to float64's, and it is float64.
#
# Every call queues work on `stream` (a cudaStream_t as an integer, as torch's `.cuda_stream` and CuPy's `.ptr` give
# it) of the device that X, or the output, lies on, and returns without waiting for it. `allocate(bytes)` gives memory
# on that device for the length of the call: an object with `__cuda_array_interface__`, from an allocator that is
# ordered by the stream (torch's and CuPy's are). It is called once per call, by `nearest` twice, whatever the number of
# rows.
#
# `bad_row` (1,) int64 is what `_core` returns: after the call has run, the first row that is not finite, or whose
# scores are out of range, or whose label is none; the number of rows if there is no such row. Outputs are then
# incomplete. Reading it is what waits for the device.
from collections.abc import Callable
from typing import Any, TypedDict, Unpack

import numpy as np
from numpy.typing import NDArray

from mfa_fast import _core

_Device = Any
_Index = NDArray[np.int64]
_Allocate = Callable[[int], Any]
_Statistics = tuple[_Device, _Device, _Device, _Device, _Device]  # float64, as _core's; added to

# Where memory comes from and work is queued, and where a row that is not good is reported: what calls take.
class _Launch(TypedDict):
    stream: int
    allocate: _Allocate

class _Call(_Launch):
    bad_row: _Device

# With what `_core` takes, all of it on the host.
class _Draw(_core._Draw, _Launch): ...
class _LdGrad(_core._LdGrad, _Call): ...

def unavailable() -> str | None:
    """Why CUDA cannot be used here (no driver, no device, one too old, no cuBLAS); None where it can be."""

def devices() -> list[str]:
    """Names of the devices."""

class Model:
    """A packed model's copy on the current device, in memory from `allocate` that it keeps."""

    def __init__(self, model: _core.Model, **launch: Unpack[_Launch]) -> None: ...
    @property
    def n_components(self) -> int: ...
    @property
    def n_factors(self) -> int: ...
    @property
    def n_features(self) -> int: ...
    @property
    def n_directions(self) -> int:
        """Directions of the subspace that screening uses; 0 where it would not pay."""
    @property
    def glances(self) -> bool:
        """Whether screening looks at a part of the features first."""

class NearestModel:
    """What `nearest` needs beside a packed model's copy, on the same device; it keeps its memory as a model does."""

    def __init__(self, model: _core.Model, gram: _core.Gram | None, **launch: Unpack[_Launch]) -> None: ...

def log_densities(
    model: Model,
    X: _Device,
    out: _Device,  # (n, K), precision of X
    **call: Unpack[_Call],
) -> None: ...
def reduce(
    model: Model,
    X: _Device,
    groups: _Index,  # on the host
    *,
    exact: bool,
    screening: bool,
    log_sum: _Device | None = None,  # (n, G) float64
    best_value: _Device | None = None,  # (n, G) float64
    best: _Device | None = None,  # (n, G) int64
    responsibilities: _Device | None = None,  # (n, K), precision of X
    factors: _Device | None = None,  # (n, L) float64
    **call: Unpack[_Call],
) -> None: ...
def expectation(
    model: Model,
    X: _Device,
    statistics: _Statistics,
    log_likelihoods: _Device,  # (n,) float64
    *,
    sample_weight: _Device | None = None,  # (n,) float64
    screening: bool,
    **call: Unpack[_Call],
) -> None: ...
def assigned(
    X: _Device,
    means: _Device,  # (K, d) float64
    labels: _Device,  # (n,) int64
    factors: _Device,  # (n, L) float64
    statistics: _Statistics,
    *,
    sample_weight: _Device | None = None,
    **call: Unpack[_Call],
) -> None: ...
def sample(
    model: Model,
    *,
    out: _Device,  # (n, d) float32 or float64
    labels: _Device,  # (n,) int64
    **draw: Unpack[_Draw],
) -> None: ...
def reconstruct(
    model: Model,
    labels: _Device,  # (n,) int64, in [0, K)
    factors: _Device,  # (n, L) float64
    out: _Device,  # (n, d) float32 or float64
    **launch: Unpack[_Launch],
) -> None: ...
def ld_grad(
    model: Model,
    X: _Device,
    *,
    labels: _Device,  # (n,) int64, in [0, G)
    out: tuple[
        _Device, _Device, _Device, _Device
    ],  # X_adv (n, d) precision of X, l2 (n,) float64, success bool, n_steps int64
    sources: _Device,  # (n,) int64
    targets: _Device,  # (n,) int64
    **how: Unpack[_LdGrad],
) -> None: ...
def nearest(
    model: Model,
    parts: NearestModel,  # that of the same model
    X: _Device,
    *,
    labels: _Device,  # (n,) int64, in [0, G)
    rtol: float,
    out: tuple[_Device, _Device, _Device, _Device],  # an attack's result, as of ld_grad; written over
    sources: _Device,  # (n,) int64
    targets: _Device,  # (n,) int64
    lower_bound: _Device,  # (n,) float64, rounded down to what the precision of X can say
    certified: _Device,  # (n,) bool
    bad_row: _Device,  # the attack's; rows are added
    stream: int,
    allocate: _Allocate,
    **classes: Unpack[_core._Classes],
) -> None: ...
def gradient(
    model: Model,
    X: _Device,
    groups: _Index,  # on the host
    vectors: _Device,  # (n, G) float64
    *,
    sum_rule: bool,
    screening: bool,
    out: _Device,  # (n, d), precision of X
    **call: Unpack[_Call],
) -> None: ...
