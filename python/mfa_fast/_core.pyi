from typing import Any, TypedDict, Unpack

import numpy as np
from numpy.typing import NDArray

_Array = NDArray[Any]
_Float = NDArray[np.float64]
_Index = NDArray[np.int64]
_Clip = tuple[float | None, float | None]
_Statistics = tuple[_Float, _Float, _Float, _Float, _Float]
_Patterns = tuple[_Index, _Index]
_Attack = tuple[_Array, _Float, NDArray[np.bool_], _Index]

# What several functions take.
class _Reduced(TypedDict, total=False):
    log_sum: _Float | None
    best_value: _Float | None
    best: _Index | None
    responsibilities: _Array | None
    factors: _Float | None

class _Draw(TypedDict):
    weights: _Float
    seed: int
    start: int
    noise: bool

class _Classes(TypedDict):
    groups: _Index
    log_priors: _Float
    sum_rule: bool
    screening: bool

class _Steps(TypedDict):
    steps: int
    overshoot: float
    clip: _Clip

class _Pair(TypedDict):
    source: int | None
    target: int | None

class _LdGrad(_Classes, _Steps, _Pair): ...

class _Machine(_Steps):
    intercept: float
    shift: _Float
    scale: _Float
    X: _Array
    labels: _Index
    out: _Attack
    n_threads: int

class Model:
    def __init__(
        self,
        weights: _Float,
        means: _Float,
        loadings: _Float,
        noise_variance: _Float,
        *,
        near: Model | None = None,
        n_threads: int = 1,
        groups: _Index | None = None,
    ) -> None: ...
    @property
    def n_components(self) -> int: ...
    @property
    def n_factors(self) -> int: ...
    @property
    def n_features(self) -> int: ...
    @property
    def isa(self) -> str: ...
    @property
    def glances(self) -> bool: ...  # whether screening looks at a part of the features first

def log_densities(model: Model, X: _Array, out: _Array, *, n_threads: int) -> int | None: ...
def reduce(
    model: Model,
    X: _Array,
    groups: _Index,
    *,
    exact: bool,
    screening: bool,
    n_threads: int,
    **out: Unpack[_Reduced],
) -> int | None: ...
def expectation(
    model: Model,
    X: _Array,
    statistics: _Statistics,
    log_likelihoods: _Float,
    *,
    sample_weight: _Float | None = None,
    screening: bool,
    n_threads: int,
) -> int | None: ...
def assigned(
    X: _Array,
    means: _Float,
    labels: _Index,
    factors: _Float,
    statistics: _Statistics,
    *,
    sample_weight: _Float | None = None,
    n_threads: int,
) -> None: ...
def regress(
    whitening: _Float, cross: _Float, *, out: tuple[_Float, _Float, _Float, _Float], n_threads: int
) -> None: ...
def add_in_order(total: float, values: _Float, sample_weight: _Float | None = None) -> float: ...
def sample(model: Model, *, out: _Array, labels: _Index, n_threads: int, **draw: Unpack[_Draw]) -> None: ...
def reconstruct(model: Model, labels: _Index, factors: _Float, out: _Array, *, n_threads: int) -> None: ...
def ld_grad(
    model: Model,
    X: _Array,
    *,
    labels: _Index,
    out: _Attack,
    sources: _Index,
    targets: _Index,
    n_threads: int,
    **how: Unpack[_LdGrad],
) -> int | None: ...
def classify(
    model: Model,
    X: _Array,
    groups: _Index,
    log_priors: _Float,
    *,
    sum_rule: bool,
    screening: bool,
    out: _Index,
    n_threads: int,
) -> int | None: ...
def gradient(
    model: Model,
    X: _Array,
    groups: _Index,
    vectors: _Float,
    *,
    sum_rule: bool,
    screening: bool,
    out: _Array,
    n_threads: int,
) -> int | None: ...

class Gram: ...

def gram(model: Model, *, n_threads: int) -> Gram | None: ...
def nearest(
    model: Model,
    gram: Gram | None,
    X: _Array,
    *,
    labels: _Index,
    rtol: float,
    out: _Attack,
    sources: _Index,
    targets: _Index,
    lower_bound: _Float,
    certified: NDArray[np.bool_],
    n_threads: int,
    **classes: Unpack[_Classes],
) -> int | None: ...
def ld_grad_linear(*, weights: _Float, reach: float, **machine: Unpack[_Machine]) -> int | None: ...
def ld_grad_rbf(
    *, support_vectors: _Float, coefficients: _Float, gamma: float, **machine: Unpack[_Machine]
) -> int | None: ...
def patterns(X: _Array, out: _Index, *, n_threads: int) -> None: ...
def marginal_log_densities(
    model: Model, X: _Array, patterns: _Patterns, out: _Array, *, n_threads: int
) -> int | None: ...
def marginal_reduce(
    model: Model,
    X: _Array,
    patterns: _Patterns,
    groups: _Index,
    *,
    n_threads: int,
    **out: Unpack[_Reduced],
) -> int | None: ...
def marginal_expectation(
    model: Model,
    X: _Array,
    patterns: _Patterns,
    statistics: _Statistics,
    log_likelihoods: _Float,
    *,
    sample_weight: _Float | None = None,
    n_threads: int,
) -> int | None: ...
def conditional(
    model: Model,
    X: _Array,
    patterns: _Patterns,
    *,
    mean: _Array | None = None,
    variance: _Array | None = None,
    responsibilities: _Array | None = None,
    factors: _Float | None = None,
    n_threads: int,
) -> int | None: ...
def conditional_sample(
    model: Model, X: _Array, patterns: _Patterns, *, seed: int, out: _Array, n_threads: int
) -> int | None: ...
def after_fork() -> None: ...
def available_isas() -> list[str]: ...
def isa() -> str: ...
def set_isa(name: str) -> None: ...
