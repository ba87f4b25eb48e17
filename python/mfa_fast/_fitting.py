"""How a fit goes: what is asked for, what it starts from, and its iterations. Estimators are those of `mixture.py`."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any, NamedTuple

import numpy as np
from sklearn.utils.random import sample_without_replacement

from mfa_fast._devices import check_device
from mfa_fast._em import NoiseModel, m_step
from mfa_fast._initialization import METHODS, SUBSAMPLE, initial_parameters
from mfa_fast._memory import start_rows
from mfa_fast._missing import MISSING, filled
from mfa_fast._parameters import Parameters
from mfa_fast._progress import Task
from mfa_fast._samples import Samples
from mfa_fast._statistics import Statistics
from mfa_fast._streams import Stream
from mfa_fast._typing import FloatArray
from mfa_fast._validation import (
    check_factors,
    check_finite_array,
    check_flag,
    check_integer,
    check_noise_variance,
    check_option,
    check_real,
    check_sample_weight,
    check_threads,
    check_weights,
)

# What samples are found to make the first parameters of, and their weights if they have any.
FindSamples = Callable[[np.random.RandomState], tuple[Samples, FloatArray | None]]


class Run(NamedTuple):
    """Where EM has led: parameters, the mean log-likelihood before each iteration, whether these have come to rest."""

    parameters: Parameters
    bounds: list[float]
    converged: bool


def check_hyperparameters(estimator: Any) -> None:
    """Raise for the first parameter of an estimator that is out of range."""
    for name, least in [
        ("n_components", 1),
        ("n_factors", 0),
        ("max_iter", 1),
        ("n_init", 1),
        ("verbose_interval", 1),
    ]:
        check_integer(name, getattr(estimator, name), least)
    if not isinstance(estimator.verbose, (bool, np.bool_)):
        check_integer("verbose", estimator.verbose, 0)
    for name in ("tied_noise", "warm_start", "screening"):
        check_flag(name, getattr(estimator, name))
    check_real("tol", estimator.tol, least=0.0)
    check_real("learning_decay", estimator.learning_decay, above=0.5, most=1.0)
    check_real("learning_offset", estimator.learning_offset, least=0.0)
    check_real("min_noise_variance", estimator.min_noise_variance, above=0.0)
    check_option("noise_type", estimator.noise_type, ("spherical", "diag"))
    check_option("init_params", estimator.init_params, METHODS)
    check_option("missing", estimator.missing, MISSING)
    check_device(estimator.device)
    check_threads(estimator.n_threads)


def noise_model(estimator: Any) -> NoiseModel:
    """Return what an estimator assumes of the noise variance."""
    return NoiseModel(estimator.noise_type == "diag", bool(estimator.tied_noise), float(estimator.min_noise_variance))


def check_shape(estimator: Any, n_features: int, n_samples: int, *, weighted: bool = False) -> tuple[int, int, int]:
    """Return (K, L, d) if so many samples are enough for it."""
    check_factors(estimator.n_factors, n_features)
    if n_samples < estimator.n_components:
        msg = (
            f"n_components={estimator.n_components} needs at least as many samples, but X has n_samples={n_samples}"
            f"{' of positive weight' if weighted else ''}; use fewer components."
        )
        raise ValueError(msg)
    return (int(estimator.n_components), int(estimator.n_factors), n_features)


def check_rows(estimator: Any, n_rows: int) -> None:
    """Refuse a single row, which has no variance; of what are too few for several components `check_shape` tells."""
    if n_rows < 2 and estimator.n_components == 1:
        msg = f"n_components=1 needs at least two samples, but X has n_samples={n_rows}; use more samples."
        raise ValueError(msg)


def samples_to_start_from(
    estimator: Any,
    data: Samples | Stream,
    sample_weight: FloatArray | None,
    n_samples: int,
    shape: tuple[int, int, int],
    rng: np.random.RandomState,
) -> tuple[Samples, FloatArray | None]:
    """Return samples in memory, of positive weight, and their weights: all where they fit, else a random part."""
    most = start_rows(*shape, data.row_bytes, SUBSAMPLE)
    if isinstance(data, Samples) and len(data) == n_samples <= most:
        return completed(estimator, data, sample_weight, n_samples)
    rows = np.arange(n_samples)
    if n_samples > most:
        rows = np.sort(sample_without_replacement(n_samples, most, random_state=rng))
    if sample_weight is not None:
        rows = np.flatnonzero(sample_weight)[rows]
        sample_weight = sample_weight[rows]
    return completed(estimator, data.take(rows), sample_weight, n_samples)


def completed(
    estimator: Any, samples: Samples, sample_weight: FloatArray | None, n_samples: int
) -> tuple[Samples, FloatArray | None]:
    """Return samples, all of so many or a part, without missing values, and their weights."""
    if estimator.missing != "marginal":
        return samples, sample_weight
    return filled(samples, sample_weight, estimator, n_samples)


def first_parameters(
    estimator: Any,
    find_samples: FindSamples,
    shape: tuple[int, int, int],
    rng: np.random.RandomState,
) -> Parameters:
    """Return what EM begins with: what the estimator was given, and the rest made of the samples that are found."""
    K, L, d = shape
    checks: dict[str, Callable[[Any], FloatArray]] = {
        "weights": lambda weights: check_weights(weights, K, "weights_init"),
        "means": lambda means: check_finite_array("means_init", means, 2, (K, d)),
        "loadings": lambda loadings: check_finite_array("loadings_init", loadings, 3, (K, L, d)),
        "noise_variance": lambda variance: check_noise_variance(variance, K, d, "noise_variance_init"),
    }
    values = {name: getattr(estimator, f"{name}_init") for name in checks}
    given = {name: checks[name](value) for name, value in values.items() if value is not None}
    if len(given) == len(checks):
        return Parameters(**given)
    samples, sample_weight = find_samples(rng)
    found = initial_parameters(
        samples,
        estimator.init_params,
        shape,
        given.get("means"),
        noise_model(estimator),
        sample_weight,
        rng,
        check_threads(estimator.n_threads),
    )
    return replace(found, **given)


def run_em(
    estimator: Any,
    parameters: Parameters,
    expect: Callable[[Parameters], Statistics],
    task: Task,
    attributes_after: Callable[[Run], dict[str, Any]],
) -> Run:
    """Iterate from given parameters, until the likelihood has come to rest or somebody stops it."""
    noise, n_threads = noise_model(estimator), check_threads(estimator.n_threads)
    bounds: list[float] = []
    started = time.perf_counter()
    for iteration in range(1, estimator.max_iter + 1):
        part = task.part("iteration")
        statistics = expect(parameters)
        bound = statistics.mean_log_likelihood
        parameters = m_step(parameters, statistics, noise, n_threads)
        del statistics  # as large as the parameters: the next are to find its memory
        converged = bool(bounds) and bool(abs(bound - bounds[-1]) < estimator.tol)
        bounds.append(bound)
        if estimator.verbose and iteration % estimator.verbose_interval == 0:
            elapsed = f"\t {time.perf_counter() - started:.2f} s" if estimator.verbose > 1 else ""
            print(f"  Iteration {iteration}\t mean log-likelihood {bound:.6f}{elapsed}")
        run = Run(parameters, bounds, converged)
        stop = part.end(partial(attributes_after, run))
        if converged or stop:
            break
    return run


def in_units_of_samples(sample_weight: Any, n_samples: int) -> tuple[FloatArray | None, int]:
    """Return weights that are 1 on average over the samples that have any, and the number of these.

    So only ratios matter to what is compared with a sample's worth.
    """
    weights = check_sample_weight(sample_weight, n_samples)
    if weights is None:
        return None, n_samples
    # By a power of two, which rounds nothing that counts: of subnormal weights the mean has no reciprocal.
    weights = np.ldexp(weights, -np.frexp(weights.max())[1])
    # Counted now: what is out of range beside the largest has become 0.
    n_weighted = int(np.count_nonzero(weights))
    # The sum of those that remain, in whose last digits zeros between them do not show.
    return weights * (n_weighted / weights[weights > 0].sum()), n_weighted
