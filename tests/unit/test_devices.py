"""Where CUDA cannot be had: it is said why, and nothing else changes."""

import subprocess
import sys

import numpy as np
import pytest

import reference as ref
from mfa_fast import MFA, CudaUnavailableError, MFAClassifier, _devices, attacks, show_config, synchronize

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
