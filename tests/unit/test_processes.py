"""Threads, forks, signals and memory: promises 4 and 5."""

import multiprocessing
import os
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

import reference as ref
from mfa_fast import MFA, MFAClassifier
from mfa_fast.attacks import nearest


def _model():
    p = ref.random_parameters(6, 40, 3, noise_std=0.1)
    return MFA.from_parameters(*p), ref.random_samples(p, 3000)


def test_one_model_in_many_threads():
    model, X = _model()
    alone = model.score_samples(X)
    with ThreadPoolExecutor(8) as pool:
        assert all(np.array_equal(result, alone) for result in pool.map(model.score_samples, [X] * 24))


def test_kernels_release_the_gil():
    rng = np.random.default_rng(0)
    model = MFA.from_parameters(np.full(40, 1 / 40), rng.random((40, 1000)), rng.random((40, 6, 1000)), 1.0)
    model.set_params(n_threads=1)
    X = rng.random((20_000, 1000))
    model.weighted_log_prob(X[:10])
    with ThreadPoolExecutor(1) as pool:
        start = time.perf_counter()
        call = pool.submit(model.weighted_log_prob, X)
        ticks = [start]
        while not call.done():
            time.sleep(0.001)
            ticks.append(time.perf_counter())
    # With the GIL held this thread would stand still for as long as the call takes.
    assert np.max(np.diff(ticks)) < 0.5 * (ticks[-1] - start)


def test_one_classifier_in_many_searches():
    mixtures = [ref.random_parameters(6, 60, 3, noise_std=0.1, noise_type="diag", seed=c) for c in range(2)]
    model = MFAClassifier.from_mixtures([MFA.from_parameters(*m) for m in mixtures]).set_params(n_threads=1)
    X = np.concatenate([ref.random_samples(m, 300, seed=1) for m in mixtures])
    alone = nearest(model, X)
    with ThreadPoolExecutor(4) as pool:
        results = list(pool.map(lambda _: nearest(model, X), range(4)))
    assert all(np.array_equal(result.X_adv, alone.X_adv) for result in results)


def _score(seed):
    model, X = _model()
    return model.score_samples(X)[seed]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this platform has no fork")
def test_fork_after_use():
    here = [_score(i) for i in range(4)]
    with multiprocessing.get_context("fork").Pool(2) as pool:
        assert pool.map_async(_score, range(4)).get(timeout=30) == here


INTERRUPTED = """
import numpy as np
from mfa_fast import MFA, attacks, MFAClassifier
rng = np.random.default_rng(0)
X = rng.random((20000, 3000), dtype=np.float32)
model = MFA.from_parameters(np.full(60, 1 / 60), rng.random((60, 3000)), rng.random((60, 8, 3000)), 1.0)
# A search takes longer for each sample: smaller models.
loadings = model.loadings_[:10, :4, :200]
parts = [(model.means_[:10, :200], 1.0), (1 - model.means_[:10, :200], {noise})]
classifier = MFAClassifier.from_mixtures(
    [MFA.from_parameters(np.full(10, 1 / 10), means, loadings, noise) for means, noise in parts]
)
images = X[:, :200]
print("ready", flush=True)
while True:
    {call}
"""


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no SIGINT for a child process")
@pytest.mark.parametrize(
    ("call", "noise"),
    [
        ("model.weighted_log_prob(X)", "1.0"),
        (
            "MFA(60, 8, max_iter=1000, means_init=model.means_, weights_init=model.weights_, "
            "loadings_init=model.loadings_, noise_variance_init=1.0, tol=0).fit(X)",
            "1.0",
        ),
        ("attacks.nearest(classifier, images)", "1.0"),
        ("attacks.nearest(classifier, images[:2000])", "1 + rng.random(200)"),
    ],
    ids=["score", "fit", "nearest", "nearest-diagonal"],
)
def test_ctrl_c_returns_within_a_second(call, noise):
    child = subprocess.Popen(
        [sys.executable, "-c", INTERRUPTED.format(call=call, noise=noise)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert child.stdout.readline() == "ready\n"
    time.sleep(1.5)
    sent = time.monotonic()
    child.send_signal(signal.SIGINT)
    _, errors = child.communicate(timeout=20)
    assert time.monotonic() - sent < 1.0
    assert errors.strip().endswith("KeyboardInterrupt")


MEMORY = """
import resource, sys
import numpy as np
from mfa_fast import MFA
rng = np.random.default_rng(0)
model = MFA.from_parameters(np.full(4, 0.25), rng.random((4, 500)), rng.random((4, 2, 500)), 1.0)
X = rng.integers(0, 256, (200_000, 500), dtype=np.uint8)
model.score_samples(X[:1000])
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
model.score_samples(X)
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="peak memory is read in Linux's units")
def test_uint8_is_read_in_place():
    grown = int(subprocess.run([sys.executable, "-c", MEMORY], capture_output=True, text=True, check=True).stdout)
    assert grown < 30e6  # X is 100 MB, as float32 it would be 400 MB
