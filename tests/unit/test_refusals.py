"""What is refused as X, y and parameters, and with which words."""

import warnings

import numpy as np
import pytest
import scipy.sparse
from sklearn.exceptions import NotFittedError
from sklearn.svm import SVC, LinearSVC

import reference as ref
from mfa_fast import MFA, MFAClassifier, attacks
from mfa_fast.datasets import discrete_toy
from models import SCORING, classifier_of

D = 6
P = ref.random_parameters(3, D, 2)
CLASSIFIER_SCORING = ("predict", "predict_proba", "decision_function", "class_log_likelihood")


def _data(n=300):
    return ref.random_samples(P, n)


def _model():
    return MFA.from_parameters(*P)


def _classifier():
    return classifier_of([P, P._replace(means=P.means + 1)])


def _with(value):
    X = _data(n=20)
    X[13, 3] = value
    return X


BAD_X = {
    "one feature too many": lambda: np.ones((4, D + 1)),
    "one feature too few": lambda: np.ones((4, D - 1)),
    "NaN": lambda: _with(np.nan),
    "NaN in float32": lambda: _with(np.nan).astype(np.float32),
    "infinity": lambda: _with(np.inf),
    "minus infinity": lambda: _with(-np.inf),
    "infinity in float16": lambda: _with(np.inf).astype(np.float16),
    "NaN in Fortran order": lambda: np.asfortranarray(_with(np.nan)),
    "no rows": lambda: np.empty((0, D)),
    "no columns": lambda: np.empty((4, 0)),
    "strings": lambda: np.full((4, D), "a"),
    "objects that are no numbers": lambda: np.full((4, D), "a", dtype=object),
    "integers beyond floats": lambda: [[10**400] * D] * 4,
    "ragged list": lambda: [[1.0] * D, [1.0]],
    "1-d": lambda: np.ones(D),
    "0-d": lambda: 1.0,
    "3-d": lambda: np.ones((2, 3, D)),
    "complex": lambda: np.ones((4, D), dtype=complex),
    "datetime": lambda: np.zeros((4, D), dtype="datetime64[s]"),
    "sparse": lambda: scipy.sparse.csr_array(np.ones((4, D))),
    "None": lambda: None,
    "masked": lambda: np.ma.masked_greater(_data(n=20), 0.5),
}


@pytest.mark.parametrize(
    ("bad", "words"),
    [
        ("infinity", r"X contains infinity.*, in row 13: leave such rows out"),
        ("strings", r"X must hold numbers, got bytes or strings; use numpy\.asarray\(X, dtype=float\)\.$"),
        ("complex", r"X must hold real numbers; pass X\.real if that is all\.$"),
        ("3-d", r"X must have two dimensions .*, got shape \(2, 3, 6\); use X\.reshape\(len\(X\), -1\)\.$"),
        ("None", r"X must be an array of shape \(n_samples, n_features\), got None\.$"),
    ],
)
def test_what_is_said_of_bad_x(bad, words):
    for method in (_model().score, _classifier().predict, MFA(1, 1).fit):
        with pytest.raises((ValueError, TypeError), match=words):
            method(BAD_X[bad]())


@pytest.mark.parametrize("name", ["weights_init", "means_init", "loadings_init", "noise_variance_init"])
def test_parameters_that_are_not_finite_are_named_with_a_remedy(name):
    value = np.full_like(P._asdict()[name.removesuffix("_init")], np.nan)
    for given in (value, np.where(np.isnan(value), None, value).tolist()):
        with pytest.raises(ValueError, match=f"Input {name} contains NaN: put finite numbers in its place"):
            MFA(3, 2, **{name: given}).fit(_data())


@pytest.mark.parametrize("n_components", [1, 3])
def test_too_few_samples_are_too_few_for_the_components(n_components):
    for method in (MFA(n_components, 1).fit, MFA(n_components, 1).partial_fit):
        with pytest.raises(ValueError, match=f"n_components={n_components} needs at least .* n_samples=1; use"):
            method(_data(n=1))


def test_masked_arrays_are_taken_if_nothing_is_masked():
    X = np.ma.masked_array(_data(n=20), mask=False)
    assert np.array_equal(_model().score_samples(X), _model().score_samples(X.data))
    with pytest.raises(ValueError, match=r"X must not be masked, .* with 6 masked .* X\.filled\(np\.nan\)"):
        _model().score_samples(np.ma.masked_array(X, mask=np.eye(*X.shape)))


def test_masks_of_labels_and_of_numbers_are_not_overlooked():
    X, y = _data(n=20), np.arange(20) % 3
    masked = np.ma.masked_equal(y, 2)
    with pytest.raises(ValueError, match=r"y must not be masked, .* with 6 masked values: leave such samples out, or"):
        MFAClassifier().fit(X, masked)
    with pytest.raises(ValueError, match=r"sample_weight must not be masked, .* \(sample_weight\.filled\), or pass"):
        MFA().fit(X, sample_weight=masked)
    with pytest.raises(ValueError, match="noise_variance must not be masked"):
        MFA.from_parameters(*P[:3], np.ma.masked_equal(np.arange(1.0, 1.0 + D), 1.0))
    nothing = np.ma.masked_equal(y, 3)
    assert np.array_equal(MFAClassifier().fit(X, nothing, sample_weight=nothing + 1).class_count_, [7, 14, 18])


@pytest.mark.parametrize("method", SCORING)
@pytest.mark.parametrize("bad", BAD_X)
def test_bad_x_for_a_mixture(bad, method):
    with pytest.raises((ValueError, TypeError), match=r"\bX\b"):
        getattr(_model(), method)(BAD_X[bad]())


@pytest.mark.parametrize("method", CLASSIFIER_SCORING)
@pytest.mark.parametrize("bad", BAD_X)
def test_bad_x_for_a_classifier(bad, method):
    with pytest.raises((ValueError, TypeError), match=r"\bX\b"):
        getattr(_classifier(), method)(BAD_X[bad]())


@pytest.mark.parametrize("machine", [LinearSVC(), SVC()], ids=["LinearSVC", "SVC"])
@pytest.mark.parametrize("bad", BAD_X)
def test_bad_x_for_an_attack_on_a_machine(bad, machine):
    machine.fit(_data(n=20), np.arange(20) % 2)
    for attack in attacks.ld_grad, attacks.nearest:
        with pytest.raises((ValueError, TypeError), match=r"\bX\b"):
            attack(machine, BAD_X[bad]())


@pytest.mark.parametrize("bad", [name for name in BAD_X if "too" not in name])
def test_bad_x_for_fit(bad):
    X = BAD_X[bad]()
    with pytest.raises((ValueError, TypeError), match=r"\bX\b"):
        MFA(1, 1).fit(X)
    with pytest.raises((ValueError, TypeError), match=r"\bX\b"):
        MFAClassifier(1, 1).fit(X, np.arange(20) % 2)


@pytest.mark.parametrize("n", [300, 6000])  # all of them, or a part, make the subspace that a fit begins with
@pytest.mark.parametrize("value", [np.nan, np.inf, 1e200])
def test_fit_names_the_row_of_a_bad_number(value, n):
    for row in np.linspace(0, n - 1, 9).astype(int):
        X = _data(n=n)
        X[row, 2] = value
        with pytest.raises(ValueError, match=rf"\brow {row}\b"):
            MFA(2, 1, random_state=0).fit(X)


@pytest.mark.parametrize(
    ("y", "name"),
    [
        (np.zeros(20), "y"),
        (np.arange(19) % 2, "y"),
        (np.r_[np.nan, np.arange(19) % 2], "y"),
        (np.ones((20, 2)), "y"),
        (None, "MFAClassifier requires y"),
        (np.linspace(0, 1, 20), "y"),
        (np.array(["a", 1] * 10, dtype=object), "y"),
        (np.array([1, "a"] * 10, dtype=object), "y"),
    ],
    ids=["one class", "too short", "NaN", "2-d", "None", "continuous", "words and numbers", "numbers and words"],
)
def test_bad_labels(y, name):
    with pytest.raises((ValueError, TypeError), match=rf"\b{name}\b"):
        MFAClassifier(1, 1).fit(_data(n=20), y)


def test_a_score_names_what_it_cannot_take():
    X, y = _data(n=20), np.arange(20) % 2
    with pytest.raises(ValueError, match=r"^y must hold labels .* numbers, got strings"):
        _classifier().score(X, y.astype(str))
    for weights, words in ((np.ones(19), r"shape \(20,\)"), (-np.ones(20), "negative"), (np.full(20, np.nan), "NaN")):
        with pytest.raises(ValueError, match=f"sample_weight.*{words}"):
            _classifier().score(X, y, sample_weight=weights)


def test_labels_that_are_not_finite_are_named_without_a_warning():
    X, y = _data(n=20), np.arange(20) % 2.0
    classifier = _classifier()
    calls = (
        MFAClassifier(1, 1).fit,
        lambda X, y: MFAClassifier(1, 1).partial_fit(X, y, classes=[0, 1]),
        classifier.score,
        lambda X, y: attacks.ld_grad(classifier, X, y),
        lambda X, y: attacks.nearest(classifier, X, y),
    )
    for value, what in (np.nan, "NaN"), (np.inf, "infinity"):
        y[7] = value
        for call in calls:
            with warnings.catch_warnings(), pytest.raises(ValueError, match=f"y contains {what}, at index 7, .* leave"):
                warnings.simplefilter("error")
                call(X, y)


def test_bad_classes():
    for classes in (None, [0]):
        with pytest.raises(ValueError, match=r"classes must"):
            MFAClassifier(1, 1).partial_fit(_data(n=20), np.arange(20) % 2, classes=classes)


@pytest.mark.parametrize(
    ("labels", "words"),
    [
        ([0, "a"], "must hold labels of one type, got int, str"),
        (np.array([0, "a"], dtype=object), "must hold labels of one type, got int, str"),
        ([None, None], "must hold strings or whole numbers"),
        ([0, np.nan], "contains NaN, at index 1"),
        (np.array([0, np.nan], dtype=object), "contains NaN, at index 1"),
        ([0.5, 1.5], "must hold strings or whole numbers"),
        ([b"a", b"b"], "must hold strings or whole numbers .* got bytes"),
        (np.array([b"a", b"b"], dtype=object), "must hold strings or whole numbers .* got bytes"),
        ([[0, 1], [1, 0]], "must be a list or an array, of one dimension"),
        ("ab", "must be a list or an array, of one dimension"),
    ],
    ids=str,
)
def test_labels_are_checked_alike_everywhere(labels, words):
    X = _data(n=2)
    with pytest.raises((TypeError, ValueError), match=f"y {words}"):
        MFAClassifier(1, 1).fit(X, labels)
    with pytest.raises((TypeError, ValueError), match=f"classes {words}"):
        MFAClassifier(1, 1).partial_fit(X, [0, 1], classes=labels)
    with pytest.raises((TypeError, ValueError), match=f"classes {words}"):
        MFAClassifier.from_mixtures([_model(), _model()], classes=labels)


@pytest.mark.parametrize(
    ("parameters", "name"),
    [
        ({"n_components": 0}, "n_components"),
        ({"n_components": 2.5}, "n_components"),
        ({"n_components": 21}, "n_components"),
        ({"n_factors": -1}, "n_factors"),
        ({"n_factors": D}, "n_factors"),
        ({"n_factors": "two"}, "n_factors"),
        ({"noise_type": "full"}, "noise_type"),
        ({"tied_noise": "yes"}, "tied_noise"),
        ({"tol": -1.0}, "tol"),
        ({"tol": np.nan}, "tol"),
        ({"min_noise_variance": -1e-6}, "min_noise_variance"),
        ({"max_iter": 0}, "max_iter"),
        ({"n_init": 0}, "n_init"),
        ({"init_params": "magic"}, "init_params"),
        ({"random_state": "seed"}, "random_state must be .* got 'seed'"),
        ({"random_state": -1}, "random_state must be .* got -1"),
        ({"verbose": -1}, "verbose"),
        ({"n_threads": 1.5}, "n_threads"),
        ({"n_threads": 0}, "n_threads"),
        ({"n_threads": "all"}, "n_threads"),
        ({"weights_init": [0.5, 0.6], "n_components": 2}, "weights_init"),
        ({"weights_init": [1.0, 0.0, 0.0], "n_components": 2}, "weights_init"),
        ({"weights_init": [1.5, -0.5], "n_components": 2}, "weights_init"),
        ({"means_init": np.zeros((1, D + 1))}, "means_init"),
        ({"means_init": np.full((1, D), np.nan)}, "means_init"),
        ({"loadings_init": np.zeros((1, D, 1))}, "loadings_init"),
        ({"noise_variance_init": -1.0}, "noise_variance_init"),
        ({"noise_variance_init": np.ones((1, D + 1))}, "noise_variance_init"),
    ],
    ids=str,
)
def test_bad_parameters(parameters, name):
    with pytest.raises((ValueError, TypeError), match=name):
        MFA(**parameters).fit(_data(n=20))


def test_a_bad_seed_is_told_what_sampling_takes():
    with pytest.raises(ValueError, match=r"random_state must be .* \[0, 2\*\*64\).* or a Generator, got 'seed'"):
        _model().sample(1, random_state="seed")


@pytest.mark.parametrize("n_threads", [1.5, 0, "all", True, 10**6])
def test_bad_n_threads_when_scoring(n_threads):
    with pytest.raises((ValueError, TypeError), match=f"n_threads must be None, for all cores, .*; got {n_threads!r}"):
        _model().set_params(n_threads=n_threads).score_samples(_data())


def test_more_components_than_rows_of_a_class():
    X, y = _data(n=20), np.r_[np.zeros(18), np.ones(2)]
    with pytest.raises(ValueError, match="n_components"):
        MFAClassifier(n_components=3, n_factors=1).fit(X, y)


@pytest.mark.parametrize(
    ("priors", "rule", "name"),
    [
        ([0.5, 0.6], "max", "priors"),
        ([1.0], "max", "priors"),
        ([-0.5, 1.5], "max", "priors"),
        ([np.nan, 1.0], "max", "priors"),
        ("even", "max", r"priors must be None, 'uniform' or an array of 2 probabilities; got 'even'\."),
        (None, "mean", "rule"),
    ],
)
def test_bad_classifier_parameters(priors, rule, name):
    with pytest.raises((ValueError, TypeError), match=name):
        MFAClassifier(1, 1, priors=priors, rule=rule).fit(_data(n=20), np.arange(20) % 2)


@pytest.mark.parametrize(
    ("change", "name"),
    [
        ({"noise_variance": -P.noise_variance}, "noise_variance"),
        ({"noise_variance": 0.0}, "noise_variance"),
        ({"noise_variance": np.nan}, "noise_variance"),
        ({"noise_variance": np.inf}, "noise_variance"),
        ({"noise_variance": np.ones((3, D + 1))}, "noise_variance"),
        ({"weights": P.weights * 1.01}, "weights"),
        ({"weights": [1.5, -0.25, -0.25]}, "weights"),
        ({"weights": [np.nan, 0.5, 0.5]}, "weights"),
        ({"weights": P.weights[:, None]}, "weights"),
        ({"weights": ["a", "b", "c"]}, "weights"),
        ({"means": P.means[:2]}, "means|loadings"),
        ({"means": P.means * np.nan}, "means"),
        ({"means": P.means[0]}, "means"),
        ({"means": P.means.astype(complex)}, "means"),
        ({"loadings": P.loadings.transpose(0, 2, 1)}, "loadings"),
        ({"loadings": P.loadings[:2]}, "loadings"),
        ({"loadings": P.loadings * np.inf}, "loadings"),
        ({"loadings": P.loadings[0]}, "loadings"),
        ({"noise_variance": [10**400]}, "noise_variance must hold numbers in the range of float64"),
        (
            {"loadings": np.zeros((3, D, D))},
            rf"loadings must have fewer factors than features, got shape \(3, {D}, {D}\)",
        ),
        *(({name: None}, f"{name} must be an array, got None") for name in P._asdict()),
    ],
)
def test_bad_parameters_of_a_model(change, name):
    with warnings.catch_warnings(), pytest.raises((ValueError, TypeError), match=name):
        warnings.simplefilter("error")  # of NumPy's, that infinities of both signs have no sum
        MFA.from_parameters(**{**P._asdict(), **change})


def test_mixtures_that_do_not_fit_together():
    other = MFA.from_parameters(*ref.random_parameters(1, D + 1, 1))
    with pytest.raises(ValueError, match="mixtures"):
        MFAClassifier.from_mixtures([_model(), other])
    with pytest.raises((ValueError, TypeError), match="mixtures"):
        MFAClassifier.from_mixtures([_model()])
    with pytest.raises((ValueError, TypeError), match="mixtures"):
        MFAClassifier.from_mixtures([_model(), "model"])
    with pytest.raises(TypeError, match="mixtures must be a list of fitted MFA, one for each class, got MFA"):
        MFAClassifier.from_mixtures(_model())
    with pytest.raises(ValueError, match="classes"):
        MFAClassifier.from_mixtures([_model(), _model()], classes=["a"])
    with pytest.raises(ValueError, match="classes"):
        MFAClassifier.from_mixtures([_model(), _model()], classes=["a", "a"])
    with pytest.raises(NotFittedError):
        MFAClassifier.from_mixtures([_model(), MFA()])


@pytest.mark.parametrize("method", SCORING)
def test_unfitted_mixture(method):
    with pytest.raises(NotFittedError, match="MFA"):
        getattr(MFA(), method)(_data())


@pytest.mark.parametrize("method", CLASSIFIER_SCORING)
def test_unfitted_classifier(method):
    with pytest.raises(NotFittedError, match="MFAClassifier"):
        getattr(MFAClassifier(), method)(_data())


@pytest.mark.parametrize("model", [MFA(), MFAClassifier()], ids=["MFA", "MFAClassifier"])
def test_unfitted_without_data(model, tmp_path):
    with pytest.raises(NotFittedError):
        model.sample()
    with pytest.raises(NotFittedError):
        model.save(tmp_path / "model.safetensors")


def test_unfitted_priors():
    with pytest.raises(NotFittedError, match="MFAClassifier"):
        MFAClassifier().log_priors()


def test_unfitted_symmetric():
    with pytest.raises(NotFittedError):
        MFAClassifier().symmetric()
    with pytest.raises(NotFittedError):
        MFAClassifier().asymmetric(_data())


@pytest.mark.parametrize("n_samples", [0, -1, 1.5, "many", None])
def test_bad_n_samples(n_samples):
    for model in (_model(), _classifier()):
        with pytest.raises((ValueError, TypeError), match="n_samples"):
            model.sample(n_samples)


@pytest.mark.parametrize(
    ("arguments", "name"),
    [
        ({"random_state": "seed"}, "random_state"),
        ({"random_state": -1}, r"random_state must lie in \[0, 2\*\*64\), got -1"),
        ({"random_state": 2**64}, r"random_state must lie in \[0, 2\*\*64\)"),
        ({"start": -1}, "start"),
    ],
    ids=str,
)
def test_bad_arguments_of_sample(arguments, name):
    for model in (_model(), _classifier()):
        with pytest.raises((ValueError, TypeError), match=name):
            model.sample(3, **arguments)


@pytest.mark.parametrize(
    ("value", "error", "words"),
    [
        (0.5, ValueError, "learning_decay must be a finite number above 0.5 and of at most 1; got 0.5"),
        (np.nan, ValueError, "got nan"),
        (np.float32(2), ValueError, "got 2"),
        (True, TypeError, "got True of type bool"),
        ("slow", TypeError, "got 'slow' of type str"),
    ],
)
def test_numbers_are_described_with_their_bounds(value, error, words):
    with pytest.raises(error, match=words):
        MFA(learning_decay=value).partial_fit(_data())


@pytest.mark.parametrize(
    ("value", "error", "got"),
    [(0, ValueError, "0"), (True, TypeError, "True of type bool"), (1.0, TypeError, "1.0 of type float")],
)
def test_integers_are_described_alike_everywhere(value, error, got):
    words = rf"n_samples must be an integer (of at least 1|from 1 to \d+); got {got}"
    with pytest.raises(error, match=words):
        discrete_toy(robust=True).sample(value)
    with pytest.raises(error, match=words):
        _model().sample(value)
