"""Mixtures, and samples of which entries are missing, that several test files take."""

import numpy as np
import pytest

import reference as ref
from mfa_fast import MFA

noises = pytest.mark.parametrize(("noise_type", "tied"), [("spherical", False), ("diag", True), ("diag", False)])


def hidden_problem(
    shape=(3, 7, 2), n=90, *, noise_type="spherical", tied=False, noise_std=1.0, rate=0.4, dtype=np.float64
):
    """Parameters of a mixture, and samples of it with a part of the entries hidden."""
    p = ref.random_parameters(*shape, noise_type=noise_type, tied=tied, noise_std=noise_std, seed=1)
    return p, ref.hide(ref.random_samples(p, n, seed=2), rate).astype(dtype)


def marginal_model(p, **options):
    """The mixture that takes NaN for a missing value."""
    return MFA.from_parameters(*p).set_params(missing="marginal", **options)
