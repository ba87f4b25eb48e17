"""Threads, forks, signals and memory: promises 4 and 5."""

import multiprocessing
import os
import subprocess
import sys
import threading
import time
import warnings
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from sklearn.exceptions import ConvergenceWarning
from threadpoolctl import threadpool_info, threadpool_limits

import reference as ref
from mfa_fast import MFA, MFAClassifier, _core
from mfa_fast._validation import check_threads
from mfa_fast.attacks import ld_grad, nearest
from models import classifier_of


def _model():
    p = ref.random_parameters(6, 40, 3, noise_std=0.1)
    return MFA.from_parameters(*p), ref.random_samples(p, 3000)


def test_one_model_in_many_threads():
    model, X = _model()
    alone = model.score_samples(X)
    with ThreadPoolExecutor(8) as pool:
        assert all(np.array_equal(result, alone) for result in pool.map(model.score_samples, [X] * 24))


def test_one_classifier_in_eight_threads():
    mixtures = [ref.random_parameters(4, 30, 2, noise_std=0.1, noise_type="diag", seed=c) for c in range(3)]
    model = classifier_of(mixtures).set_params(n_threads=2)
    X = np.concatenate([ref.random_samples(m, 200, seed=1) for m in mixtures])

    def use(_):
        # Not packed yet: the threads meet there.
        return model.predict(X), model.predict_proba(X), ld_grad(model, X).X_adv, model.sample(50, random_state=0)[0]

    with ThreadPoolExecutor(8) as pool:
        results = list(pool.map(use, range(16)))
    alone = use(0)
    for result in results:
        assert all(np.array_equal(one, other) for one, other in zip(result, alone, strict=True))


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
    model = classifier_of(mixtures).set_params(n_threads=1)
    X = np.concatenate([ref.random_samples(m, 300, seed=1) for m in mixtures])
    alone = nearest(model, X)
    with ThreadPoolExecutor(4) as pool:
        results = list(pool.map(lambda _: nearest(model, X), range(4)))
    assert all(np.array_equal(result.X_adv, alone.X_adv) for result in results)


def test_an_instruction_set_is_forced_while_threads_pack():
    p = ref.random_parameters(10, 200, 5, noise_std=0.1)
    X = ref.random_samples(p, 50)
    before, isas = _core.isa(), _core.available_isas()
    packed = threading.Event()

    def force():
        while not packed.is_set():
            for isa in isas:
                _core.set_isa(isa)

    def score(_):
        return MFA.from_parameters(*p).score_samples(X)

    try:
        with ThreadPoolExecutor(4) as pool:
            forcing = pool.submit(force)
            results = list(pool.map(score, range(20)))
            packed.set()
            forcing.result()
        expected = []
        for isa in isas:
            _core.set_isa(isa)
            expected.append(score(0))
    finally:
        _core.set_isa(before)
    assert all(any(np.array_equal(result, one) for one in expected) for result in results)


def _score(seed):
    model, X = _model()
    return model.score_samples(X)[seed]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this platform has no fork")
def test_fork_after_use():
    here = [_score(i) for i in range(4)]
    with multiprocessing.get_context("fork").Pool(2) as pool:
        assert pool.map_async(_score, range(4)).get(timeout=30) == here


def _fit_and_attack(seed):
    p = ref.random_parameters(3, 20, 2, noise_std=0.1, seed=seed)
    model = MFA(3, 2, max_iter=5, tol=0, random_state=seed).fit(ref.random_samples(p, 500))
    other = MFA.from_parameters(model.weights_, model.means_ + 1, model.loadings_, model.noise_variance_)
    result = ld_grad(MFAClassifier.from_mixtures([model, other]), model.sample(100, random_state=0)[0])
    return float(model.lower_bound_), float(result.l2.sum())


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this platform has no fork")
@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
def test_fork_after_a_fit_and_an_attack():
    here = [_fit_and_attack(seed) for seed in range(4)]
    with multiprocessing.get_context("fork").Pool(2) as pool:
        assert pool.map_async(_fit_and_attack, range(4)).get(timeout=60) == here


BESIDE = """
import sys
{first}
{second}
import numpy as np
rng = np.random.default_rng(0)
model = mfa_fast.MFA.from_parameters(np.full(3, 1 / 3), rng.random((3, 300)), rng.random((3, 4, 300)), 0.1)
X = rng.random((2000, 300))
{torch_work}
values = model.score_samples(X)
{torch_work}
assert np.array_equal(values, model.score_samples(X))
print(repr(float(values.sum())))
"""


def _beside(first, second="", torch_work=""):
    script = BESIDE.format(first=first, second=second, torch_work=torch_work)
    return subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False, timeout=120)


def test_torch_imported_before_and_after():
    # Both bring their own threads, and their OpenMP and C++ libraries.
    pytest.importorskip("torch", reason="torch is not installed")
    work = "(torch.ones(500, 500) @ torch.ones(500, 500)).sum().item()"
    alone = _beside("import mfa_fast")
    before = _beside("import torch", "import mfa_fast", work)
    after = _beside("import mfa_fast", "import torch", work)
    for run in (alone, before, after):
        assert run.returncode == 0, run.stderr
    assert before.stdout == after.stdout == alone.stdout


@pytest.mark.parametrize("asked", ["3", "3,2", " 3 , 1"])  # a number for each level of nested loops
def test_the_first_number_of_omp_num_threads_is_ours(asked, monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", asked)
    assert check_threads(None) == 3


def test_threads_of_a_limited_process():
    # threadpoolctl limits BLAS and OpenMP: results stay what they are, and what it says of them does too.
    model, X = _model()
    alone = model.score_samples(X)
    fit = MFA(3, 2, max_iter=4, tol=0, random_state=0, init_params="kmeans")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        means = fit.fit(X).means_
        with threadpool_limits(limits=1):
            said = [pool["num_threads"] for pool in threadpool_info()]
            assert np.array_equal(model.score_samples(X), alone)
            # k-means sums in as many parts as it has threads.
            assert np.allclose(fit.fit(X).means_, means, rtol=1e-6, atol=1e-6)
            assert [pool["num_threads"] for pool in threadpool_info()] == said


INTERRUPTED = """
import os, signal, threading, time
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs start with SIGINT ignored
import numpy as np
from mfa_fast import MFA, attacks, MFAClassifier
rng = np.random.default_rng(0)
{models}
def press():
    global wall, cpu
    wall, cpu = time.monotonic(), time.process_time()
    os.kill(os.getpid(), signal.SIGINT)
threading.Timer({after}, press).start()
try:
    while True:
        {call}
except KeyboardInterrupt:
    print(time.monotonic() - wall, time.process_time() - cpu)
"""

SCORED = """
X = rng.random((20000, 3000), dtype=np.float32)
model = MFA.from_parameters(np.full(60, 1 / 60), rng.random((60, 3000)), rng.random((60, 8, 3000)), 1.0)
wide = MFAClassifier.from_mixtures([model, MFA.from_parameters(model.weights_, 1 - model.means_, model.loadings_, 1.0)])
"""

# A search takes longer for each sample: smaller models.
SEARCHED = """
X = rng.random((2000, 200), dtype=np.float32)
means, loadings = rng.random((10, 200)), rng.random((10, 4, 200))
parts = [(means, 1.0), (1 - means, {noise})]
classifier = MFAClassifier.from_mixtures([MFA.from_parameters(np.full(10, 0.1), m, loadings, v) for m, v in parts])
"""

# One that takes seconds.
LONG_SEARCH = """
shape = (20, 3000)
parts = [(rng.random(shape), 0.3 * rng.random((20, *shape)), 0.002 + 0.01 * rng.random(shape)) for _ in "ab"]
classifier = MFAClassifier.from_mixtures([MFA.from_parameters(np.full(20, 0.05), *part) for part in parts])
X, _ = classifier.sample(4, random_state=0)
"""

# Steps without end, as none leads out of the clip.
CLIPPED = """
from sklearn.svm import SVC, LinearSVC
X = rng.uniform(0.1, 0.4, size=(50, 20))
X[25:] += 0.5
y = np.repeat([0, 1], 25)
parts = [MFA.from_parameters([1.0], [np.full(20, mean)], np.zeros((1, 1, 20)), 0.1) for mean in (0.25, 0.75)]
model = {make}
"""

# Parameters that take a second to pack, and another one to score with for the first time.
LARGE = """
parameters = np.full(80, 1 / 80), rng.random((80, 20000)), rng.random((80, 12, 20000)), 1.0
X = rng.random((1, 20000))
"""


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no SIGINT that a process could send itself")
@pytest.mark.parametrize(
    ("models", "call", "after"),
    [
        (SCORED, "model.weighted_log_prob(X)", 1.5),
        (
            SCORED,
            "MFA(60, 8, max_iter=1000, means_init=model.means_, weights_init=model.weights_, "
            "loadings_init=model.loadings_, noise_variance_init=1.0, tol=0).fit(X)",
            1.5,
        ),
        (SCORED, "attacks.ld_grad(wide, X)", 1.5),
        (SEARCHED.format(noise="1.0"), "attacks.nearest(classifier, X)", 1.5),
        (SEARCHED.format(noise="1 + rng.random(200)"), "attacks.nearest(classifier, X)", 1.5),
        (LONG_SEARCH, "attacks.nearest(classifier, X)", 0.5),
        *(
            (CLIPPED.format(make=make), "attacks.ld_grad(model, X[:25], clip=(0, 0.4), steps=10**9)", 0.5)
            for make in ("MFAClassifier.from_mixtures(parts)", "LinearSVC().fit(X, y)", "SVC(gamma=0.1).fit(X, y)")
        ),
        (LARGE, "MFA.from_parameters(*parameters).score_samples(X)", 0.2),
        (LARGE, "MFA.from_parameters(*parameters).score_samples(X)", 1.5),
    ],
    ids=[
        "score",
        "fit",
        "ld_grad",
        "nearest",
        "nearest-diagonal",
        "one-sample",
        "clipped",
        "clipped-linear",
        "clipped-rbf",
        "pack",
        "first-score",
    ],
)
def test_ctrl_c_returns_within_a_second(models, call, after):
    script = INTERRUPTED.format(models=models, call=call, after=after)
    child = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False, timeout=120)
    assert child.returncode == 0, child.stderr
    # Where others use the machine a process waits for its turn; what it then did itself tells.
    wall, cpu = map(float, child.stdout.split())
    assert min(wall, cpu) < 1.0


HANDLED = """
import os, signal, threading
import numpy as np
from mfa_fast import MFA
rng = np.random.default_rng(0)
parameters = np.full(50, 1 / 50), rng.random((50, 10000)), rng.random((50, 10, 10000)), 1.0
X = rng.random((1, 10000))
model = MFA.from_parameters(*parameters)
said = []
def handler(*_):
    said.append(model.score_samples(X))
    {then}
signal.signal(signal.SIGUSR1, handler)
threading.Timer(0.1, os.kill, (os.getpid(), signal.SIGUSR1)).start()
try:
    while not said:
        score = model.score_samples(X)
        model = MFA.from_parameters(*parameters)
except ZeroDivisionError:
    pass
again = model.score_samples(X)
assert np.array_equal(said, [again]) and np.array_equal(MFA.from_parameters(*parameters).score_samples(X), again)
"""


# A row that has to be refined, for which a part of the model is made, and meanwhile a handler that scores it among many
# others: that thread of the handler's call which takes the row needs the part too, and the other one waits for it.
SHARED = """
import signal, time
import numpy as np
from mfa_fast import MFA
rng = np.random.default_rng(0)
parameters = np.full(60, 1 / 60), rng.random((60, 20000)), 0.3 * rng.random((60, 16, 20000)), 1e-4
X = (50 * rng.normal(size=(100, 20000))).astype(np.float32)
def fresh():
    model = MFA.from_parameters(*parameters).set_params(n_threads=2, screening=False)
    model.score_samples(X[:1])
    return model
model = fresh()
row = model.sample(1, random_state=0)[0].astype(np.float32)
start = time.perf_counter()
model.score_samples(row)
first = time.perf_counter() - start
X[70] = row[0]
expected = model.score_samples(X)
said = []
signal.signal(signal.SIGALRM, lambda *_: said.append(model.score_samples(X)))
for part in np.linspace(0.4, 0.9, 6):
    model = fresh()
    signal.setitimer(signal.ITIMER_REAL, part * first)
    model.score_samples(row)
    while not said:
        time.sleep(0.001)
    assert np.array_equal(said.pop(), expected)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no SIGALRM")
def test_a_signal_handler_does_not_wait_for_the_call_that_it_has_interrupted():
    child = subprocess.run([sys.executable, "-c", SHARED], capture_output=True, text=True, check=False, timeout=120)
    assert child.returncode == 0, child.stderr


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no SIGUSR1")
@pytest.mark.parametrize("then", ["pass", "1 / 0"], ids=["goes-on", "ends-it"])
def test_a_signal_handler_may_score_with_the_model_that_is_being_packed(then):
    child = subprocess.run(
        [sys.executable, "-c", HANDLED.format(then=then)], capture_output=True, text=True, check=False, timeout=120
    )
    assert child.returncode == 0, child.stderr


ENDED = """
import threading, time
import numpy as np
from mfa_fast import MFA, MFAClassifier, attacks
rng = np.random.default_rng(0)
model = MFA.from_parameters(np.full(4, 0.25), rng.random((4, 100)), rng.random((4, 3, 100)), 1.0)
other = MFA.from_parameters(model.weights_, 1 - model.means_, model.loadings_, 1.0)
classifier = MFAClassifier.from_mixtures([model, other])
X, _ = classifier.sample(3000, random_state=0)
def use():
    while True:
        {call}
for _ in range(3):
    threading.Thread(target=use, daemon=True).start()
time.sleep(0.5)
"""


@pytest.mark.parametrize(
    "call",
    ["model.score_samples(X)", "model.sample(20000)", "attacks.ld_grad(classifier, X)"],
    ids=["score", "sample", "ld_grad"],
)
def test_a_process_ends_while_daemon_threads_work(call):
    child = subprocess.run(
        [sys.executable, "-c", ENDED.format(call=call)], capture_output=True, text=True, check=False, timeout=120
    )
    assert child.returncode == 0, child.stderr


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
