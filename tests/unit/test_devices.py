"""Where CUDA cannot be had: it is said why, and nothing else changes."""

import subprocess
import sys
from types import SimpleNamespace

import numpy as np
import pytest

import reference as ref
from fits import quietly
from mfa_fast import MFA, CudaUnavailableError, MFAClassifier, _devices, _late_errors, attacks, show_config, synchronize
from mfa_fast._array_libraries import HOST, CupyArrays, TorchArrays
from mfa_fast._late_errors import LateCheck

P = ref.random_parameters(2, 5, 1)


def _model(**parameters):
    return MFA.from_parameters(*P).set_params(**parameters)


@pytest.fixture
def reason():
    """Why there is no CUDA here."""
    try:
        _devices.default_arrays()
    except CudaUnavailableError as error:
        return str(error)
    pytest.skip("CUDA can be used here")


def test_asking_for_cuda_says_why_not_and_what_to_do(reason):
    X = ref.random_samples(P, 20)
    classifier = MFAClassifier.from_mixtures([_model(), _model()]).set_params(device="cuda")
    for ask in (
        _model(device="cuda").score_samples,
        MFA(2, 1, device="cuda").fit,
        lambda _: _model(device="cuda").sample(3),
        classifier.predict,
        lambda X: attacks.ld_grad(classifier, X),
    ):
        with pytest.raises(CudaUnavailableError, match=r"device='cuda' was asked for, but .*device=None") as error:
            ask(X)
        assert reason in str(error.value)


def test_configuration_says_why(reason, capsys):
    show_config()
    assert f"off: {reason}" in capsys.readouterr().out


def test_other_devices_are_named():
    X = ref.random_samples(P, 20)
    for ask in (_model(device="gpu").score_samples, MFA(2, 1, device="gpu").fit):
        with pytest.raises(ValueError, match="device must be None or one of 'cpu', 'cuda'; got 'gpu'"):
            ask(X)
    assert np.array_equal(_model(device="cpu").score_samples(X), _model().score_samples(X))


class _ForeignArray:
    __cuda_array_interface__ = None


def test_arrays_of_libraries_that_are_not_known_are_refused():
    with pytest.raises(TypeError, match=r"torch's or CuPy's, got .*_ForeignArray; use cupy\.asarray"):
        _model().score_samples(_ForeignArray())


class _HostArray(_ForeignArray):
    """As of a library that has arrays in both memories, and one type for them."""

    @property
    def __cuda_array_interface__(self):
        raise AttributeError("not in CUDA memory")

    def __array__(self, dtype=None, copy=None):
        return np.arange(10.0, dtype=dtype).reshape(2, 5)


def test_arrays_in_host_memory_are_not_taken_for_others():
    model = _model()
    assert np.array_equal(model.score_samples(_HostArray()), model.score_samples(np.arange(10.0).reshape(2, 5)))
    pandas = pytest.importorskip("pandas", reason="pandas is not installed")
    frame = pandas.DataFrame(np.arange(10.0).reshape(2, 5), columns=["is_cuda", *"bcde"])
    a, b = (quietly(MFA(1, 1), X).score_samples(X) for X in (frame, frame.to_numpy()))
    assert np.array_equal(a, b)


def test_what_is_asked_of_torch():
    torch = pytest.importorskip("torch", reason="torch is not installed")
    host, there = HOST, TorchArrays("cpu")  # of no device; what is asked is the same
    X = np.random.default_rng(0).normal(size=(4, 6))
    tensor = torch.from_numpy(X)
    assert there.dtype_name(tensor) == "float64"
    assert there.dtype_name(tensor.bfloat16()) == "bfloat16"
    assert np.array_equal(there.to_host(tensor), X)
    assert there.to_host(tensor.bfloat16()).dtype == np.float32
    assert there.empty((2, 3), np.int64).dtype == torch.int64 and there.empty((2, 3), np.int64).shape == (2, 3)
    assert there.full((2,), -1.0, np.float64).tolist() == [-1.0, -1.0]
    assert there.cast(tensor, np.float32).dtype == torch.float32
    assert there.plain(tensor.requires_grad_()).requires_grad is False
    assert there.plain(tensor.T).stride(1) == 1
    with pytest.raises(TypeError, match="dense torch tensor"):
        there.plain(tensor.detach().to_sparse())
    for name in ("softmax", "log_softmax"):
        assert np.allclose(there.to_host(getattr(there, name)(tensor)), getattr(host, name)(X), rtol=1e-14)
    assert float(there.to_host(tensor.sum())) == pytest.approx(X.sum())


def test_cupy_arrays_of_another_device_than_its_current_one_are_refused(monkeypatch):
    # CuPy would compute with the kernels' results there, without waiting for them.
    runtime = SimpleNamespace(getDevice=lambda: 0)
    monkeypatch.setitem(sys.modules, "cupy", SimpleNamespace(cuda=SimpleNamespace(runtime=runtime)))
    monkeypatch.setattr(CupyArrays, "kernels", None)
    device = SimpleNamespace(id=1)
    X = type("ndarray", (_ForeignArray,), {"__module__": "cupy", "device": device})()
    model = _model()
    for call in (model.score_samples, model.fit, lambda X: model.sample(5, out=X)):
        with pytest.raises(ValueError, match=r"current device, .* 0, got one on device 1; .*cupy\.cuda\.Device\(1\)"):
            call(X)
    device.id = 0
    CupyArrays.of(X).require_active()


def test_samples_are_written_where_the_caller_says():
    out = np.empty((5, 5), np.float32)
    X, labels = _model().sample(5, random_state=0, out=out)
    assert X is out
    cast = MFA.from_parameters(*(value.astype(np.float32) for value in P))
    assert np.array_equal(labels, cast.sample(5, random_state=0)[1])
    assert np.allclose(out, cast.sample(5, random_state=0)[0], rtol=1e-5)
    read_only = np.empty((5, 5))
    read_only.setflags(write=False)
    for wrong in (np.empty((5, 5), int), np.empty((4, 5)), np.empty((5, 5)).T, read_only):
        with pytest.raises(ValueError, match=r"out must be a writeable array of shape \(5, 5\)"):
            _model().sample(5, out=wrong)
    with pytest.raises(TypeError, match="out must be an array of NumPy, torch or CuPy, got list"):
        _model().sample(5, out=[[0.0] * 5] * 5)


def test_importing_touches_no_array_library_and_no_driver():
    code = "import sys, mfa_fast; print([m for m in ('torch', 'cupy', 'mfa_fast._cuda') if m in sys.modules])"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert out.strip() == "[]"


def test_nothing_to_wait_for():
    synchronize()


def test_all_errors_that_come_late_are_made_known_at_once():
    def bad(row):
        event = SimpleNamespace(synchronize=lambda: None)
        return LateCheck(event, lambda _: True, lambda: row, n_rows=9, labelled=False, owner=None)

    for make_known in (synchronize, _late_errors.raise_known):
        for row in (None, 4, 5):
            _late_errors.leave(bad(row))
        with pytest.raises(ValueError, match="row 4 of the X of an earlier call, of 9 rows"):
            make_known()
        make_known()
    own = bad(3)
    _late_errors.leave(own)
    assert own.settle() == 3  # by the call itself, which raises it
    synchronize()
