"""Where the outliers of asymmetric classifiers lie: on either side of the mean, along a principal direction."""

from __future__ import annotations

from typing import Any

import numpy as np
from sklearn.decomposition import PCA

from mfa_fast._samples import Samples, find_bad_row
from mfa_fast._typing import FloatArray
from mfa_fast._validation import check_integer, check_real

# Of the largest standard deviation along a principal direction; what is less is rounding.
_NO_SPREAD = 1e-7


def outlier_means(
    samples: Samples, component: int, offset: float, dtype: np.dtype[Any]
) -> tuple[FloatArray, FloatArray]:
    """Return the means (d,) of the outliers of either class, which `dtype` can hold.

    They are the samples' mean plus and minus `offset` standard deviations along principal direction number `component`.
    """
    check_integer("component", component, 1)
    most = min(len(samples) - 1, samples.n_features)
    if component > most:
        msg = (
            f"component={component} asks for more principal directions than X has: min(n_samples - 1, n_features) "
            f"= {most}; use a smaller one, or more samples."
        )
        raise ValueError(msg)
    check_real("offset", offset)
    rows = samples.host_rows(slice(None)).astype(np.float64, copy=False)
    bad = find_bad_row(rows)
    if bad is not None:
        msg = (
            f"X must be finite here, whatever `missing` is, got NaN or infinity in row {bad}; fill it in with "
            "MFA.impute, or leave such rows out."
        )
        raise ValueError(msg)
    pca = PCA(int(component), svd_solver=_exact_solver(rows.shape, component), random_state=0)
    with np.errstate(invalid="ignore"):  # it divides by the variance, of which there may be none
        pca.fit(rows)
    spread = float(np.sqrt(pca.explained_variance_[-1]))
    if not spread > _NO_SPREAD * np.sqrt(pca.explained_variance_[0]):
        msg = (
            f"component={component} is a direction in which X varies by less than {_NO_SPREAD:g} of what it does "
            "in its first, which is rounding; use a smaller one, or scale the features."
        )
        raise ValueError(msg)
    step = float(offset) * spread * pca.components_[-1]
    if not np.abs(step).max() < np.finfo(dtype).max:
        msg = f"offset={offset} puts the outliers out of the range of {dtype}; use a smaller one."
        raise ValueError(msg)
    return pca.mean_ + step, pca.mean_ - step


def _exact_solver(shape: tuple[int, ...], component: int) -> str:
    """Return the quickest way of `PCA` to a principal direction; its own choice finds the later ones roughly."""
    if shape[1] <= 2000:
        return "covariance_eigh"
    return "arpack" if component < min(shape) else "full"
