"""What may be passed as X and y: any layout, any real dtype, other libraries' arrays."""

from decimal import Decimal

import numpy as np
import pytest

import reference as ref
from mfa_fast import MFA, MFAClassifier, attacks
from models import classifier_of
from tolerances import EM_PARAMETERS_FLOAT32, LOG_DENSITY, relative_error, scaled_error

D = 6
P = ref.random_parameters(3, D, 2)


def _data(dtype=np.float64, n=300):
    return ref.random_samples(P, n).astype(dtype)


def _model():
    return MFA.from_parameters(*P)


def _classifier():
    return classifier_of([P, P._replace(means=P.means + 1)])


def _memory_mapped(X, folder):
    path = folder / "X.npy"
    np.save(path, X)
    return np.load(path, mmap_mode="r")


def _read_only(X, _):
    X = X.copy()
    X.setflags(write=False)
    return X


def _unaligned(X, _):
    buffer = np.zeros(X.nbytes + 1, dtype=np.uint8)
    view = buffer[1:].view(X.dtype).reshape(X.shape)
    view[:] = X
    return view


def _strided(X, _):
    wide = np.full((2 * len(X), 3 * X.shape[1]), np.nan, dtype=X.dtype)
    wide[::2, ::3] = X
    return wide[::2, ::3]


LAYOUTS = {
    "strided": _strided,
    "padded rows": lambda X, _: np.pad(X, ((0, 0), (0, 5)))[:, : X.shape[1]],
    "Fortran order": lambda X, _: np.asfortranarray(X),
    "negative strides": lambda X, _: X[::-1, ::-1].copy()[::-1, ::-1],
    "repeated row": lambda X, _: np.broadcast_to(X[0], X.shape),
    "read-only": _read_only,
    "memory-mapped": _memory_mapped,
    "unaligned": _unaligned,
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_layouts(layout, dtype, tmp_path):
    view = LAYOUTS[layout](_data(dtype), tmp_path)
    plain = np.array(view, order="C")
    model, classifier = _model(), _classifier()
    assert np.array_equal(model.weighted_log_prob(view), model.weighted_log_prob(plain))
    assert np.array_equal(model.posterior_factors(view)[1], model.posterior_factors(plain)[1])
    assert np.array_equal(model.reconstruct(view), model.reconstruct(plain))
    assert np.array_equal(classifier.decision_function(view), classifier.decision_function(plain))


@pytest.mark.parametrize("layout", ["strided", "Fortran order", "read-only", "memory-mapped"])
def test_fit_layouts(layout, dtype, tmp_path):
    X = _data(dtype)
    view = LAYOUTS[layout](X, tmp_path)
    a, b = (MFA(2, 1, random_state=0, tol=1e-2).fit(data) for data in (view, X))
    # The start is found by NumPy's BLAS, which adds up in another order for another layout.
    assert scaled_error(a.means_, b.means_) <= EM_PARAMETERS_FLOAT32
    assert scaled_error(a.noise_variance_, b.noise_variance_) <= EM_PARAMETERS_FLOAT32


def test_inputs_are_left_as_they_were(dtype):
    X = _data(dtype)
    before = X.copy()
    MFA(2, 1, random_state=0, tol=1e-1).fit(X).predict_proba(X)
    assert np.array_equal(X, before)


def test_parameters_of_the_caller_are_left_as_they_were():
    own = [value.copy() for value in P]
    model = MFA.from_parameters(*own)
    expected = model.score_samples(_data())
    for value in own:
        value += 1.0  # raises if it was made read-only
    assert np.array_equal(model.score_samples(_data()), expected)
    assert np.array_equal(MFA.from_parameters(*P).score_samples(_data()), expected)


def test_starts_of_the_caller_are_left_as_they_were():
    own = {f"{name}_init": value.copy() for name, value in P._asdict().items()}
    model = MFA(3, 2, tol=1e-1, **own).fit(_data())
    model.score_samples(_data())
    for name, value in P._asdict().items():
        assert np.array_equal(own[f"{name}_init"], value)
        own[f"{name}_init"] += 1.0


# Kinds of numbers: anything but float32 and float64 is computed in float64.


@pytest.mark.parametrize("kind", ["uint8", "int8", "uint16", "int32", "int64", "bool", "float16", "longdouble"])
def test_other_real_dtypes(kind):
    X = np.abs(10 * _data()).astype(kind)
    model = _model()
    value = model.weighted_log_prob(X)
    assert value.dtype == np.float64
    expected = ref.weighted_log_prob(X.astype(np.float64), P)
    assert relative_error(value, expected) <= LOG_DENSITY[value.dtype]
    assert np.array_equal(value, model.weighted_log_prob(X.astype(np.float64)))
    assert np.array_equal(model.predict(X), np.argmax(expected, axis=1))


def test_fit_on_uint8_is_fit_on_float64():
    X = np.abs(30 * _data()).astype(np.uint8)
    a, b = (MFA(2, 1, random_state=0, tol=1e-2).fit(data) for data in (X, X.astype(np.float64)))
    assert np.array_equal(a.means_, b.means_)
    assert np.array_equal(a.noise_variance_, b.noise_variance_)


def test_strided_uint8():
    images = np.random.default_rng(0).integers(0, 256, size=(40, 2 * D), dtype=np.uint8)
    model = _model()
    value = model.score_samples(images[::-3, ::2])
    assert np.array_equal(value, model.score_samples(images[::-3, ::2].astype(np.float64)))


def test_byte_swapped(dtype):
    X = _data(dtype)
    value = _model().weighted_log_prob(X.astype(dtype.newbyteorder()))
    expected = ref.weighted_log_prob(X, P)
    assert relative_error(value, expected) <= LOG_DENSITY[dtype]


def test_lists():
    X = _data(n=5)
    assert np.array_equal(_model().score_samples(X.tolist()), _model().score_samples(X))
    objects = [[Decimal(value) for value in row] for row in X.tolist()]
    assert np.array_equal(_model().score_samples(objects), _model().score_samples(X))


def test_torch_in_torch_out(dtype):
    torch = pytest.importorskip("torch")
    X = _data(dtype)
    tensor = torch.from_numpy(X)
    model, classifier = _model(), _classifier()
    pairs = [
        (model.weighted_log_prob, X),
        (model.score_samples, X),
        (model.predict, X),
        (model.predict_proba, X),
        (model.reconstruct, X),
        (lambda data: model.posterior_factors(data)[1], X),
        (classifier.decision_function, X),
        (classifier.predict_proba, X),
    ]
    for function, data in pairs:
        value = function(tensor)
        assert isinstance(value, torch.Tensor)
        assert np.array_equal(value.numpy(), function(data))


@pytest.mark.parametrize("asks", [False, True], ids=["plain", "requires-grad"])
def test_tensors_of_another_librarys_type_are_tensors(asks):
    torch = pytest.importorskip("torch")

    class Image(torch.Tensor):  # as torchvision's
        pass

    data = _data()
    X = torch.from_numpy(data).as_subclass(Image).requires_grad_(asks)
    for function in (_model().score_samples, _model().reconstruct, lambda X: attacks.ld_grad(_classifier(), X).X_adv):
        value = function(X)
        assert isinstance(value, torch.Tensor)
        assert np.array_equal(value.numpy(), function(data))
    assert np.array_equal(
        MFA(2, 1, random_state=0, tol=1).fit(X).means_, MFA(2, 1, random_state=0, tol=1).fit(data).means_
    )


def test_bfloat16_is_taken_as_float32():
    torch = pytest.importorskip("torch")
    X, y, weights = torch.from_numpy(_data()).bfloat16(), torch.arange(300) % 2, torch.linspace(1, 2, 300).bfloat16()
    plain = X.float().numpy()
    for value, expected in [
        (_model().reconstruct(X), _model().reconstruct(plain)),
        (_classifier().predict_proba(X), _classifier().predict_proba(plain)),
        (attacks.ld_grad(_classifier(), X).X_adv, attacks.ld_grad(_classifier(), plain).X_adv),
    ]:
        assert value.dtype == torch.float32
        assert np.array_equal(value.numpy(), expected)
    fitted, expected = (
        MFAClassifier(2, 1, random_state=0, tol=1e-1).fit(data, labels, weights.float().numpy())
        for data, labels in ((X, y.bfloat16()), (plain, y.numpy()))
    )
    assert np.array_equal(fitted.mixtures_[0].means_, expected.mixtures_[0].means_)
    weighted, expected = (
        MFA(2, 1, random_state=0, tol=1e-1).fit(plain, sample_weight=w) for w in (weights, weights.float())
    )
    assert np.array_equal(weighted.means_, expected.means_)
    with pytest.raises(ValueError, match=r"out must be .* got bfloat16"):
        _model().sample(5, out=torch.empty((5, D), dtype=torch.bfloat16))


def test_torch_views_and_gradients():
    torch = pytest.importorskip("torch")
    X = _data()
    model = _model()
    tensor = torch.from_numpy(np.ascontiguousarray(X.T)).T
    assert np.array_equal(model.score_samples(tensor).numpy(), model.score_samples(X))
    fitted = MFA(2, 1, random_state=0, tol=1e-1).fit(torch.from_numpy(X))
    assert np.array_equal(fitted.means_, MFA(2, 1, random_state=0, tol=1e-1).fit(X).means_)


@pytest.mark.parametrize("kind", ["i4", "f8"])
def test_labels_of_foreign_byte_order_are_those_of_our_own(kind):
    torch = pytest.importorskip("torch")
    X, y = _data(), np.arange(300) % 2
    foreign = y.astype(np.dtype(kind).newbyteorder("S"))
    model = MFAClassifier(2, 1, random_state=0, tol=1e-1).fit(X, foreign)
    expected = MFAClassifier(2, 1, random_state=0, tol=1e-1).fit(X, y.astype(kind))
    for classifier in (model, MFAClassifier.from_mixtures(model.mixtures_, np.unique(foreign), model.priors_)):
        assert classifier.classes_.dtype == expected.classes_.dtype
        assert torch.equal(classifier.predict(torch.from_numpy(X)), expected.predict(torch.from_numpy(X)))
        assert classifier.score(X, foreign) == expected.score(X, y)
