"""Throws hostile arguments at every kernel: a clear error or the right answer, and never a crash.

Run it as ``python tests/fuzz.py --cases 100000``. Case i of seed s is a function of (s, i) alone, so a failure is
repeated by ``python tests/fuzz.py --seed s --first i --cases 1``. Before each case its number goes to a file, so that
what kills the process can be named: the cases run in a child process, and the parent says which was the last.

What a case may do: return what the dense reference computes (checked where that can be had, the arguments are benign
and cheap), return finite numbers, or raise ValueError or TypeError. All else is a failure, NumPy's warnings too.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
import traceback
import warnings
from collections import Counter
from pathlib import Path

import numpy as np
from sklearn.exceptions import ConvergenceWarning
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import MinMaxScaler, StandardScaler
from sklearn.svm import SVC, LinearSVC

import hostile
import reference as ref
from mfa_fast import MFA, MFAClassifier, _core, attacks
from tolerances import LOG_DENSITY, relative_error

ALLOWED = (ValueError, TypeError)


def _finite(*values):
    for value in values:
        array = np.asarray(value)
        if array.dtype.kind == "f" and not np.isfinite(array).all():
            msg = "a number in the result is not finite"
            raise AssertionError(msg)


SCORING = ("score_samples", "predict", "predict_proba", "weighted_log_prob", "posterior_factors", "reconstruct", "bic")


def scoring(rng):
    """Score anything by any method; log-densities of ordinary samples against the reference."""
    p = hostile.parameters(rng)
    model = MFA.from_parameters(*p).set_params(n_threads=int(rng.integers(1, 4)), screening=bool(rng.integers(2)))
    X, benign = hostile.matrix(rng, p.means.shape[1], p)
    if rng.random() < 0.15:
        X, benign = hostile.misshapen(rng, X), False
    method = str(rng.choice(SCORING))
    result = getattr(model, method)(X)
    _finite(*(result if isinstance(result, tuple) else (result,)))
    if benign and method == "score_samples" and rng.random() < 0.3:
        kind = np.dtype(np.float32 if X.dtype.newbyteorder("=") == np.float32 else np.float64)
        expected = ref.score_samples(np.asarray(X).astype(np.float64), p)
        error = relative_error(result, expected)
        assert error <= LOG_DENSITY[kind], f"log-densities are off by {error}"


MARGINAL = (
    "score_samples",
    "predict",
    "predict_proba",
    "weighted_log_prob",
    "posterior_factors",
    "impute",
    "conditional",
)


def missing(rng):
    """Score, impute and draw where X has NaN; log-densities of ordinary samples against the reference."""
    p = hostile.parameters(rng)
    model = MFA.from_parameters(*p).set_params(
        missing="marginal", n_threads=int(rng.integers(1, 4)), screening=bool(rng.integers(2))
    )
    X, benign = hostile.matrix(rng, p.means.shape[1], p)
    X = hostile.hide(rng, X)
    method = str(rng.choice(MARGINAL))
    result = getattr(model, method)(X)
    if method == "conditional":
        _finite(result.mean, result.variance, result.responsibilities)
        assert (np.asarray(result.variance) >= 0).all(), "a variance is negative"
        _finite(result.sample(int(rng.integers(1, 4)), random_state=int(rng.integers(100))))
        return
    _finite(*(result if isinstance(result, tuple) else (result,)))
    if method == "impute":
        seen = ~np.isnan(X) if X.dtype.kind == "f" else np.ones(X.shape, bool)
        assert np.array_equal(result[seen], X.astype(result.dtype)[seen]), "what was observed has changed"
    if benign and method == "score_samples" and rng.random() < 0.3:
        kind = np.dtype(np.float32 if X.dtype.newbyteorder("=") == np.float32 else np.float64)
        expected = ref.log_sum_exp(ref.marginal_weighted_log_prob(np.asarray(X).astype(np.float64), p))
        error = relative_error(result, expected)
        assert error <= LOG_DENSITY[kind], f"log-densities are off by {error}"


def _classifier(rng):
    d = int(rng.choice(hostile.FEATURES))
    mixtures = [hostile.parameters(rng, d) for _ in range(int(rng.integers(2, 4)))]
    model = MFAClassifier.from_mixtures(
        [MFA.from_parameters(*m) for m in mixtures], rule=str(rng.choice(["max", "sum"]))
    )
    return model.set_params(n_threads=int(rng.integers(1, 3)), screening=bool(rng.integers(2))), mixtures


def classifying(rng):
    """Classify, and take gradients."""
    model, mixtures = _classifier(rng)
    X, benign = hostile.matrix(rng, mixtures[0].means.shape[1], mixtures[0])
    if rng.random() < 0.1:
        X, benign = hostile.misshapen(rng, X), False
    method = str(rng.choice(["predict", "predict_proba", "predict_log_proba", "decision_function", "gradient"]))
    if method == "gradient":
        samples = model._samples(X)
        vectors = rng.normal(size=(len(samples), len(mixtures)))
        _finite(model._scorer().gradient(samples, vectors, sum_rule=model.rule == "sum"))
        return
    result = getattr(model, method)(X)
    if method != "predict_log_proba":
        _finite(result)
    if benign and method == "decision_function" and X.dtype == np.float64 and rng.random() < 0.2:
        expected = ref.class_scores(np.asarray(X), mixtures, model.priors_, model.rule)
        scale = np.maximum(1, np.abs(expected).max(axis=1))
        # Of two classes it is the difference.
        errors = (
            result - (expected[:, 1] - expected[:, 0]) if len(mixtures) == 2 else np.abs(result - expected).max(axis=1)
        )
        error = np.abs(errors) / scale
        assert error.max() <= LOG_DENSITY[np.dtype(np.float64)], "class scores are off"


def _attacked(X, result):
    assert result.X_adv.shape == np.shape(X)
    _finite(result.X_adv)
    with np.errstate(over="ignore"):
        way = np.asarray(result.X_adv, float) - np.asarray(X, float)
        sayable = np.linalg.norm(way, axis=1) <= np.finfo(result.l2.dtype).max
    _finite(result.l2[result.success & sayable])


def attacking(rng):
    """Attack classifiers; the nearest point of few samples only."""
    model, mixtures = _classifier(rng)
    X, _ = hostile.matrix(rng, mixtures[0].means.shape[1], mixtures[0])
    y = None if rng.random() < 0.6 or not len(X) else rng.integers(0, len(mixtures) + (rng.random() < 0.1), len(X))
    if rng.random() < 0.15:
        result = attacks.nearest(model, X[:4], None if y is None else y[:4])
        _attacked(X[:4], result)
        assert np.all(result.lower_bound <= result.l2), "a lower bound is above the distance"
        return
    clip = None if rng.random() < 0.7 else (float(rng.normal()), float(rng.normal()))
    target = None if rng.random() < 0.8 else int(rng.integers(-1, 8))
    result = attacks.ld_grad(
        model, X, y, steps=int(rng.integers(0, 5)), overshoot=float(rng.choice([0, 1e-6, 1, 1e6])), clip=clip,
        target=target,
    )  # fmt: skip
    _attacked(X, result)
    if y is None:
        left = model.predict(result.X_adv) != model.predict(X)
        assert np.array_equal(result.success, left), "samples said to have left their class have not, or others have"


def machines(rng):
    """Attack support vector machines."""
    d = int(rng.choice(hostile.FEATURES))
    points = rng.normal(size=(30, d))
    y = (points[:, 0] > 0).astype(int)
    y[:2] = [0, 1]
    machine = LinearSVC(max_iter=50) if rng.random() < 0.5 else SVC(gamma=float(rng.choice([1e-3, 0.5, 10])))
    if rng.random() < 0.5:
        machine = make_pipeline(StandardScaler() if rng.random() < 0.5 else MinMaxScaler(), machine)
    machine.fit(points, y)
    X, _ = hostile.matrix(rng, d)
    if rng.random() < 0.1:
        X = hostile.misshapen(rng, X)
    run = attacks.nearest if rng.random() < 0.3 else attacks.ld_grad
    result = run(machine, X, steps=int(rng.integers(0, 6)))
    _attacked(X, result)
    left = machine.predict(result.X_adv) != machine.predict(X)
    assert np.array_equal(result.success, left), "samples said to have left their class have not, or others have"


def fitting(rng):
    """Fit anything, in few iterations."""
    d = int(rng.choice(hostile.FEATURES))
    X, _ = hostile.matrix(rng, d)
    if len(X) and rng.random() < 0.3:
        X = np.repeat(X[: max(1, len(X) // 4)], 4, axis=0)
    if rng.random() < 0.1:
        X = hostile.misshapen(rng, X)
    model = MFA(
        int(rng.integers(0, 5)),
        int(rng.integers(0, 5)),
        noise_type=str(rng.choice(["spherical", "diag"])),
        tied_noise=bool(rng.integers(2)),
        init_params=str(rng.choice(["kmeans", "k-means++", "random_from_data", "random"])),
        min_noise_variance=float(rng.choice([1e-12, 1e-6, 1e-1])),
        max_iter=int(rng.integers(1, 4)),
        random_state=int(rng.integers(100)),
        missing=str(rng.choice(["error", "marginal"])),
    )
    if rng.random() < 0.3:
        X = hostile.hide(rng, X)
    weight = None if rng.random() < 0.6 else hostile.weights(rng, len(X) if hasattr(X, "__len__") else 1)
    (model.fit if rng.random() < 0.7 else model.partial_fit)(X, sample_weight=weight)
    _finite(model.weights_, model.means_, model.loadings_, model.noise_variance_, model.lower_bound_)
    assert (model.noise_variance_ > 0).all()
    # At the end of float32's range some samples lie beyond it.
    assert not np.isnan(model.sample(3, random_state=0)[0]).any()


def sampling(rng):
    """Draw samples at any place of the stream."""
    p = hostile.parameters(rng)
    model = MFA.from_parameters(*p)
    start = int(rng.choice([0, 1, 47, 2**31, 2**32 - 1, 2**62, 2**63, 2**64 - 2, 2**64, -1]))
    n = int(rng.choice([0, 1, 7, 33, 49, -1]))
    options = {"random_state": int(rng.choice([0, 1, 2**32, 2**63 - 1])), "noise": bool(rng.integers(2))}
    X, labels = model.sample(n, start=start, **options)
    _finite(X)
    assert ((labels >= 0) & (labels < len(p.weights))).all()
    if start + n < 2**64:
        assert np.array_equal(X[-1:], model.sample(1, start=start + n - 1, **options)[0]), "a stream has two versions"


def parameters(rng):
    """Make models of parameters that are out of order."""
    p = hostile.parameters(rng)._asdict()
    name = str(rng.choice(list(p)))
    value = p[name].copy()
    change = int(rng.integers(6))
    if change == 0:
        if value.size:
            value.flat[rng.integers(value.size)] = rng.choice([np.nan, np.inf, -1.0, 0.0])
    elif change == 1:
        value = value * float(rng.choice([0, -1, 1e-300, 1e-20, 1e20, 1e160, 1e300]))
    elif change == 2:
        value = value[..., :-1]
    elif change == 3:
        value = value[None]
    elif change == 4:
        value = value.astype(str(rng.choice(["f4", "f2", "i4", "U3", "complex128", "object"])))
    else:
        value = hostile.misshapen(rng, np.atleast_2d(value))
    with np.errstate(all="ignore"):
        model = MFA.from_parameters(**p | {name: value})
    X, _ = hostile.matrix(rng, model.means_.shape[1])
    _finite(model.score_samples(X))


def bindings(rng):
    """Call the extension itself, with one argument out of order."""
    p = hostile.parameters(rng)
    K, L, d = p.loadings.shape
    packed = _core.Model(*(np.ascontiguousarray(a) for a in p))
    n = int(rng.choice(hostile.ROWS))
    dtype = rng.choice([np.float32, np.float64])
    groups = np.array([0, K] if K < 2 or rng.random() < 0.3 else [0, 1, K], np.int64)
    G = len(groups) - 1
    f, i = np.zeros, (lambda *s: np.zeros(s, np.int64))
    X = (
        hostile.hide(rng, rng.normal(size=(n, d)).astype(dtype))
        if rng.random() < 0.3
        else rng.normal(size=(n, d)).astype(dtype)
    )
    attack = lambda: (np.zeros((n, d), dtype), f(n), np.zeros(n, bool), i(n))  # noqa: E731
    statistics = (f(K), f((K, L)), f((K, L, L)), f((K, L + 1, d)), f((K, d)))
    patterns = (np.arange(n), np.array([0, n // 2, n] if n else [0]))
    step = {"steps": 2, "overshoot": 1e-6, "clip": (None, None)}
    calls = {
        _core.log_densities: {"model": packed, "X": X, "out": np.zeros((n, K), dtype)},
        _core.reduce: {"model": packed, "X": X, "groups": groups, "exact": True, "screening": True,
                       "log_sum": f((n, G)), "best": i(n, G), "best_value": f((n, G)),
                       "responsibilities": np.zeros((n, K), dtype), "factors": f((n, L))},
        _core.expectation: {"model": packed, "X": X, "statistics": statistics, "log_likelihoods": f(n),
                            "sample_weight": np.ones(n), "screening": False},
        _core.assigned: {"X": X, "means": p.means.copy(), "labels": rng.integers(0, K, n), "factors": f((n, L)),
                         "statistics": statistics},
        _core.regress: {"whitening": f((K, L + 1, L + 1)), "cross": f((K, L + 1, d)),
                        "out": (f((K, L, d)), f((K, d)), f((K, d)), f((K, d)))},
        _core.add_in_order: {"total": 0.5, "values": f(n), "sample_weight": np.ones(n)},
        _core.classify: {"model": packed, "X": X, "groups": groups, "log_priors": f(G), "sum_rule": False,
                         "screening": True, "out": i(n)},
        _core.sample: {"model": packed, "weights": p.weights.copy(), "seed": 1, "start": 0, "noise": True,
                       "out": np.zeros((n, d), dtype), "labels": i(n)},
        _core.reconstruct: {"model": packed, "labels": rng.integers(0, K, n), "factors": f((n, L)),
                            "out": np.zeros((n, d), dtype)},
        _core.ld_grad: {"model": packed, "X": X, "groups": groups, "log_priors": f(G), "labels": i(n),
                        "sum_rule": False, "screening": True, "source": None, "target": None, "out": attack(),
                        "sources": i(n), "targets": i(n)} | step,
        _core.gradient: {"model": packed, "X": X, "groups": groups, "vectors": f((n, G)), "sum_rule": True,
                         "screening": True, "out": np.zeros((n, d), dtype)},
        _core.nearest: {"model": packed, "gram": _core.gram(packed, n_threads=1), "X": X, "groups": groups,
                        "log_priors": f(G), "labels": i(n), "sum_rule": False, "screening": True, "rtol": 1e-6,
                        "out": attack(), "sources": i(n), "targets": i(n), "lower_bound": f(n),
                        "certified": np.zeros(n, bool)},
        _core.ld_grad_linear: {"weights": f(d), "intercept": 0.5, "reach": 1.0, "shift": f(d), "scale": np.ones(d),
                               "X": X, "labels": i(n), "out": attack()} | step,
        _core.ld_grad_rbf: {"support_vectors": f((4, d)), "coefficients": np.ones(4), "intercept": 0.5, "gamma": 1.0,
                            "shift": f(d), "scale": np.ones(d), "X": X, "labels": i(n), "out": attack()} | step,
        _core.patterns: {"X": X, "out": i(n)},
        _core.marginal_log_densities: {"model": packed, "X": X, "patterns": patterns, "out": np.zeros((n, K), dtype)},
        _core.marginal_reduce: {"model": packed, "X": X, "patterns": patterns, "groups": groups, "log_sum": f((n, G)),
                                "best": i(n, G), "best_value": f((n, G)), "factors": f((n, L)),
                                "responsibilities": np.zeros((n, K), dtype)},
        _core.marginal_expectation: {"model": packed, "X": X, "patterns": patterns, "statistics": statistics,
                                     "log_likelihoods": f(n), "sample_weight": np.ones(n)},
        _core.conditional: {"model": packed, "X": X, "patterns": patterns, "mean": np.zeros((n, d), dtype),
                            "variance": np.zeros((n, d), dtype), "responsibilities": np.zeros((n, K), dtype),
                            "factors": f((n, K, L))},
        _core.conditional_sample: {"model": packed, "X": X, "patterns": patterns, "seed": 1,
                                   "out": np.zeros((2, n, d), dtype)},
        _core.Model: dict(zip(("weights", "means", "loadings", "noise_variance"), (a.copy() for a in p), strict=True)),
    }  # fmt: skip
    function = list(calls)[int(rng.integers(len(calls)))]
    arguments = calls[function]
    if function not in (_core.Model, _core.add_in_order):
        arguments["n_threads"] = int(rng.choice([0, 1, 3]))
    if rng.random() < 0.9:
        name = str(rng.choice(list(arguments)))
        arguments[name] = hostile.spoilt(rng, arguments[name])
    function(**arguments)


_FILES: dict[type, bytes] = {}


def files(rng):
    """Load model files that are cut short, or in which bits or bytes were changed."""
    path = Path(tempfile.gettempdir()) / f"mfa-fuzz-{os.getpid()}.safetensors"
    kind = MFA if rng.random() < 0.5 else MFAClassifier
    try:
        if kind not in _FILES:
            one = MFA.from_parameters(*ref.random_parameters(2, 3, 1))
            (one if kind is MFA else MFAClassifier.from_mixtures([one, one], classes=["no", "yes"])).save(path)
            _FILES[kind] = path.read_bytes()
        content = bytearray(_FILES[kind])
        header = 8 + int.from_bytes(content[:8], "little")
        change = int(rng.integers(5))
        if change == 0:
            del content[int(rng.integers(len(content))) :]
        elif change == 1:
            for _ in range(int(rng.integers(1, 4))):
                content[rng.integers(len(content))] ^= 1 << int(rng.integers(8))
        elif change == 2:  # where the names, the types, the shapes and the text are
            for _ in range(int(rng.integers(1, 4))):
                content[rng.integers(8, header)] = int(rng.choice(list(b'0123456789"{}[],:.-eE truefalsn\\')))
        elif change == 3:
            at = int(rng.integers(8, len(content)))
            content[at:at] = rng.bytes(int(rng.integers(1, 9)))
        else:
            content[:8] = int(rng.choice([0, 1, 2, header - 9, header - 7, 2**31, 2**62])).to_bytes(8, "little")
        path.write_bytes(content)
        model = kind.load(path)
    finally:
        path.unlink(missing_ok=True)
    # What could be loaded can be used: clearly refused, or finite.
    _finite(model.predict_proba(np.zeros((2, model.n_features_in_))))


# Each with how often it is taken.
CASES = {
    scoring: 30, missing: 20, classifying: 14, attacking: 12, machines: 4, fitting: 6, sampling: 6, parameters: 8,
    bindings: 30, files: 10,
}  # fmt: skip


def run_case(seed, number):
    """Run one case and return its name and outcome; what it must not raise is raised."""
    rng = np.random.default_rng([seed, number])
    weights = np.array(list(CASES.values()), float)
    case = list(CASES)[int(rng.choice(len(CASES), p=weights / weights.sum()))]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        warnings.filterwarnings("error", category=RuntimeWarning, module=r"mfa_fast|numpy|sklearn")
        warnings.simplefilter("ignore", ConvergenceWarning)
        try:
            case(rng)
        except ALLOWED as error:
            assert str(error), "an error without a message"
            assert not type(error).__module__.startswith("numpy"), f"NumPy's error, which names no argument: {error}"
            return case.__name__, type(error).__name__
    return case.__name__, "answer"


def run_cases(seed, first, count, log=None):
    """Run cases, and return how often each outcome was seen and the failures as (number, traceback)."""
    seen, failures = Counter(), []
    for number in range(first, first + count):
        if log is not None:
            log.seek(0)
            log.write(f"{number:<20}")
            log.flush()
        try:
            seen[run_case(seed, number)] += 1
        except BaseException as error:
            if isinstance(error, KeyboardInterrupt):
                raise
            failures.append((number, traceback.format_exc()))
    return seen, failures


def main():
    """Run cases in a child process, and say which it was if that dies."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cases", type=int, default=100_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--first", type=int, default=0, help="number of the first case")
    parser.add_argument("--log", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.log is None:
        with tempfile.NamedTemporaryFile("r", suffix=".case") as log:
            child = subprocess.run([sys.executable, __file__, *sys.argv[1:], "--log", log.name], check=False)
            if child.returncode not in (0, 1):
                number = log.read().strip() or "(before the first)"
                print(
                    f"case {number} of seed {options.seed} killed the process (status {child.returncode}); repeat it:"
                )
                print(f"python tests/fuzz.py --seed {options.seed} --first {number} --cases 1")
            return child.returncode
    started = time.perf_counter()
    with open(options.log, "r+") as log:
        seen, failures = run_cases(options.seed, options.first, options.cases, log)
    for (name, outcome), count in sorted(seen.items()):
        print(f"{name:12} {outcome:20} {count:8}")
    for number, text in failures[:20]:
        print(f"\nFAILED: --seed {options.seed} --first {number} --cases 1\n{text}")
    print(f"{options.cases} cases, {len(failures)} failures, {time.perf_counter() - started:.0f} s")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
