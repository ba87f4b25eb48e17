"""What holds of fits to data that leave next to nothing to fit, whatever is wrong with them at once."""

import warnings

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.exceptions import ConvergenceWarning

from mfa_fast import MFA
from tolerances import EM_MONOTONE

# What messages of ours name: an argument, or the components that they are about.
NAMED = ("X", "component(s)", "n_components", "n_factors", "min_noise_variance", "max_iter", "sample_weight")

# After which the bound may have fallen: components that were moved, or are held up by a bound that moves with them,
# docs/theory.md (13e).
MAY_FALL = ("were moved to the worst", "least noise that float64 tells", "a single sample each")

FAULTS = {
    "rows of one kind": lambda X, rng: X[rng.integers(0, max(1, len(X) // 4), len(X))],
    "constant features": lambda X, rng: np.where(np.arange(X.shape[1]) < rng.integers(1, 1 + X.shape[1]), 3.0, X),
    "a line": lambda X, rng: X[:, :1] * rng.normal(size=(1, X.shape[1])),
    "all equal": lambda X, rng: np.repeat(X[:1], len(X), axis=0),
    "an outlier": lambda X, rng: np.vstack([X[:-1], X[-1:] * 10.0 ** rng.integers(2, 21)]),
    "an offset": lambda X, rng: X + 10.0 ** rng.integers(1, 10),
    "offsets of its own": lambda X, rng: X + 10.0 ** rng.integers(-3, 8, X.shape[1]),
    "clusters far apart": lambda X, rng: X + 10.0 ** rng.integers(1, 10) * rng.integers(0, 2, (len(X), 1)),
    "scales": lambda X, rng: X * 10.0 ** rng.integers(-9, 9, X.shape[1]),
    "large": lambda X, rng: X * 10.0 ** rng.integers(3, 21),
    "small": lambda X, rng: X * 10.0 ** -rng.integers(3, 31),
    "integers": lambda X, rng: np.round(X),
    "zeros": lambda X, rng: X * (rng.random(X.shape) < 0.2),
}


@st.composite
def problems(draw):
    """Data with up to three faults, weights with zeros or none, and a model."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    n, d = draw(st.integers(2, 40)), draw(st.integers(1, 6))
    X = rng.normal(size=(n, d))
    for fault in draw(st.lists(st.sampled_from(sorted(FAULTS)), min_size=1, max_size=3, unique=True)):
        X = FAULTS[fault](X, rng)
    X = X.astype(draw(st.sampled_from([np.float32, np.float64])))
    weights = None
    if draw(st.booleans()):
        weights = rng.integers(0, 4, n) * 10.0 ** draw(st.integers(-8, 8))
        weights[rng.integers(n)] = 1.0
    model = MFA(
        draw(st.integers(1, 4)),
        draw(st.integers(0, d - 1)),
        noise_type=draw(st.sampled_from(["spherical", "diag"])),
        tied_noise=draw(st.booleans()),
        init_params=draw(st.sampled_from(["kmeans", "k-means++", "random_from_data", "random"])),
        min_noise_variance=10.0 ** -draw(st.sampled_from([2, 6, 12])),
        max_iter=30,
        random_state=0,
    )
    return X, weights, model


def _assert_valid(model):
    for value in (model.weights_, model.means_, model.loadings_, model.noise_variance_):
        assert np.all(np.isfinite(value))
    assert np.all(model.weights_ >= 0)
    assert abs(model.weights_.sum(dtype=np.float64) - 1) <= 1e-6
    # In the dtype of the parameters, to which the floor is rounded as well.
    assert np.all(model.noise_variance_ >= model.noise_variance_.dtype.type(model.min_noise_variance))


def _run(call):
    """Return whether a call was not refused, and the texts of its warnings; all of them are to be ours."""
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        try:
            call()
            refused = False
        except ValueError as error:
            assert any(name in str(error) for name in NAMED), str(error)
            refused = True
    for warning in seen:
        assert issubclass(warning.category, ConvergenceWarning), str(warning.message)
        assert any(name in str(warning.message) for name in NAMED), str(warning.message)
    return not refused, [str(warning.message) for warning in seen]


@settings(max_examples=4 * settings().max_examples)
@given(problems())
def test_a_fit_is_valid_or_refused(problem):
    X, weights, model = problem
    fitted, texts = _run(lambda: model.fit(X, sample_weight=weights))
    if not fitted:
        assert not hasattr(model, "means_")
        return
    _assert_valid(model)
    bounds = np.asarray(model.lower_bounds_)
    assert np.all(np.isfinite(bounds))
    if not any(words in text for text in texts for words in MAY_FALL):
        assert np.all(np.diff(bounds) >= -EM_MONOTONE * np.maximum(1, np.abs(bounds[1:]))), bounds
    # A log-density beyond the range of float32 is refused, by the row.
    scored, _ = _run(lambda: np.testing.assert_array_less(np.abs(model.score_samples(X)), np.inf))
    assert scored or X.dtype == np.float32


@settings(max_examples=4 * settings().max_examples)
@given(problems(), st.integers(1, 5))
def test_a_step_is_valid_or_refused(problem, n_batches):
    X, weights, model = problem
    for rows in np.array_split(np.arange(len(X)), n_batches):
        before = dict(vars(model))
        shares = None if weights is None else weights[rows]
        fitted, _ = _run(lambda: model.partial_fit(X[rows], sample_weight=shares))  # noqa: B023
        if fitted:
            _assert_valid(model)
        else:
            assert vars(model) == before
