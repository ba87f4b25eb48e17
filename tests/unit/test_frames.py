"""Data frames: the names of their columns are learnt, checked, kept, and never missed without need."""

import warnings

import numpy as np
import pytest
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import SVC, LinearSVC

import reference as ref
from mfa_fast import MFA, MFAClassifier, attacks
from models import SCORING

pd = pytest.importorskip("pandas")

NAMES = list("abcdef")
P = ref.random_parameters(3, 6, 2)
FRAME = pd.DataFrame(ref.random_samples(P, 120), columns=NAMES)
# In the frame's memory order, which decides in which order the start's sums are added up.
X = FRAME.to_numpy()
Y = (X[:, 0] > np.median(X[:, 0])).astype(int)
TURNED = FRAME[NAMES[::-1]]

pytestmark = pytest.mark.filterwarnings("error::UserWarning")


def _mixture():
    return MFA(2, 1, random_state=0, tol=1e-1).fit(FRAME)


def _classifier():
    return MFAClassifier(2, 1, random_state=0, tol=1e-1).fit(FRAME, Y)


METHODS = {
    _mixture: SCORING,
    _classifier: ("predict", "predict_proba", "predict_log_proba", "decision_function", "class_log_likelihood"),
}


@pytest.mark.parametrize(
    ("make", "method"), [(make, method) for make, methods in METHODS.items() for method in methods]
)
def test_names_are_checked(make, method):
    model = make()
    assert list(model.feature_names_in_) == NAMES
    named = getattr(model, method)(FRAME)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # an array without names is taken as it is, with scikit-learn's warning
        plain = getattr(model, method)(X)
    for a, b in zip(named, plain, strict=True) if isinstance(named, tuple) else [(named, plain)]:
        assert np.array_equal(a, b)
    with pytest.raises(ValueError, match="feature names"):
        getattr(model, method)(TURNED)


def test_an_index_of_numbers_does_not_show_in_batches():
    timed = FRAME.set_index(np.linspace(-1.0, 1.0, len(FRAME)))  # before pandas 3, [0:n] would be half of the rows
    model = _mixture()
    assert np.array_equal(model.score_samples([timed, timed]), model.score_samples([FRAME, FRAME]))


@pytest.mark.parametrize("method", ["fit", "score", "score_samples"])
def test_names_are_checked_in_every_batch(method):
    model = _mixture()
    with pytest.raises(ValueError, match=r"same columns in all batches, .*: batch 1 has \['f', 'e'"):
        getattr(model, method)([FRAME[:50], TURNED[50:]])
    parts = [FRAME[:50], FRAME[50:80], X[80:]]  # arrays have no names to differ
    assert model.score(parts) == model.score(FRAME)
    assert np.array_equal(model.fit(parts).means_, _mixture().means_)
    numbered = pd.DataFrame(X)[[5, 4, 3, 2, 1, 0]]  # and numbers are none
    plain = MFA(2, 1, random_state=0, tol=1e-1).fit(X)
    assert plain.score([X[:50], numbered[50:]]) == plain.score(np.vstack([X[:50], X[50:, ::-1]]))


def test_a_frame_with_columns_named_as_attributes_of_stored_arrays_is_a_frame():
    frame = FRAME.set_axis([*NAMES[:4], "chunks", "dtype"], axis=1)
    np.testing.assert_array_equal(MFA(2, 1, random_state=0, tol=1e-1).fit(frame).means_, _mixture().means_)


def test_a_fit_to_an_array_forgets_the_names():
    model = _mixture().fit(X)
    assert not hasattr(model, "feature_names_in_")


VARIANTS = {
    "fitted": _classifier,
    "symmetric": lambda: _classifier().symmetric(0.1),
    "asymmetric": lambda: _classifier().asymmetric(FRAME, component=2),
    "from_mixtures": lambda: MFAClassifier.from_mixtures(_classifier().mixtures_),
}


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_classifier_and_its_mixtures_know_the_names(variant, tmp_path):
    model = VARIANTS[variant]()
    model.save(tmp_path / "model")
    for copy in (model, MFAClassifier.load(tmp_path / "model")):
        for estimator in (copy, *copy.mixtures_):
            assert list(estimator.feature_names_in_) == NAMES
            assert estimator.predict(FRAME).shape == Y.shape
            with pytest.raises(ValueError, match="feature names"):
                estimator.predict(TURNED)


def test_mixtures_of_other_names_make_no_classifier():
    turned, nameless = MFA(2, 1, random_state=0, tol=1e-1).fit(TURNED), MFA(2, 1, random_state=0, tol=1e-1).fit(X)
    with pytest.raises(ValueError, match="mixtures must have the same names of features in the same order"):
        MFAClassifier.from_mixtures([_mixture(), nameless, turned])
    assert list(MFAClassifier.from_mixtures([_mixture(), nameless]).feature_names_in_) == NAMES


def test_a_saved_mixture_knows_the_names(tmp_path):
    _mixture().save(tmp_path / "model")
    assert list(MFA.load(tmp_path / "model").feature_names_in_) == NAMES


ATTACKED = {
    "MFAClassifier": _classifier,
    "LinearSVC": lambda: LinearSVC(random_state=0).fit(FRAME, Y),
    "SVC": lambda: SVC().fit(FRAME, Y),
    "Pipeline": lambda: make_pipeline("passthrough", StandardScaler(), SVC()).fit(FRAME, Y),
}


@pytest.mark.parametrize("y", [None, Y], ids=["predicted", "given"])
@pytest.mark.parametrize("attack", [attacks.ld_grad, attacks.nearest], ids=lambda a: a.__name__)
@pytest.mark.parametrize("name", ATTACKED)
def test_attacks_check_the_names(name, attack, y):
    model = ATTACKED[name]()
    result = attack(model, FRAME, y)
    assert isinstance(result.X_adv, np.ndarray)
    assert result.success.any()
    with pytest.raises(ValueError, match="feature names"):
        attack(model, TURNED, y)


@pytest.mark.filterwarnings("ignore::DeprecationWarning:foolbox")
@pytest.mark.parametrize("name", ATTACKED)
def test_attacks_of_foolbox_check_the_names_and_miss_none(name):
    pytest.importorskip("torch", reason="torch is not installed")
    pytest.importorskip("foolbox", reason="foolbox is not installed")
    model = ATTACKED[name]()
    assert attacks.cw_l2(model, FRAME, iterations=20).success.any()
    assert attacks.ddn(model, FRAME, Y, steps=20).success.any()
    with pytest.raises(ValueError, match="feature names"):
        attacks.ddn(model, TURNED, Y)


def test_a_layer_misses_no_names():
    torch = pytest.importorskip("torch", reason="torch is not installed")
    from mfa_fast.torch import MFAModule

    x = torch.tensor(X, requires_grad=True)
    logits = MFAModule(_classifier())(x)
    logits.sum().backward()
    assert torch.isfinite(x.grad).all()


def test_frames_out_of_a_scaler():
    pipeline = make_pipeline(StandardScaler(), MFAClassifier(2, 1, random_state=0, tol=1e-1))
    pipeline.set_output(transform="pandas").fit(FRAME, Y)
    assert list(pipeline[-1].feature_names_in_) == NAMES
    plain = make_pipeline(StandardScaler(), MFAClassifier(2, 1, random_state=0, tol=1e-1)).fit(FRAME, Y)
    assert np.array_equal(pipeline.predict(FRAME), plain.predict(FRAME))
