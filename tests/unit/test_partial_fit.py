"""Stepwise EM, from batches that are seen once."""

import pickle
import warnings

import numpy as np
import pytest
from sklearn.base import clone
from sklearn.datasets import load_digits
from sklearn.exceptions import ConvergenceWarning

import reference as ref
from fits import quietly, starting_from
from mfa_fast import MFA, MFAClassifier
from models import assert_same_parameters
from tolerances import EM_PARAMETERS, EM_PARAMETERS_FLOAT32, LOG_DENSITY, relative_error, scaled_error

KINDS = [("spherical", False), ("spherical", True), ("diag", False), ("diag", True)]
kinds = pytest.mark.parametrize(("noise_type", "tied"), KINDS)
NAMES = ("weights", "means", "loadings", "noise_variance")


def _problem(noise_type="spherical", tied=False, n=600):
    options = {"noise_type": noise_type, "tied": tied, "noise_std": 0.7}
    X = ref.random_samples(ref.random_parameters(3, 7, 2, **options, seed=1), n, seed=2)
    return X, ref.random_parameters(3, 7, 2, **options, seed=3)


def _batches(X, sizes):
    return np.split(X, np.cumsum(sizes)[:-1])


@kinds
def test_agrees_with_the_reference_step_by_step(noise_type, tied):
    X, start = _problem(noise_type, tied)
    batches = _batches(X, [200, 100, 50, 1, 249])
    model = starting_from(start, noise_type=noise_type, tied_noise=tied, learning_decay=0.6, learning_offset=3)
    sizes = [1.0, 4**-0.6, 5**-0.6, 6**-0.6, 7**-0.6]
    for t, batch in enumerate(batches, start=1):
        assert model.partial_fit(batch) is model
        expected = ref.stepwise_em(batches[:t], start, sizes[:t], noise_type=noise_type, tied_noise=tied)
        assert_same_parameters(model, expected, EM_PARAMETERS)
    assert model.n_steps_ == 5
    assert model.n_samples_seen_ == 600
    assert model.lower_bound_ == pytest.approx(
        np.mean(ref.score_samples(batches[-1], ref.stepwise_em(batches[:-1], start, sizes[:-1],
                                                               noise_type=noise_type, tied_noise=tied))), rel=1e-7
    )  # fmt: skip


def test_a_component_that_has_lost_all_samples_is_moved_to_one_with_missing_values():
    X, start = _problem()
    X[np.random.default_rng(0).random(X.shape) < 0.3] = np.nan
    means = np.array(start.means)
    means[1] = 1e3
    model = starting_from(start, missing="marginal").set_params(means_init=means)
    with pytest.warns(ConvergenceWarning, match=r"component\(s\) 1 had lost all samples"):
        model.partial_fit(X)
    row = np.argmin(np.nanmax(np.abs(X - model.means_[1]), axis=1))
    heaviest = np.argmax(model.weights_)
    assert np.isnan(X[row]).any()
    filled = np.where(np.isnan(X[row]), model.means_[heaviest], X[row])
    assert scaled_error(model.means_[1], filled) <= EM_PARAMETERS


def test_agrees_with_the_reference_in_float32():
    X, start = _problem()
    batches = _batches(X.astype(np.float32), [300, 200, 100])
    model = starting_from(start)
    for batch in batches:
        model.partial_fit(batch)
    assert model.means_.dtype == np.float32
    assert_same_parameters(model, ref.stepwise_em(batches, start, [1, 3**-0.7, 4**-0.7]), EM_PARAMETERS_FLOAT32)


def test_one_batch_is_one_iteration():
    X, start = _problem()
    assert_same_parameters(starting_from(start).partial_fit(X), ref.em(X, start, 1)[0], EM_PARAMETERS)


def test_far_from_the_origin_nothing_is_lost():
    X, start = _problem()
    batches = _batches(X, [300, 200, 100])
    model, moved = starting_from(start), starting_from(start._replace(means=start.means + 1e5))
    for batch in batches:
        model.partial_fit(batch)
        moved.partial_fit(batch + 1e5)
    assert scaled_error(moved.means_ - 1e5, model.means_) <= 1e-6
    assert scaled_error(moved.noise_variance_, model.noise_variance_) <= 1e-6


def test_the_first_batch_makes_the_start():
    X, _ = _problem()
    fitted = quietly(MFA(3, 2, max_iter=1, random_state=0), X)
    assert_same_parameters(MFA(3, 2, random_state=0).partial_fit(X), fitted, EM_PARAMETERS)


def test_weights_stand_for_repetition():
    X, start = _problem()
    w = np.random.default_rng(0).integers(0, 4, len(X))
    weighted, repeated = starting_from(start), starting_from(start)
    for batch, shares in zip(_batches(X, [300, 300]), _batches(w, [300, 300]), strict=True):
        weighted.partial_fit(batch, sample_weight=1e-6 * shares)
        repeated.partial_fit(np.repeat(batch, shares, axis=0))
    assert_same_parameters(weighted, ref.Parameters(
        repeated.weights_, repeated.means_, repeated.loadings_, repeated.noise_variance_), EM_PARAMETERS)  # fmt: skip


@kinds
def test_what_parameters_imply_leads_back_to_them(noise_type, tied):
    """A step of next to no size leaves a model that was not made by partial_fit where it is."""
    X, start = _problem(noise_type, tied)
    model = MFA.from_parameters(*start).set_params(
        learning_offset=1e12, learning_decay=1.0, noise_type=noise_type, tied_noise=tied
    )
    model.partial_fit(X)
    assert_same_parameters(model, start, 1e-9)


def test_a_fit_counts_as_the_batches_that_it_saw():
    X, _ = _problem()
    model = MFA(3, 2, random_state=0, tol=0.1).fit(X)
    before = model.score(X)
    model.partial_fit(X[:6])
    assert model.n_steps_ == 101
    assert model.score(X) > before - 0.05
    assert not hasattr(model.fit(X), "n_steps_")


def test_forgotten_components_are_moved_to_samples_badly_explained():
    X, start = _problem()
    start.means[1] = 1e6
    model = starting_from(start)
    with pytest.warns(ConvergenceWarning, match=r"component\(s\) 1 had lost"):
        model.partial_fit(X)
    assert np.any(np.abs(model.means_[1] - X).max(axis=1) < 1e-9)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for batch in _batches(X, [200, 200, 200]):
            model.partial_fit(batch)
    assert model.weights_[1] * len(X) > 1
    for name in NAMES:
        assert np.all(np.isfinite(getattr(model, f"{name}_")))


def test_more_components_without_weight_than_samples():
    X, start = _problem()
    model = MFA.from_parameters([0.0, 0.0, 1.0], start.means, start.loadings, start.noise_variance)
    with pytest.warns(ConvergenceWarning):
        model.partial_fit(X[:1])
    assert np.all(np.isfinite(model.score_samples(X)))
    assert np.all(model.weights_ > 0)


def test_pickle_goes_on_where_it_was():
    X, start = _problem()
    first, second, third = _batches(X, [200, 200, 200])
    model = starting_from(start).partial_fit(first).partial_fit(second)
    copy = pickle.loads(pickle.dumps(model))
    assert np.array_equal(copy.partial_fit(third).means_, model.partial_fit(third).means_)
    assert not [name for name in vars(clone(model)) if name.endswith("_") or name.startswith("_")]


def test_a_fit_or_an_m_step_in_between_starts_from_its_parameters():
    X, start = _problem()
    mixed, plain = starting_from(start, max_iter=1, tol=0), starting_from(start, max_iter=1, tol=0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        mixed.partial_fit(X[:50]).fit(X).partial_fit(X[:100])
        plain.fit(X).partial_fit(X[:100])
    assert np.array_equal(mixed.means_, plain.means_)
    loaded = MFA.from_parameters(*start).partial_fit(X[:100])
    stepped = loaded.m_step(loaded.e_step(X))
    fresh = MFA.from_parameters(stepped.weights_, stepped.means_, stepped.loadings_, stepped.noise_variance_)
    fresh.n_samples_seen_ = stepped.n_samples_seen_
    assert np.array_equal(stepped.partial_fit(X).means_, fresh.set_params(tied_noise=False).partial_fit(X).means_)


def test_after_a_file_it_goes_on_from_the_parameters(tmp_path):
    X, _ = _problem()
    model = MFA(3, 2, random_state=0, tol=0.1).fit(X)
    model.save(tmp_path / "model")
    loaded = MFA.load(tmp_path / "model")
    assert np.array_equal(loaded.partial_fit(X[:100]).means_, model.partial_fit(X[:100]).means_)
    assert loaded.n_steps_ == model.n_steps_ == 7


def test_shape_of_the_model_and_of_samples_are_checked():
    X, _ = _problem()
    with pytest.raises(ValueError, match="n_components=3 needs"):
        MFA(3).partial_fit(X[:2])
    model = MFA(3, 2, random_state=0).partial_fit(X)
    with pytest.raises(ValueError, match="features"):
        model.partial_fit(X[:, :5])
    with pytest.raises(ValueError, match="n_components=4"):
        model.set_params(n_components=4).partial_fit(X)


@pytest.mark.parametrize(
    ("name", "wrong"),
    [("learning_decay", 0.5), ("learning_decay", 1.1), ("learning_offset", -1.0), ("learning_offset", np.nan)],
)
def test_learning_parameters_are_checked(name, wrong):
    with pytest.raises(ValueError, match=name):
        MFA(**{name: wrong}).partial_fit(_problem()[0])


def test_a_step_that_fails_changes_nothing():
    X, start = _problem()
    model = starting_from(start).partial_fit(X[:300])
    before = pickle.loads(pickle.dumps(model))
    with pytest.raises(ValueError, match="NaN"):
        model.partial_fit(np.full((10, 7), np.nan))
    assert np.array_equal(model.partial_fit(X[300:]).means_, before.partial_fit(X[300:]).means_)


def test_one_pass_over_digits_comes_near_many_of_fit():
    X = np.random.default_rng(0).permutation(load_digits().data / 16)
    fitted = quietly(MFA(5, 3, random_state=0), X[:1400])
    model = MFA(5, 3, random_state=0)
    for start in range(0, 1400, 100):
        model.partial_fit(X[start : start + 100])
    one_component = MFA(1, 3, random_state=0, tol=1e-2).fit(X[:1400])
    gain = fitted.score(X[1400:]) - one_component.score(X[1400:])
    assert model.score(X[1400:]) >= fitted.score(X[1400:]) - 0.1 * gain


def test_one_pass_over_mnist_comes_near_fifteen_of_fit(mnist):
    X = mnist["x_train"][:10_000].reshape(10_000, -1)
    held_out = mnist["x_test"][:1000].reshape(1000, -1)
    one_component = MFA(1, 4, random_state=0, max_iter=15, tol=0.1).fit(X).score(held_out)
    gains = []  # how much of what four more components gain is found; which optimum is, depends on the start
    for seed in range(3):
        fitted = quietly(MFA(5, 4, random_state=seed, max_iter=15), X).score(held_out)
        model = MFA(5, 4, random_state=seed)
        for start in range(0, len(X), 250):
            model.partial_fit(X[start : start + 250])
        gains.append((model.score(held_out) - one_component) / (fitted - one_component))
    assert np.mean(gains) >= 0.85


def _labelled():
    X, _ = _problem()
    return X, np.where(X[:, 0] + X[:, 1] > 0, "yes", "no")


def test_classifier_steps_every_class():
    X, y = _labelled()
    model = MFAClassifier(2, 1, random_state=0)
    mixtures = None
    for rows in (slice(0, 200), slice(200, 400), slice(400, 600)):
        assert model.partial_fit(X[rows], y[rows], classes=["yes", "no"]) is model
        if mixtures is None:
            mixtures = [MFA(2, 1, random_state=m.random_state) for m in model.mixtures_]
        for mixture, label in zip(mixtures, ["no", "yes"], strict=True):
            mixture.partial_fit(X[rows][y[rows] == label])
    assert list(model.classes_) == ["no", "yes"]
    for mixture, expected in zip(model.mixtures_, mixtures, strict=True):
        assert np.array_equal(mixture.means_, expected.means_)
    assert list(model.class_count_) == [np.sum(y == "no"), np.sum(y == "yes")]
    assert model.priors_ == pytest.approx([np.mean(y == "no"), np.mean(y == "yes")])
    assert relative_error(model.predict_proba(X).sum(axis=1), np.ones(600)) <= LOG_DENSITY[np.dtype(np.float64)]


def test_classifier_leaves_classes_alone_that_a_batch_lacks():
    X, y = _labelled()
    model = MFAClassifier(2, 1, random_state=0).partial_fit(X[:300], y[:300], classes=np.unique(y))
    before = model.mixtures_[0].means_
    model.partial_fit(X[300:][y[300:] == "yes"], y[300:][y[300:] == "yes"])
    assert model.mixtures_[0].means_ is before
    assert model.mixtures_[1].n_steps_ == 2


def test_classifier_goes_on_after_fit_and_file(tmp_path):
    X, y = _labelled()
    model = MFAClassifier(2, 1, random_state=0, tol=0.1).fit(X, y)
    model.save(tmp_path / "model")
    loaded = MFAClassifier.load(tmp_path / "model")
    for one in (model, loaded):
        one.partial_fit(X[:100], y[:100], sample_weight=np.full(100, 2.0))
    assert np.array_equal(model.predict_proba(X), loaded.predict_proba(X))
    assert model.class_count_.sum() == 800


def test_classes_of_given_mixtures_keep_their_order():
    X, y = _labelled()
    mixtures = MFAClassifier(2, 1, random_state=0, tol=0.1).fit(X, y).mixtures_
    expected = MFAClassifier.from_mixtures(mixtures, ["no", "yes"]).partial_fit(X, y)
    for classes in (["no", "yes"], ["yes", "no"], None):
        model = MFAClassifier.from_mixtures(mixtures[::-1], ["yes", "no"]).partial_fit(X, y, classes=classes)
        assert list(model.classes_) == ["yes", "no"]
        assert np.array_equal(model.predict_proba(X), expected.predict_proba(X)[:, ::-1])


def test_classifier_checks_classes():
    X, y = _labelled()
    with pytest.raises(ValueError, match="classes must be passed"):
        MFAClassifier().partial_fit(X, y)
    with pytest.raises(ValueError, match="at least two"):
        MFAClassifier().partial_fit(X, y, classes=["yes"])
    with pytest.raises(ValueError, match="y has labels"):
        MFAClassifier().partial_fit(X, y, classes=["no", "maybe"])
    with pytest.raises(ValueError, match=r"class 'no' \(0 sample"):
        MFAClassifier().partial_fit(X[y == "yes"], y[y == "yes"], classes=["no", "yes"])
    model = MFAClassifier().partial_fit(X, y, classes=["no", "yes"])
    with pytest.raises(ValueError, match="first call"):
        model.partial_fit(X, y, classes=["no", "yes", "maybe"])
    numbers = (y == "yes").astype(int)
    known = MFAClassifier().partial_fit(X, numbers, classes=np.array([0, np.int64(1)], dtype=object))
    assert np.array_equal(known.classes_, [0, 1])
