"""Bayes' rule on one mixture per class, and the symmetric and asymmetric copies."""

import numpy as np
import pytest
from sklearn import config_context
from sklearn.base import clone
from sklearn.decomposition import PCA

import reference as ref
from mfa_fast import MFA, MFAClassifier, attacks
from models import mixtures_of
from tolerances import LOG_DENSITY, PRINCIPAL_DIRECTION, relative_error, scaled_error

D = 6
CLASSES = np.array(["ant", "bee", "cat"])
FLOAT64 = LOG_DENSITY[np.dtype(np.float64)]


def _mixtures(n_classes=2, n_components=3):
    """Overlapping classes, so that probabilities are neither 0 nor 1."""
    first = ref.random_parameters(n_components, D, 2, seed=0)
    return [
        first._replace(means=first.means + 0.4 * c, loadings=(1 + 0.3 * c) * first.loadings) for c in range(n_classes)
    ]


def _classifier(n_classes=2, **options):
    mixtures = _mixtures(n_classes)
    models = [MFA.from_parameters(*m) for m in mixtures]
    return MFAClassifier.from_mixtures(models, **options), mixtures


def _data(mixtures, n=60):
    X = np.concatenate([ref.random_samples(m, n, seed=c) for c, m in enumerate(mixtures)])
    return X, np.repeat(np.arange(len(mixtures)), n)


rules = pytest.mark.parametrize("rule", ["max", "sum"])


@rules
@pytest.mark.parametrize("n_classes", [2, 3])
def test_probabilities(rule, n_classes):
    priors = np.arange(1, n_classes + 1) / np.arange(1, n_classes + 1).sum()
    model, mixtures = _classifier(n_classes, rule=rule, priors=priors, classes=CLASSES[:n_classes])
    X, _ = _data(mixtures)
    expected = ref.class_proba(X, mixtures, priors, rule)
    assert relative_error(model.predict_proba(X), expected) <= 100 * FLOAT64
    assert relative_error(model.predict_log_proba(X), np.log(expected)) <= 100 * FLOAT64
    assert np.array_equal(model.predict(X), CLASSES[np.argmax(expected, axis=1)])


@rules
def test_binary_decision_function_is_positive_for_the_second_class(rule):
    model, mixtures = _classifier(rule=rule, priors=[0.2, 0.8], classes=["no", "yes"])
    X, _ = _data(mixtures)
    expected = ref.decision_function(X, mixtures, [0.2, 0.8], rule)
    value = model.decision_function(X)
    assert value.shape == (len(X),)
    assert relative_error(value, expected) <= 100 * FLOAT64
    assert np.array_equal(model.predict(X) == "yes", value > 0)


@rules
def test_decision_function_of_three_classes_is_their_scores(rule):
    model, mixtures = _classifier(3, rule=rule, priors=[0.2, 0.3, 0.5])
    X, _ = _data(mixtures)
    expected = ref.class_scores(X, mixtures, [0.2, 0.3, 0.5], rule)
    assert relative_error(model.decision_function(X), expected) <= FLOAT64


def test_a_rule_that_is_set_later_is_checked_where_it_is_read():
    model, mixtures = _classifier()
    X, y = _data(mixtures)
    model.set_params(rule="Max")
    attack = [lambda X, f=f: f(model, X, y) for f in (attacks.ld_grad, attacks.nearest)]
    for call in (model.predict, model.predict_proba, model.class_log_likelihood, *attack):
        with pytest.raises(ValueError, match="rule must be one of 'max', 'sum'; got 'Max'"):
            call(X)


def test_class_log_likelihood_has_no_prior_in_it():
    a, _ = _classifier(priors=[0.1, 0.9])
    b, mixtures = _classifier(priors="uniform")
    X, _ = _data(mixtures)
    assert np.array_equal(a.class_log_likelihood(X), b.class_log_likelihood(X))


def test_priors_of_a_fit():
    X, y = _data(_mixtures(), n=30)
    X, y = X[:50], y[:50]  # 30 and 20
    for given, expected in ((None, [0.6, 0.4]), ("uniform", [0.5, 0.5]), ([0.9, 0.1], [0.9, 0.1])):
        model = MFAClassifier(1, 1, priors=given, tol=1e-2).fit(X, y)
        assert model.priors_ == pytest.approx(expected)


def test_priors_that_are_no_numbers_are_refused_whatever_is_assumed():
    with config_context(assume_finite=True), pytest.raises(ValueError, match="priors must sum to 1, got a sum of nan"):
        MFAClassifier.from_mixtures([MFA.from_parameters(*m) for m in _mixtures()], priors=[np.nan, 0.5])


def test_fit_is_one_mixture_per_class():
    X, y = _data(_mixtures(3))
    options = {"noise_type": "diag", "tol": 1e-2, "n_components": 2, "n_factors": 1}
    model = MFAClassifier(random_state=0, **options).fit(X, CLASSES[y])
    assert list(model.classes_) == list(CLASSES)
    for c, mixture in enumerate(model.mixtures_):
        assert mixture.noise_type == "diag"
        best = max(MFA(random_state=s, **options).fit(X[y == c]).score(X[y == c]) for s in range(5))
        assert mixture.score(X[y == c]) >= best - 0.2 * abs(best)
    parameters = mixtures_of(model)
    expected = ref.class_scores(X, parameters, model.priors_)
    assert relative_error(model.decision_function(X), expected) <= FLOAT64
    assert model.score(X, CLASSES[y]) > 0.5


@pytest.mark.parametrize("sizes", [[2, 1], (2, 1), np.array([2, 1])], ids=["list", "tuple", "array"])
def test_every_class_may_have_its_own_number_of_components(sizes, tmp_path):
    rng = np.random.default_rng(0)
    X, y = rng.normal(size=(60, 3)), np.arange(60) % 2
    fitted = clone(MFAClassifier(sizes, 1, random_state=0, tol=0.1)).fit(X, y)
    assert [len(m.weights_) for m in fitted.mixtures_] == [2, 1]
    seeds = np.random.RandomState(0).randint(2**31, size=2)
    for c, (size, seed) in enumerate(zip([2, 1], seeds, strict=True)):
        alone = MFA(size, 1, random_state=int(seed), tol=0.1).fit(X[y == c])
        np.testing.assert_array_equal(fitted.mixtures_[c].means_, alone.means_)
    assert [len(m.weights_) for m in fitted.partial_fit(X, y).mixtures_] == [2, 1]
    assert fitted.symmetric(0.1).n_components == (2, 1)
    assert fitted.asymmetric(X, component=1).n_components == (3, 2)
    assert MFAClassifier.from_mixtures(fitted.mixtures_).n_components == (2, 1)
    fitted.save(tmp_path / "model.safetensors")
    assert MFAClassifier.load(tmp_path / "model.safetensors").n_components == (2, 1)


@pytest.mark.parametrize(
    ("sizes", "words"),
    [
        ([2, 1, 1], r"^n_components must be an integer, or one for each of the 2 classes; got \[2, 1, 1\]\.$"),
        ([2, 0], r"^n_components must be"),
        ([2, 1.5], r"^n_components must be"),
        ("21", r"^n_components must be"),
        (np.array(1.5), r"^n_components must be"),
        ([2, 40], r"^class 1 .*n_components=40 needs at least as many samples"),
    ],
    ids=str,
)
def test_numbers_of_components_that_cannot_be(sizes, words):
    X, y = np.random.default_rng(0).normal(size=(60, 3)), np.arange(60) % 2
    with pytest.raises((TypeError, ValueError), match=words):
        MFAClassifier(sizes, 1).fit(X, y)


@pytest.mark.parametrize("labels", [["no", "yes"], [3, 7], [-1.0, 1.0], [False, True]], ids=lambda v: str(v[0]))
def test_labels_of_any_kind(labels):
    X, y = _data(_mixtures())
    labels = np.array(labels)
    model = MFAClassifier(1, 1, tol=1e-2).fit(X, labels[y])
    assert np.array_equal(model.classes_, labels)
    assert set(model.predict(X)) <= set(labels)
    assert set(model.sample(50, random_state=0)[1]) == set(labels)


def test_from_mixtures_has_defaults():
    model, _ = _classifier(3)
    assert list(model.classes_) == [0, 1, 2]
    assert model.priors_ == pytest.approx([1 / 3] * 3)
    assert model.rule == "max"


def test_from_mixtures_goes_on_as_the_mixtures_were_fitted():
    X, y = _data(_mixtures())
    options = {"noise_type": "diag", "tied_noise": True, "min_noise_variance": 1e-3, "n_threads": 1, "screening": False}
    mixtures = [MFA(2, 1, **options, random_state=0).fit(X[y == c]) for c in range(2)]
    model = MFAClassifier.from_mixtures(mixtures)
    assert {name: getattr(model, name) for name in options} == options
    assert (model.n_components, model.n_factors, model.priors) == (2, 1, None)
    model.partial_fit(X, y)
    for mixture in model.mixtures_:
        assert np.all(mixture.noise_variance_ == mixture.noise_variance_[0])


def test_from_mixtures_takes_mixtures_of_different_sizes():
    a, b = ref.random_parameters(2, D, 3, seed=0), ref.random_parameters(5, D, 1, seed=1)
    model = MFAClassifier.from_mixtures([MFA.from_parameters(*p) for p in (a, b)], rule="sum")
    X, _ = _data([a, b])
    expected = ref.class_log_likelihood(X, [a, b], "sum")
    assert relative_error(model.class_log_likelihood(X), expected) <= FLOAT64


@pytest.mark.parametrize("uniform_weights", [False, True])
def test_symmetric(uniform_weights):
    model, mixtures = _classifier(classes=["a", "b"], priors=[0.3, 0.7])
    copy = model.symmetric(0.01, uniform_weights=uniform_weights)
    assert list(copy.classes_) == ["a", "b"]
    assert copy.priors_ == pytest.approx([0.3, 0.7])
    for before, after, original in zip(model.mixtures_, copy.mixtures_, mixtures, strict=True):
        assert np.allclose(after.noise_variance_, 1e-4, rtol=1e-14)
        assert np.array_equal(after.means_, before.means_)
        assert np.array_equal(after.loadings_, before.loadings_)
        weights = np.full(3, 1 / 3) if uniform_weights else original.weights
        assert after.weights_ == pytest.approx(weights)
        assert np.array_equal(before.noise_variance_, original.noise_variance)


def test_symmetric_defaults():
    copy = _classifier()[0].symmetric()
    assert np.allclose(copy.mixtures_[0].noise_variance_, 1e-6, rtol=1e-14)


@pytest.mark.parametrize("weight", [None, 0.1])
def test_asymmetric(weight):
    model, mixtures = _classifier(classes=["a", "b"])
    rng = np.random.default_rng(0)
    X = rng.normal(size=(2000, D)) * [6, 5, 4, 3, 2, 1]
    copy = model.asymmetric(X, component=2, noise_std=0.5, offset=1.5, weight=weight)
    share = 0.25 if weight is None else weight
    outliers = []
    for before, after, original in zip(model.mixtures_, copy.mixtures_, mixtures, strict=True):
        assert after.weights_ == pytest.approx([*(1 - share) * original.weights, share])
        assert np.array_equal(after.means_[:-1], before.means_)
        assert np.array_equal(after.loadings_[:-1], before.loadings_)
        assert np.allclose(after.noise_variance_[:-1], 1e-6, rtol=1e-14)
        assert np.allclose(after.noise_variance_[-1], 0.25, rtol=1e-14)
        assert not after.loadings_[-1].any()
        outliers.append(after.means_[-1])
        assert len(before.weights_) == 3

    a, b = np.array(outliers) - X.mean(axis=0)
    assert np.allclose(a, -b, atol=1e-9)
    pca = PCA().fit(X)
    expected = 1.5 * np.sqrt(pca.explained_variance_[1])  # counted from 1
    assert abs(pca.components_[1] @ a) == pytest.approx(expected, rel=1e-9)
    assert np.linalg.norm(a) == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize(("shape", "component"), [((400, 600), 50), ((60, 2100), 20), ((40, 2100), 39)])
def test_asymmetric_finds_later_principal_directions_too(shape, component, dtype):
    # Where the variances lie close together, what finds the first directions quickly finds the others roughly.
    X = (np.random.default_rng(0).normal(size=shape) * np.linspace(2, 0.5, shape[1])).astype(dtype)
    means = np.array([X.mean(axis=0), X.mean(axis=0) + 1])
    one = [MFA.from_parameters([1.0], mean[None], np.zeros((1, 0, shape[1])), 1.0) for mean in means]
    copy = MFAClassifier.from_mixtures(one).asymmetric(X, component=component, offset=2.0)
    _, lengths, directions = np.linalg.svd(X - X.mean(axis=0, dtype=np.float64), full_matrices=False)
    step = 2 * lengths[component - 1] / np.sqrt(len(X) - 1) * directions[component - 1]
    for mixture in copy.mixtures_:
        found = mixture.means_[-1] - X.mean(axis=0, dtype=np.float64)
        assert scaled_error(found, np.sign(found @ step) * step) <= PRINCIPAL_DIRECTION[dtype]


def test_asymmetric_refuses_what_cannot_be():
    model, mixtures = _classifier()
    X, _ = _data(mixtures)
    for arguments in (
        {"component": 50},
        {"component": -1},
        {"noise_std": 0.0},
        {"weight": 1.5},
        {"base_noise_std": -1.0},
        {"base_noise_std": 1e200},
    ):
        name = next(iter(arguments))
        with pytest.raises((ValueError, TypeError), match=rf"^{name}\b"):
            model.asymmetric(X, **{"component": 1, **arguments})
    with pytest.raises(ValueError, match=r"^component=1 .*more samples"):
        model.asymmetric(X[:1], component=1)
    with pytest.raises(ValueError, match="X"):
        model.asymmetric(X[:, :3], component=1)
    with pytest.raises(ValueError, match=r"^offset=1e\+308 puts the outliers out of the range of float64"):
        model.asymmetric(X * 100, component=1, offset=1e308)
    with pytest.raises(ValueError, match=r"^component=1 is a direction in which X varies by less"):
        model.asymmetric(np.ones((10, D)), component=1)
    with pytest.raises(ValueError, match=r"^component=3 is a direction in which X varies by less"):
        model.asymmetric(X * [1, 1, 0, 0, 0, 0], component=3)
    X[4, 2] = np.nan
    with pytest.raises(ValueError, match=r"^X must be finite .* in row 4;"):
        model.asymmetric(X, component=1)
    for noise_std in (0.0, 1e-200, 1e200):
        with pytest.raises(ValueError, match=r"^noise_std"):
            model.symmetric(noise_std)
    with pytest.raises(TypeError, match="uniform_weights"):
        model.symmetric(uniform_weights="x")
    single = MFAClassifier.from_mixtures([MFA.from_parameters(*(a.astype(np.float32) for a in p)) for p in mixtures])
    with pytest.raises(ValueError, match=r"^noise_std must have a square that float32 can hold, got 1e-25"):
        single.symmetric(1e-25)


def test_copies_are_described_by_their_parameters():
    rng = np.random.default_rng(0)
    X, y = rng.normal(size=(60, 3)), np.arange(60) % 2
    fitted = MFAClassifier(2, 1, noise_type="diag", random_state=0, tol=0.1).fit(X, y)
    copy = fitted.asymmetric(X, component=1)
    assert (copy.n_components, copy.noise_type, fitted.n_components, fitted.noise_type) == (3, "spherical", 2, "diag")
    assert [len(m.weights_) for m in copy.partial_fit(X, y, classes=[0, 1]).mixtures_] == [3, 3]


def test_a_symmetric_classifier_knows_its_own_samples():
    model = _classifier()[0].symmetric(1e-3)
    X, y = model.sample(300, random_state=0)
    assert model.score(X, y) == 1.0


@rules
@pytest.mark.parametrize("n_threads", [2, 5])
def test_bit_identical_for_any_number_of_threads(rule, n_threads, dtype):
    model, mixtures = _classifier(3, rule=rule)
    X = _data(mixtures, n=400)[0].astype(dtype)
    one = model.set_params(n_threads=1).predict_proba(X)
    assert one.dtype == dtype
    assert np.array_equal(model.set_params(n_threads=n_threads).predict_proba(X), one)
    assert np.array_equal(model.predict_proba(X[300:]), one[300:])
