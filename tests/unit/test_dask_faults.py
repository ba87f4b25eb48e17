"""Workers that die in the middle of a fit on Dask arrays and are never replaced: those that are left end it."""

import contextlib
import io
import os
import signal
import subprocess
import sys

import pytest

import reference as ref
from fits import starting_from
from tolerances import scaled_error

dask = pytest.importorskip("dask", reason="dask is not installed")
da = pytest.importorskip("dask.array", reason="dask[array] is not installed")
distributed = pytest.importorskip("distributed", reason="distributed is not installed")

from mfa_fast import dask as mfa_dask  # noqa: E402

pytestmark = [
    pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning"),
    pytest.mark.skipif(os.name == "nt", reason="processes are killed by a signal that Windows does not have"),
]


# Without nannies, which would put other workers in the place of dead ones, sooner or later.
WORKER = (
    "-m",
    "distributed.cli.dask_worker",
    "--no-nanny",
    "--no-dashboard",
    "--nthreads",
    "1",
    "--death-timeout",
    "60",
)


@pytest.fixture
def cluster():
    """A client of two workers, none of which is ever replaced, and their processes."""
    with (
        # Where the last worker goes too, the fit is to fail rather than to wait for another.
        dask.config.set({"distributed.scheduler.no-workers-timeout": "10s"}),
        distributed.LocalCluster(n_workers=0, dashboard_address=":0") as scheduler,
        distributed.Client(scheduler) as client,
        contextlib.ExitStack() as stack,
    ):
        processes = []
        for _ in range(2):
            command = [sys.executable, *WORKER, scheduler.scheduler_address]
            processes.append(subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL))
            stack.callback(processes[-1].wait)
            stack.callback(processes[-1].kill)
        client.wait_for_workers(2, timeout=60)
        yield client, processes


def _problem():
    """Samples, and an estimator that starts where it is told."""
    X = ref.random_samples(ref.random_parameters(3, 8, 2, noise_std=0.7, seed=1), 900, seed=2)
    return X, starting_from(ref.random_parameters(3, 8, 2, noise_std=0.7, seed=3), max_iter=5)


def _assert_same_bits(a, b):
    for name in ("weights_", "means_", "loadings_", "noise_variance_", "lower_bounds_"):
        assert scaled_error(getattr(a, name), getattr(b, name)) == 0, name


def _n_dead(processes):
    return sum(process.poll() is not None for process in processes)


def _reader(folder, fatal):
    """Return a function that returns a block; the worker that calls it for the `fatal`-th time dies of it.

    It is made here, so that it is sent as it is: workers need not be able to import this file, and one that fails to
    import what it is sent leaves the cluster for good.
    """

    def read(block):
        with (folder / "reads").open("ab") as reads:
            reads.write(b".")
            reads.flush()
            if os.fstat(reads.fileno()).st_size >= fatal:
                with contextlib.suppress(FileExistsError):
                    (folder / "killed").touch(exist_ok=False)
                    os.kill(os.getpid(), signal.SIGKILL)
        return block

    return read


def test_a_worker_that_dies_while_it_reads_changes_nothing(cluster, tmp_path):
    client, processes = cluster
    X, estimator = _problem()
    blocks = da.from_array(X, chunks=(150, -1))
    whole = mfa_dask.fit(estimator, blocks, client=client)
    read = blocks.map_blocks(_reader(tmp_path, 15), dtype=X.dtype, meta=X[:0])  # 6 blocks: in the third iteration
    model = mfa_dask.fit(estimator, read, client=client)
    assert (tmp_path / "killed").exists()
    assert _n_dead(processes) == 1
    _assert_same_bits(model, whole)


class _KillAt(io.StringIO):
    """What is printed, until a word appears in it: then a process is killed."""

    def __init__(self, word, process):
        super().__init__()
        self.word, self.process, self.killed = word, process, False

    def write(self, text):
        if self.word in text and not self.killed:
            self.process.kill()
            self.killed = True
        return super().write(text)


def test_a_worker_that_dies_with_its_samples_changes_nothing(cluster):
    client, processes = cluster
    X, estimator = _problem()
    estimator.set_params(verbose=1, verbose_interval=1)
    blocks = da.from_array(X, chunks=(150, -1)).persist()
    distributed.wait(blocks)
    killer = _KillAt("Iteration 2", processes[0])
    with contextlib.redirect_stdout(killer):
        model = mfa_dask.fit(estimator, blocks, client=client)
    assert killer.killed
    assert "Iteration 5" in killer.getvalue()
    assert _n_dead(processes) == 1
    _assert_same_bits(model, mfa_dask.fit(estimator.set_params(verbose=0), blocks, client=client))
