"""Fixtures that more than one test file needs."""

import os
from pathlib import Path

import numpy as np
import pytest
from hypothesis import settings

settings.register_profile("mfa_fast", derandomize=True, deadline=None, max_examples=30)
# Under tests/sanitize, where everything takes several times as long.
settings.register_profile("sanitize", derandomize=True, deadline=None, max_examples=5)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "mfa_fast"))


def pytest_generate_tests(metafunc):
    """Run a test that asks for `isa` once per instruction set of this machine."""
    if "isa" in metafunc.fixturenames:
        from mfa_fast import _core

        metafunc.parametrize("isa", _core.available_isas(), indirect=True)


@pytest.fixture
def isa(request):
    """Force an instruction set for the models that the test makes."""
    from mfa_fast import _core

    before = _core.isa()
    _core.set_isa(request.param)
    yield request.param
    _core.set_isa(before)


@pytest.fixture(params=[np.float32, np.float64], ids=["float32", "float64"])
def dtype(request):
    return np.dtype(request.param)


@pytest.fixture(scope="session")
def mnist():
    """MNIST as Keras stores it; MFA_FAST_DATA names the folder that holds mnist.npz."""
    folder = os.environ.get("MFA_FAST_DATA")
    if not folder:
        pytest.skip("MFA_FAST_DATA is not set; it names the folder with mnist.npz")
    path = Path(folder) / "mnist.npz"
    if not path.is_file():
        pytest.skip(f"MFA_FAST_DATA has no mnist.npz: {path}")
    with np.load(path) as arrays:
        return {name: arrays[name] for name in arrays.files}
