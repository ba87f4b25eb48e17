"""Fits from given first parameters, and without the warning that the iterations were not enough."""

import warnings

from sklearn.exceptions import ConvergenceWarning

from mfa_fast import MFA


def starting_from(start, noise_type="spherical", tied_noise=False, **parameters):
    """An estimator that begins with given parameters, and goes on to `max_iter` unless it is told otherwise."""
    first = {f"{name}_init": value for name, value in start._asdict().items()}
    return MFA(
        *start.loadings.shape[:2], noise_type=noise_type, tied_noise=tied_noise, **{**first, "tol": 0, **parameters}
    )


def quietly(model, X, y=None, **options):
    """Fit, and say nothing of convergence."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        return model.fit(X, y, **options)
