"""Arrays of other libraries in, the same out: the array API standard, in its strictest implementation."""

import numpy as np
import pytest
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import SVC, LinearSVC

import reference as ref
from mfa_fast import MFA, MFAClassifier, attacks

strict = pytest.importorskip("array_api_strict")

P = ref.random_parameters(3, 6, 2)
X = ref.random_samples(P, 120)
Y = (X[:, 0] > np.median(X[:, 0])).astype(np.int64)

# The last two stand for memory that only the standard's own functions reach: NumPy's asarray fails on them.
devices = pytest.mark.parametrize("device", ["CPU_DEVICE", "device1", "device2"])


def _move(array, device):
    return strict.asarray(array, device=strict.Device(device))


def _check(value, expected, like):
    """The same numbers, as an array of the library and on the device of `like`."""
    assert isinstance(value, type(like))
    assert value.device == like.device
    found = np.from_dlpack(value)
    assert found.dtype == expected.dtype
    assert np.array_equal(found, expected, equal_nan=expected.dtype.kind == "f")


@devices
@pytest.mark.parametrize(
    "method", ["score_samples", "weighted_log_prob", "predict", "predict_proba", "reconstruct", "fit_predict"]
)
def test_a_mixture(method, device, dtype):
    data = X.astype(dtype)
    samples = _move(data, device)
    model = MFA(2, 1, random_state=0, tol=1e-1).fit(samples)
    _check(getattr(model, method)(samples), getattr(model, method)(data), samples)


@devices
def test_a_mixture_in_numbers(device):
    samples = _move(X, device)
    model = MFA(2, 1, random_state=0, tol=1e-1).fit(samples)
    assert np.array_equal(model.means_, MFA(2, 1, random_state=0, tol=1e-1).fit(X).means_)
    for method in ("score", "bic", "aic"):
        assert getattr(model, method)(samples) == getattr(model, method)(X)
    for value, expected in zip(model.posterior_factors(samples), model.posterior_factors(X), strict=True):
        _check(value, expected, samples)


@devices
@pytest.mark.parametrize(
    "method", ["predict", "predict_proba", "predict_log_proba", "decision_function", "class_log_likelihood"]
)
def test_a_classifier(method, device, dtype):
    data = X.astype(dtype)
    samples = _move(data, device)
    model = MFAClassifier(2, 1, random_state=0, tol=1e-1).fit(samples, _move(Y, device))
    _check(getattr(model, method)(samples), getattr(model, method)(data), samples)


def test_a_classifier_in_numbers():
    samples, labels = _move(X, "CPU_DEVICE"), _move(Y, "CPU_DEVICE")
    model = MFAClassifier(2, 1, random_state=0, tol=1e-1).fit(samples, labels)
    assert model.score(samples, labels) == model.score(X, Y)
    moved, expected = (model.asymmetric(data, component=2, base_noise_std=0.1) for data in (samples, X))
    assert np.array_equal(moved.predict_proba(X), expected.predict_proba(X))


ATTACKED = {
    "MFAClassifier": lambda: MFAClassifier(2, 1, random_state=0, tol=1e-1),
    "LinearSVC": lambda: LinearSVC(random_state=0),
    "SVC": SVC,
    "Pipeline": lambda: make_pipeline(StandardScaler(), SVC()),
}


@devices
@pytest.mark.parametrize("labels", ["given", "predicted"])
@pytest.mark.parametrize("attack", [attacks.ld_grad, attacks.nearest], ids=lambda a: a.__name__)
@pytest.mark.parametrize("name", ATTACKED)
def test_attacks(name, attack, labels, device):
    model = ATTACKED[name]().fit(X, Y)
    samples = _move(X, device)
    y = {"numpy": Y, "strict": _move(Y, device)} if labels == "given" else dict.fromkeys(("numpy", "strict"))
    result, expected = attack(model, samples, y["strict"]), attack(model, X, y["numpy"])
    for field, value in vars(result).items():
        _check(value, getattr(expected, field), samples)
    assert result.summary() == pytest.approx(expected.summary(), nan_ok=True, rel=0, abs=0)
    radii = np.linspace(0, 3, 7)
    assert np.array_equal(result.security_curve(radii), expected.security_curve(radii))
    assert np.array_equal(result.certified_curve(radii), expected.certified_curve(radii))


def test_attacks_of_foolbox():
    pytest.importorskip("torch")
    pytest.importorskip("foolbox")
    samples = _move(X[:20], "device1")
    model = ATTACKED["LinearSVC"]().fit(X, Y)
    result, expected = attacks.ddn(model, samples, steps=5), attacks.ddn(model, X[:20], steps=5)
    for field, value in vars(result).items():
        _check(value, getattr(expected, field), samples)


@devices
def test_parameters(device):
    model = MFA.from_parameters(*(_move(value, device) for value in P))
    assert np.array_equal(model.score_samples(X), MFA.from_parameters(*P).score_samples(X))
    given = {f"{name}_init": _move(value, device) for name, value in P._asdict().items()}
    expected = {f"{name}_init": value for name, value in P._asdict().items()}
    assert np.array_equal(MFA(3, 2, tol=1e-1, **given).fit(X).means_, MFA(3, 2, tol=1e-1, **expected).fit(X).means_)
    single = MFA.from_parameters(*(_move(value.astype(np.float32), device) for value in P))
    assert single.means_.dtype == np.float32


def test_nothing_is_copied_on_the_way():
    from mfa_fast._samples import as_samples

    samples = _move(X, "CPU_DEVICE")
    inside = as_samples(samples)
    assert np.shares_memory(inside.data, np.from_dlpack(samples))
    result = np.arange(3.0)
    assert np.shares_memory(np.from_dlpack(inside.wrap(result)), result)


@pytest.mark.parametrize("dtype_name", ["uint8", "int32", "bool"])
def test_other_real_dtypes(dtype_name):
    data = np.abs(10 * X).astype(dtype_name)
    samples = _move(data, "CPU_DEVICE")
    model = MFA.from_parameters(*P)
    _check(model.score_samples(samples), model.score_samples(data), samples)


@pytest.mark.parametrize(
    ("bad", "error"),
    [(np.ones((4, 6), complex), "[Cc]omplex"), (np.ones(6), "2D"), (np.full((4, 6), np.nan), "NaN")],
    ids=["complex", "1-d", "NaN"],
)
def test_what_is_refused(bad, error):
    with pytest.raises(ValueError, match=error):
        MFA.from_parameters(*P).score_samples(_move(bad, "CPU_DEVICE"))


class Elsewhere:
    """An array of the standard whose memory the host cannot read."""

    dtype, device, shape, ndim = "float32", "tpu:0", (4, 6), 2

    def __array_namespace__(self, api_version=None):
        return np

    def __dlpack__(self, **_):
        raise BufferError("this memory is not the host's")

    def __dlpack_device__(self):
        return (1, 0)


def test_memory_that_cannot_be_read_is_named():
    with pytest.raises(TypeError, match=r"X must be in host memory .* on tpu:0 \(this memory is not the host's\)"):
        MFA.from_parameters(*P).score_samples(Elsewhere())
    with pytest.raises(TypeError, match="y must be in host memory"):
        MFAClassifier().fit(np.ones((4, 6)), Elsewhere())
    with pytest.raises(TypeError, match="means must be in host memory"):
        MFA.from_parameters(P.weights, Elsewhere(), P.loadings, P.noise_variance)


def test_torch_in_every_field_of_an_attack():
    torch = pytest.importorskip("torch")
    model = ATTACKED["MFAClassifier"]().fit(torch.from_numpy(X), torch.from_numpy(Y))
    for attack in (attacks.ld_grad, attacks.nearest):
        result, expected = attack(model, torch.from_numpy(X), torch.from_numpy(Y)), attack(model, X, Y)
        for field, value in vars(result).items():
            assert isinstance(value, torch.Tensor)
            assert np.array_equal(value.numpy(), getattr(expected, field), equal_nan=field in ("l2", "lower_bound"))
        assert result.summary() == pytest.approx(expected.summary(), nan_ok=True, rel=0, abs=0)
    for method in ("predict", "predict_log_proba", "class_log_likelihood"):
        value = getattr(model, method)(torch.from_numpy(X))
        assert isinstance(value, torch.Tensor)
        assert np.array_equal(value.numpy(), getattr(model, method)(X))
