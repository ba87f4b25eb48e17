"""Data on which EM degenerates: fitted, or refused, with words that name the component and the remedy."""

import re
import warnings

import numpy as np
import pytest
from sklearn.datasets import load_digits
from sklearn.exceptions import ConvergenceWarning

import reference as ref
from mfa_fast import MFA, MFAClassifier

KINDS = [("spherical", False), ("spherical", True), ("diag", False), ("diag", True)]
kinds = pytest.mark.parametrize(("noise_type", "tied"), KINDS)
D = 5


def _normal(n=60, seed=0):
    return np.random.default_rng(seed).normal(size=(n, D))


def _line():
    rng = np.random.default_rng(0)
    return rng.normal(size=(60, 1)) @ rng.normal(size=(1, D))


def _with_row(value):
    return np.vstack([_normal(), np.full((1, D), value)])


# Data and (n_components, n_factors).
FAULTS = {
    "duplicated rows": (np.repeat(_normal(4), 15, axis=0), 3, 2),
    "constant features": (np.where(np.arange(D) < 2, 3.0, _normal()), 2, 1),
    "constant": (np.full((20, D), 3.0), 2, 1),
    "a line, more factors": (_line(), 1, 3),
    "a line, more factors and components": (_line(), 2, 3),
    "a line, one factor": (_line(), 1, 1),
    "fewer rows than factors": (_normal(3), 1, 4),
    "a row per component": (_normal(4), 4, 1),
    "fewer rows than components": (_normal(3), 4, 1),
    "1e20": (1e20 * _normal(), 2, 1),
    "1e38": (1e38 * np.clip(_normal(), -3, 3), 2, 1),
    "one row of 1e20": (_with_row(1e20), 2, 1),
    "1e-30": (1e-30 * _normal(), 2, 1),
    "subnormal": (1e-310 * _normal(), 2, 1),
    "a row of its own": (_with_row(50.0), 2, 1),
    "a mean of 1e8": (1e8 + _normal(), 2, 1),
    "an outlier": (_with_row(1e6), 1, 1),
    "a far outlier": (_with_row(1e12), 2, 1),
    "wildly different scales": (_normal() * np.array([1e-8, 1e-3, 1, 1e4, 1e9]), 2, 1),
    "integers": (np.random.default_rng(0).integers(-5, 5, (60, D)), 2, 1),
    "huge integers": (np.random.default_rng(0).integers(-(2**62), 2**62, (60, D)), 2, 1),
    "truth values": (_normal() > 0, 2, 1),
}


def _fit(model, X):
    """Return a fitted model and the texts of its warnings, which are to be convergence warnings."""
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        model.fit(X)
    assert all(issubclass(warning.category, ConvergenceWarning) for warning in seen), [str(w.message) for w in seen]
    return model, [str(warning.message) for warning in seen]


@pytest.mark.parametrize("init_params", ["kmeans", "random"])
@kinds
@pytest.mark.parametrize("fault", FAULTS)
def test_is_fitted_or_refused(fault, noise_type, tied, init_params, dtype):
    X, n_components, n_factors = FAULTS[fault]
    if X.dtype == np.float64:
        X = X.astype(dtype)
    model = MFA(
        n_components, n_factors, noise_type=noise_type, tied_noise=tied, init_params=init_params, random_state=0
    )
    try:
        model, _ = _fit(model, X)
    except ValueError as error:
        # What EM itself cannot help.
        assert fault in ("fewer rows than components", "1e20", "1e38"), str(error)
        assert re.search(r"scale (X|the data)|use fewer components", str(error))
        return
    for value in (model.weights_, model.means_, model.loadings_, model.noise_variance_, model.lower_bounds_):
        assert np.all(np.isfinite(value))
    assert np.all(model.noise_variance_ >= np.float32(1e-6))
    assert np.all(np.isfinite(model.score_samples(X)))
    assert np.all(np.isfinite(model.sample(5, random_state=0)[0]))


@pytest.mark.parametrize(("scale", "floor"), [(1e20, 1e-6), (1e-30, 1e-70)])
def test_what_float32_cannot_hold_is_refused_by_the_names_of_the_components(scale, floor):
    X = scale * _normal()
    model = MFA(2, 1, min_noise_variance=floor, random_state=0)
    with pytest.raises(ValueError, match=r"component\(s\) 0, 1 .*scale X, or pass float64"):
        model.fit(X.astype(np.float32))
    assert not hasattr(model, "lower_bounds_")
    model, texts = _fit(model, X)
    assert not texts
    plain = MFA(2, 1, min_noise_variance=floor / scale**2, random_state=0).fit(_normal())
    assert np.allclose(model.noise_variance_, scale**2 * plain.noise_variance_, rtol=1e-3)


@kinds
def test_a_huge_offset_keeps_the_variance(noise_type, tied):
    X = ref.random_samples(ref.random_parameters(1, D, 2, seed=1), 500, stray=0)
    options = {"noise_type": noise_type, "tied_noise": tied, "tol": 1e-8, "max_iter": 2000}
    (here, _), (far, _) = (_fit(MFA(1, 2, **options), data) for data in (X, X + 1e8))
    assert np.allclose(far.noise_variance_, here.noise_variance_, rtol=1e-3)
    assert far.score(X + 1e8) == pytest.approx(here.score(X), abs=1e-5)


@kinds
def test_the_bound_does_not_fall_where_factors_explain_their_samples(noise_type, tied):
    """By rounding that is spread over all directions: noise of 1e-6 was found where there is none."""
    X = np.array([[0.125, -0.125], [0.640625, 0.109375], [-0.5390625, 0.359375]])
    model, _ = _fit(MFA(2, 1, noise_type=noise_type, tied_noise=tied, min_noise_variance=1e-12, random_state=0), X)
    assert np.all(np.diff(model.lower_bounds_) >= -1e-6)


def test_noise_that_float64_cannot_tell_is_bounded_and_said_so():
    """Where one factor reaches from one cluster to another: the bound is 1e-12 of what it explains, docs (13e)."""
    X = _normal(40)
    X[20:] += 1e8
    model, texts = _fit(MFA(1, 1, random_state=0), X)
    explained = np.sum(model.loadings_**2, axis=1)
    assert np.allclose(model.noise_variance_, 2.0**-40 * explained.mean(), rtol=0.1)
    assert re.match(r"component\(s\) 0 ended with the least noise that float64 tells .*fewer factors", texts[0])
    # Beside a component that is as it should be, it alone is named.
    apart = np.concatenate([X, _normal(40, seed=1) - 1e10])
    model, texts = _fit(MFA(2, 1, random_state=0), apart)
    assert len(texts) == 1
    assert texts[0].startswith(f"component(s) {np.argmax(model.means_[:, 0])} ended with the least noise")
    # A component for each has noise of its own.
    model, texts = _fit(MFA(2, 1, random_state=0), X)
    assert texts == []
    assert np.all(model.noise_variance_ < 2)


@kinds
@pytest.mark.parametrize("case", ["far means", "narrow samples"])
def test_an_m_step_leaves_the_least_noise_that_float64_tells(case, noise_type, tied):
    """Beside squares about means far away, and beside loadings that samples do not fill, docs (13e)."""
    directions = np.arange(1.0, D + 1) * [[1.0], [2.0]]  # features and components differ
    if case == "far means":
        clusters = np.stack([_normal(), 1e12 + _normal()])
        means, loadings, noise = clusters.mean(axis=1) + 1e8 * directions, np.ones((2, 1, D)), 1.0
    else:
        clusters = 1e-3 * _normal()[:, :1] * directions[:, None] + [[[0.0]], [[100.0]]]
        means, loadings, noise = clusters.mean(axis=1), directions[:, None], 2.0**-40
    model = MFA.from_parameters([0.5, 0.5], means, loadings, noise)
    model.set_params(noise_type=noise_type, tied_noise=tied, min_noise_variance=1e-30)
    model.m_step(model.e_step(np.concatenate(clusters)))
    squares = np.mean((clusters - means[:, None]) ** 2, axis=1)
    least = 2.0**-40 * np.maximum(squares, model.loadings_[:, 0] ** 2)
    if noise_type == "spherical":
        least = least.mean(axis=1, keepdims=True)
    if tied:
        least = least.max(axis=0, keepdims=True)
    assert np.allclose(model.noise_variance_, least, rtol=1e-3, atol=0)


@pytest.mark.parametrize(
    ("offset", "kind"),
    [
        (1e4, np.float32),
        (1e6, np.float32),
        (1e7, np.float32),
        (1e8, np.float32),
        (1e10, np.float32),
        (1e6, np.float64),
        (1e8, np.float64),
        (1e12, np.float64),
        (1e15, np.float64),
    ],
)
@kinds
def test_an_offset_is_harmless_or_warned_of(offset, kind, noise_type, tied):
    X = ref.random_samples(ref.random_parameters(1, D, 2, seed=1), 500, stray=0)
    options = {"noise_type": noise_type, "tied_noise": tied, "max_iter": 1000}
    far = (X + offset).astype(kind)
    here, _ = _fit(MFA(1, 2, **options), X)
    fitted, texts = _fit(MFA(1, 2, **options), far)
    coarse = [text for text in texts if "too coarse" in text]
    if np.spacing(kind(offset)) < 0.1 * np.sqrt(here.noise_variance_.min()):
        assert not coarse
        covariances = [m.loadings_[0].T @ m.loadings_[0] + np.diag(m.noise_variance_[0]) for m in (fitted, here)]
        assert np.allclose(*covariances, atol=5e-3 * covariances[1].max())
        assert fitted.score(far) == pytest.approx(here.score(X), abs=2e-3)
    else:
        name = np.dtype(kind).name
        assert re.match(
            rf"component\(s\) 0 lie where {name} is too coarse .* in feature \d of component 0, .*subtract the mean of",
            coarse[0],
        )
        assert ("pass float64" in coarse[0]) == (kind is np.float32)


def test_a_constant_far_away_is_no_reason_to_warn():
    X = np.hstack([np.full((60, 1), 12345.678), _normal()]).astype(np.float32)
    assert _fit(MFA(1, 1, noise_type="diag"), X)[1] == []


# What is said of components that tell nothing.


def test_a_component_on_a_subspace_is_named_with_the_remedy():
    X = np.vstack([_normal(200), 40 + _line()])
    model, texts = _fit(MFA(2, 1, random_state=0), X)
    flat = int(np.argmax(model.means_[:, 0]))
    assert len(texts) == 1
    assert re.match(rf"component\(s\) {flat} ended .*Raise min_noise_variance .*fewer components", texts[0])
    assert _fit(MFA(2, 1, random_state=0, min_noise_variance=1.0), X)[1] == []


@kinds
def test_a_component_of_one_row_is_named(noise_type, tied):
    # With tied noise a factor of the row's component may reach over to the others, which it then has a share of.
    model, texts = _fit(
        MFA(2, 0 if tied else 1, noise_type=noise_type, tied_noise=tied, random_state=0), _with_row(50.0)
    )
    alone = int(np.argmin(model.weights_))
    assert len(texts) == 1
    assert re.match(rf"component\(s\) {alone} ended", texts[0])
    assert "fewer components" in texts[0]


def test_every_kind_of_fault_is_named_with_its_components():
    X = np.vstack([_normal(200), 40 + _line(), np.full((1, D), -500.0)])
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        model = MFA(3, 1, random_state=0).fit(X)
    alone, line = int(np.argmin(model.means_[:, 0])), int(np.argmax(model.means_[:, 0]))
    collapsed, single = (str(warning.message) for warning in seen)
    assert re.match(rf"component\(s\) {line} ended with every noise variance at .*Raise min_noise_variance", collapsed)
    assert re.match(rf"component\(s\) {alone} ended with a single sample .*raise min_noise_variance=1e-06", single)
    assert {warning.filename for warning in seen} == {__file__}


def test_a_stream_is_warned_of_a_fault_when_it_comes_up():
    X = np.vstack([_normal(200), 40 + _line()])[np.random.default_rng(0).permutation(260)]
    model = MFA(2, 1, random_state=0)
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        for batch in np.split(X, 4):
            model.partial_fit(batch)
    flat = int(np.argmax(model.means_[:, 0]))
    assert [str(warning.message)[:18] for warning in seen] == [f"component(s) {flat} end"]
    assert seen[0].filename == __file__


def test_a_warning_of_a_classifier_names_the_class():
    X = np.vstack([_normal(), _line()])
    with pytest.warns(ConvergenceWarning, match=r"^class 'line': component\(s\) 0 ended"):
        MFAClassifier(1, 1, random_state=0).fit(X, np.repeat(["any", "line"], 60))


@pytest.mark.parametrize(("n_components", "n_factors"), [(1, 0), (1, 1), (2, 1)])
@pytest.mark.parametrize("method", ["fit", "partial_fit"])
def test_a_class_of_one_row_is_refused_by_its_name(n_components, n_factors, method):
    classifier = MFAClassifier(n_components, n_factors, random_state=0)
    y = np.where(np.arange(60) < 59, "any", "rare")
    more = {"classes": ["any", "rare"]} if method == "partial_fit" else {}
    with pytest.raises(
        ValueError, match=r"class 'rare' \(1 sample\(s\)\) cannot be fitted: .*n_samples=1.*more samples"
    ):
        getattr(classifier, method)(_normal(), y, **more)
    assert not hasattr(classifier, "classes_")
    # Two that are equal are one as well, but may be what the class is like: they are fitted, with a warning.
    X = np.vstack([_normal(), _normal()[59:]])
    with pytest.warns(ConvergenceWarning, match=r"^class 'rare': X varies by less than min_noise_variance"):
        getattr(classifier, method)(X, np.append(y, "rare"), **more)
    assert np.all(np.isfinite(classifier.class_log_likelihood(X)))
    assert classifier.predict(X)[-1] == "rare"


def test_a_later_batch_may_have_one_row_of_a_class():
    y = np.arange(60) % 2
    classifier = MFAClassifier(1, 1, random_state=0).partial_fit(_normal(), y, classes=[0, 1])
    classifier.partial_fit(_normal(2, seed=1), [0, 1]).partial_fit(_normal(1, seed=2), [1])
    assert np.array_equal(classifier.class_count_, [31, 32])
    assert np.all(np.isfinite(classifier.class_log_likelihood(_normal())))


@kinds
def test_data_below_the_floor_are_said_so(noise_type, tied):
    options = {"noise_type": noise_type, "tied_noise": tied, "random_state": 0}
    _, texts = _fit(MFA(2, 1, **options), 1e-5 * _normal())
    assert len(texts) == 1
    assert re.match(r"X varies by less than min_noise_variance=1e-06 .*scale X, or lower", texts[0])
    assert _fit(MFA(2, 1, min_noise_variance=1e-14, **options), 1e-5 * _normal())[1] == []


@kinds
def test_ordinary_images_are_fitted_without_a_word(noise_type, tied):
    X, y = load_digits(return_X_y=True)  # whose border is constant
    options = {"noise_type": noise_type, "tied_noise": tied, "random_state": 0, "max_iter": 1000}
    _, texts = _fit(MFA(10, 4, **options), X / 16)
    assert texts == []
    assert _fit(MFA(10, 4, min_noise_variance=0.03, **options), X / 16)[1] == []  # a floor by choice
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        MFAClassifier(5, 4, random_state=0, max_iter=1000).fit(X[y < 2] / 16, y[y < 2])
