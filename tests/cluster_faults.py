"""Workers that die in the middle of a fit: ``pytest tests/cluster_faults.py``.

Not among the tests that are always run: how soon a killed worker is replaced is up to Dask and to the machine, and a
fit waits for it.
"""

import contextlib
import io
import os
import signal
import time

import pytest

import reference as ref
from mfa_fast import MFA
from tolerances import scaled_error

da = pytest.importorskip("dask.array", reason="dask[array] is not installed")
distributed = pytest.importorskip("distributed", reason="distributed is not installed")

from mfa_fast import dask as mfa_dask  # noqa: E402

pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")


@pytest.fixture
def client():
    with (
        distributed.LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=":0") as cluster,
        distributed.Client(cluster) as client,
    ):
        client.wait_for_workers(2, timeout=30)
        yield client


def _problem():
    """Samples, and an estimator that starts where it is told."""
    X = ref.random_samples(ref.random_parameters(3, 8, 2, noise_std=0.7, seed=1), 900, seed=2)
    start = ref.random_parameters(3, 8, 2, noise_std=0.7, seed=3)
    estimator = MFA(
        3,
        2,
        weights_init=start.weights,
        means_init=start.means,
        loadings_init=start.loadings,
        noise_variance_init=start.noise_variance,
        tol=0,
        max_iter=5,
    )
    return X, estimator


def _assert_same_bits(a, b):
    for name in ("weights_", "means_", "loadings_", "noise_variance_", "lower_bounds_"):
        assert scaled_error(getattr(a, name), getattr(b, name)) == 0, name


def _read(block, folder, fatal):
    """Return the block; the worker that does so for the `fatal`-th time dies of it."""
    with (folder / "reads").open("ab") as reads:
        reads.write(b".")
        reads.flush()
        if fatal and os.fstat(reads.fileno()).st_size >= fatal:
            with contextlib.suppress(FileExistsError):
                (folder / "killed").touch(exist_ok=False)
                os.kill(os.getpid(), signal.SIGKILL)
    return block


def test_a_worker_that_dies_while_it_reads_changes_nothing(client, tmp_path):
    X, estimator = _problem()
    blocks = da.from_array(X, chunks=(150, -1))
    whole = mfa_dask.fit(estimator, blocks, client=client)
    read = blocks.map_blocks(_read, tmp_path, 15, dtype=X.dtype, meta=X[:0])  # 6 blocks: in the third iteration
    model = mfa_dask.fit(estimator, read, client=client)
    assert (tmp_path / "killed").exists()
    _assert_same_bits(model, whole)


class _KillAt(io.StringIO):
    """What is printed, until a word appears in it: then a process is killed."""

    def __init__(self, word, process):
        super().__init__()
        self.word, self.process, self.killed = word, process, False

    def write(self, text):
        if self.word in text and not self.killed:
            os.kill(self.process, signal.SIGKILL)
            self.killed = True
        return super().write(text)


def test_a_worker_that_dies_with_its_samples_changes_nothing(client):
    X, estimator = _problem()
    estimator.set_params(verbose=1, verbose_interval=1)
    blocks = da.from_array(X, chunks=(150, -1)).persist()
    distributed.wait(blocks)
    processes = client.run(os.getpid)
    killer = _KillAt("Iteration 2", next(iter(processes.values())))
    with contextlib.redirect_stdout(killer):
        model = mfa_dask.fit(estimator, blocks, client=client)
    assert killer.killed
    assert "Iteration 5" in killer.getvalue()
    _assert_same_bits(model, mfa_dask.fit(estimator.set_params(verbose=0), blocks, client=client))
    deadline = time.monotonic() + 30
    while set(client.run(os.getpid).values()) == set(processes.values()):
        assert time.monotonic() < deadline, "the worker was not killed"
