"""LD-Grad on support vector machines, alone and behind scalers."""

import numpy as np
import pytest
from scipy.sparse import csr_array
from sklearn.base import clone
from sklearn.decomposition import PCA
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import MaxAbsScaler, MinMaxScaler, RobustScaler, StandardScaler
from sklearn.svm import SVC, LinearSVC

from attack_cases import SCALED, blobs
from mfa_fast.attacks import ld_grad, nearest
from mfa_fast.datasets import load_digits_pair
from tolerances import ATTACK, BOUNDARY, scaled_error

SVMS = {
    "LinearSVC": LinearSVC(random_state=0, max_iter=100_000),
    "linear": SVC(kernel="linear"),
    "rbf": SVC(kernel="rbf", gamma=0.01),
}


@pytest.mark.parametrize("scaling", SCALED)
@pytest.mark.parametrize("svm", SVMS)
def test_svms_are_flipped_at_their_boundary(svm, scaling, dtype):
    X, y = blobs()
    X = X.astype(dtype)
    model = SCALED[scaling](SVMS[svm]).fit(X, y)
    predicted = model.predict(X)
    result = ld_grad(model, X, predicted, steps=20)
    assert result.X_adv.dtype == dtype
    assert result.success.all()
    assert np.all(result.source == -1) and np.all(result.target == -1)
    assert np.all(np.isnan(result.lower_bound)) and not np.any(result.certified)
    assert np.array_equal(model.predict(result.X_adv) != predicted, result.success)
    moved = np.linalg.norm(result.X_adv.astype(np.float64) - X, axis=1)
    assert scaled_error(result.l2.astype(np.float64), moved) <= ATTACK[X.dtype]
    gap = np.abs(model.decision_function(result.X_adv.astype(np.float64)))
    assert np.max(gap) <= BOUNDARY * np.max(np.abs(model.decision_function(X)))


@pytest.mark.parametrize("scaling", SCALED)
@pytest.mark.parametrize("svm", ["LinearSVC", "linear"])
def test_linear_distance_is_exact(svm, scaling):
    X, y = blobs()
    model = SCALED[scaling](SVMS[svm]).fit(X, y)
    gap = model.decision_function(X)
    # The model is affine in X, so differences along the axes are its normal.
    normal = model.decision_function(np.eye(6)) - model.decision_function(np.zeros((1, 6)))
    result = ld_grad(model, X, model.predict(X))
    assert np.all(result.n_steps == 1)
    assert result.l2 == pytest.approx(np.abs(gap) / np.linalg.norm(normal), rel=1e-5)


def test_rbf_step_is_no_longer_than_a_line_search_finds():
    X, y = blobs()
    model = SVMS["rbf"].fit(X, y)
    result = ld_grad(model, X, model.predict(X), steps=20)
    inside = X + (1 - 1e-3) * (result.X_adv - X)
    assert np.mean(model.predict(inside) == model.predict(X)) >= 0.9


@pytest.mark.parametrize("steps", [10, 20, 50])
def test_success_on_a_kernel_is_what_predict_says(steps, dtype):
    pair = load_digits_pair(3, 8)
    model = make_pipeline(MinMaxScaler(), SVC()).fit(pair.X_train, pair.y_train)
    result = ld_grad(model, pair.X_train.astype(dtype), pair.y_train, steps=steps)
    assert result.success.mean() >= 0.8
    assert np.array_equal(result.success, model.predict(result.X_adv) != pair.y_train)


@pytest.mark.parametrize("clip", [(None, None), (0.0, None), (None, 2.0)])
@pytest.mark.parametrize("svm", ["linear", "rbf"])
def test_what_scalers_take_back_is_made_up_for(svm, clip):
    """Numbers about 1000 are rounded to float32 far more coarsely than samples of a spread of 1."""
    X, y = blobs()
    # NumPy 2.0 refuses two Nones.
    limits = -np.inf if clip[0] is None else clip[0], np.inf if clip[1] is None else clip[1]
    X = np.clip(X, *limits).astype(np.float32)
    model = make_pipeline(MinMaxScaler(feature_range=(1000, 1001)), SVMS[svm]).fit(X, y)
    own = model.predict(X)
    result, exact = (ld_grad(model, data, own, steps=20, clip=clip) for data in (X, X.astype(np.float64)))
    # What the way is exactly, the pipeline does not take for a crossing.
    assert np.any(model.predict(exact.X_adv.astype(np.float32)) == own)
    assert np.mean(result.success) >= 0.8
    assert np.array_equal(result.success, model.predict(result.X_adv) != own)
    assert np.array_equal(np.clip(result.X_adv, *limits), result.X_adv)
    assert result.l2 == pytest.approx(np.linalg.norm(result.X_adv - X, axis=1), rel=1e-6)
    further = np.linalg.norm(result.X_adv - exact.X_adv, axis=1) / exact.l2
    assert np.max(further) <= 1e-2
    assert np.median(further) <= 1e-3


def test_svm_labels_and_wrong_samples():
    X, y = blobs()
    names = np.array(["yes", "no"])[y]
    model = SVMS["linear"].fit(X, names)
    flipped = np.where(model.predict(X) == "yes", "no", "yes")
    result = ld_grad(model, X, flipped)
    assert result.success.all()
    assert not result.l2.any()
    assert ld_grad(model, X).success.all()


@pytest.mark.parametrize(
    "svm",
    [SVC(gamma=2e3), SVC(gamma=1.0), SVC(kernel="linear"), LinearSVC(fit_intercept=False)],
    ids=["narrow", "wide", "linear", "LinearSVC"],
)
def test_a_decision_of_zero_is_for_the_class_that_predict_says(svm):
    X = np.array([[-1.0, 0.0], [1.0, 0.0]])
    model = svm.fit(X, [0, 1])
    middle = np.array([[0.0, 0.0]])
    assert model.decision_function(middle) == 0
    own = model.predict(middle)
    assert not np.any(ld_grad(model, middle, own, steps=0).success)
    assert np.all(ld_grad(model, middle, 1 - own, steps=0).success)
    result = nearest(model, middle, own)
    assert result.summary()["accuracy"] == 1
    assert np.array_equal(result.success, model.predict(result.X_adv) != own)


def test_a_decision_that_all_but_underflows_is_for_the_class_that_predict_says():
    model = SVC(gamma=10.0).fit([[0.0], [1000.0]], [0, 1])
    X = np.sqrt(np.linspace(700.0, 750.0, 101) / 10.0)[:, None]
    own = model.predict(X)
    assert set(own) == {0, 1}
    assert not np.any(ld_grad(model, X, own, steps=0).success)
    result = nearest(model, X, own)
    assert np.array_equal(model.predict(result.X_adv) != own, result.success)


def test_pipelines_of_several_scalings():
    X, y = blobs()
    model = make_pipeline(MaxAbsScaler(), StandardScaler(with_mean=False), SVC(kernel="linear"))
    model.fit(X, y)
    result = ld_grad(model, X)
    assert np.all(model.predict(result.X_adv) != model.predict(X))


SCALERS = [
    RobustScaler(),
    RobustScaler(with_centering=False),
    RobustScaler(with_scaling=False),
    StandardScaler(with_mean=False),
    StandardScaler(with_std=False),
    MaxAbsScaler(),
    MinMaxScaler(feature_range=(-3, 5)),
    "passthrough",
]


@pytest.mark.parametrize("scalers", [*([scaler] for scaler in SCALERS), SCALERS], ids=str)
def test_scalers_are_taken_as_one_scaling(scalers):
    X, y = blobs()
    model = make_pipeline(*scalers, SVC(kernel="linear")).fit(X, y)
    normal = (model[-1].coef_ @ np.diag(np.diff(model[:-1].transform(np.stack([X[0], X[0] + 1])), axis=0)[0]))[0]
    result = ld_grad(model, X)
    assert result.l2 == pytest.approx(np.abs(model.decision_function(X)) / np.linalg.norm(normal), rel=1e-5)
    assert nearest(model, X).certified.all()


@pytest.mark.parametrize("scaler", [MaxAbsScaler, MinMaxScaler])
def test_scalers_that_clip_are_refused(scaler):
    """What they cut off is no scaling: the certificates of samples beyond would be false."""
    if "clip" not in scaler().get_params():
        pytest.skip("this version of scikit-learn has none")
    X, y = blobs()
    model = make_pipeline(scaler(clip=True), SVC(kernel="linear")).fit(X, y)
    for attack in (ld_grad, nearest):
        with pytest.raises(TypeError, match=f"without clip.*, got {scaler.__name__}"):
            attack(model, X)


@pytest.mark.parametrize("svm", SVMS)
def test_svms_name_the_row_of_nan(svm):
    X, y = blobs()
    model = clone(SVMS[svm]).fit(X, y)
    X[7, 1] = np.nan
    for labels in (y, None):
        with pytest.raises(ValueError, match=r"Input X contains NaN, in row 7\..* attacks take none"):
            ld_grad(model, X, labels)


@pytest.mark.parametrize("name", ["source", "target"])
def test_svms_have_no_components_to_hold(name):
    X, y = blobs()
    with pytest.raises(ValueError, match=r"source and target are components of .*; SVC has none"):
        ld_grad(clone(SVMS["rbf"]).fit(X, y), X, **{name: 0})


@pytest.mark.parametrize("svm", ["linear", "rbf"])
def test_svms_of_sparse_samples(svm):
    X, y = blobs()
    dense, sparse = clone(SVMS[svm]).fit(X, y), clone(SVMS[svm]).fit(csr_array(X), y)
    assert ld_grad(sparse, X, y).X_adv == pytest.approx(ld_grad(dense, X, y).X_adv)


@pytest.mark.parametrize(
    ("model", "word"),
    [
        (SVC(kernel="poly"), "kernel"),
        (SVC(kernel=lambda a, b: a @ b.T), "kernel"),
        (make_pipeline(PCA(2), LinearSVC()), "^model must have .*PCA"),
        (make_pipeline(StandardScaler(), LogisticRegression()), "LogisticRegression"),
    ],
    ids=["poly", "callable", "PCA", "LogisticRegression"],
)
def test_models_without_a_closed_form(model, word):
    X, y = blobs()
    with pytest.raises((ValueError, TypeError), match=word):
        ld_grad(model.fit(X, y), X, y)


@pytest.mark.parametrize("model", [SVC(), SVC(kernel="linear"), LinearSVC(max_iter=100_000)])
def test_svms_of_three_classes(model):
    X, _ = blobs()
    y = np.arange(len(X)) % 3
    with pytest.raises(ValueError, match="class"):
        ld_grad(model.fit(X, y), X, y)
