"""Stepwise EM: parameters from a running mean of the statistics of batches that are seen once.

docs/theory.md, section 2, (13a) to (13d).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import DTypeLike, NDArray

from mfa_fast._diagnosis import round_parameters, warn
from mfa_fast._em import NoiseModel, check_range, filled_in, regress
from mfa_fast._parameters import Parameters
from mfa_fast._statistics import EMPTY_COUNT, Statistics, Sums
from mfa_fast._typing import Array, FloatArray

# A component whose running share of the samples is this small, times 1 / K, has been forgotten: it is seeded anew.
FORGOTTEN_SHARE = 1e-6


def step_size(n_steps: int, offset: float, decay: float) -> float:
    """Return what the next batch counts in the running mean, after so many, theory.md (13a); the first is all of it."""
    return 1.0 if n_steps == 0 else float((n_steps + offset) ** -decay)


def implied_sums(parameters: Parameters) -> Sums:
    """Return the sums, per sample, that an M-step turns into these very parameters, theory.md (13d)."""
    n_components, n_factors, n_features = parameters.loadings.shape
    w = parameters.weights
    cross = np.zeros((n_components, n_factors + 1, n_features))
    cross[:, :n_factors] = w[:, None, None] * parameters.loadings
    return Sums(
        counts=w.copy(),
        factor_sums=np.zeros((n_components, n_factors)),
        factor_moments=w[:, None, None] * np.eye(n_factors),
        cross=cross,
        squares=w[:, None] * (parameters.explained() + parameters.noise_variance),
    )


def blend(running: Sums | None, batch: Statistics, size: float) -> Sums:
    """Return the running mean with a batch counted in, per sample, theory.md (13a)."""
    means = [a / batch.weight for a in batch._sums()]
    if running is None:
        return Sums(*means)
    return Sums(*((1.0 - size) * old + size * new for old, new in zip(running._sums(), means, strict=True)))


def recentered(sums: Sums, shift: FloatArray) -> Sums:
    """Return the sums about means that have moved by `shift` (K, d), theory.md (13b) and (13c)."""
    ones = np.concatenate([sums.factor_sums, sums.counts[:, None]], axis=1)
    squares = sums.squares - 2.0 * shift * sums.cross[:, -1] + sums.counts[:, None] * shift**2
    return Sums(
        sums.counts,
        sums.factor_sums,
        sums.factor_moments,
        sums.cross - ones[:, :, None] * shift[:, None, :],
        # Squares that are all but used up by the shift may have lost their sign to rounding.
        np.maximum(squares, 0.0),
    )


def step(
    parameters: Parameters,
    running: Sums | None,
    batch: Statistics,
    size: float,
    noise: NoiseModel,
    dtype: DTypeLike,
    n_threads: int,
) -> tuple[Parameters, Sums]:
    """Return the parameters after a batch whose statistics were taken at `parameters`, and the sums about their means.

    `running` is what the step before has returned, and None for the first.
    """
    sums = blend(running, batch, size)
    least = EMPTY_COUNT / batch.weight if running is None else FORGOTTEN_SHARE / len(sums.counts)
    forgotten = np.flatnonzero((sums.counts < least) & batch._empty())
    means = parameters.means
    if len(forgotten):
        means, sums = _place(forgotten, means, sums, batch.worst_samples, noise, n_threads)
    new = round_parameters(check_range(regress(means, sums, noise, n_threads)), dtype)
    # About the means as they are kept: rounded to the type.
    return new, recentered(sums, new.means - means)


def _place(
    forgotten: NDArray[np.intp],
    means: FloatArray,
    sums: Sums,
    worst_samples: Array,
    noise: NoiseModel,
    n_threads: int,
) -> tuple[FloatArray, Sums]:
    """Return means and sums from which the M-step takes components to the worst explained samples.

    Each gets a hundredth of the heaviest component's sums, and so its shape, about a mean as far from the sample as the
    step leads.
    """
    warn(
        f"component(s) {', '.join(map(str, forgotten))} had lost all samples and were moved to the worst explained "
        "ones of the batch; larger batches, or fewer components (n_components), may suit the data better."
    )
    heaviest = int(np.argmax(sums.counts))
    alone = Sums(*(a[heaviest : heaviest + 1] for a in sums._sums()))
    lead = regress(np.zeros((1, means.shape[1])), alone, noise, n_threads).means[0]
    means, arrays = means.copy(), [a.copy() for a in sums._sums()]
    # Taken again from the first where the batch has fewer samples.
    worst = np.resize(worst_samples, (len(forgotten), means.shape[1]))
    means[forgotten] = filled_in(worst, means[heaviest] + lead) - lead
    for array in arrays:
        array[forgotten] = 0.01 * array[heaviest]
    return means, Sums(*arrays)
