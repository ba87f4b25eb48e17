"""What a CUDA device does, against its own copies, matrix products and a dense evaluation in torch, in one run.

    python bench/device.py [--quick] [--json NAME]         bench/device.sh builds and tests before it
    python bench/device.py --device cpu --quick            looks whether everything runs, where there is no device

Every figure is measured here. Times are medians, of the whole call, until the device has done it. `bandwidth` counts X
once and is a fraction of what a copy of the same run moves, counting bytes read and written (for samples, of what
filling memory writes); `product` counts the flops of the dense product, 2 n d K (L + 1), as a fraction of the rate of
torch's largest product in TF32, so it is above 1 where screening spares more than that; `passes` are scoring passes
over the same rows; `dense` is how many times longer the dense evaluation takes per row. The error is relative, of some
rows, against long double (of the nearest adversarial example and of samples, what their tasks say); `CPU` the same
against the kernels of the CPU.
"""

import argparse
import statistics
import sys
import time
import warnings
from dataclasses import replace

import numpy as np
import torch
from sklearn.exceptions import ConvergenceWarning

import mfa_fast
import shapes
import sources
from device_table import summary, table
from mfa_fast import MFA, attacks
from mfa_fast.experiments.problems import (
    BOUNDARY_TOLERANCE,
    SYMMETRIC_NOISE_STD,
    TOLERANCE,
    cast,
    log_density,
    random_mixture,
    relative_error,
    score_samples,
    smooth_mixture,
    some_rows,
)
from table import write_json

REPEATS = 7
WARM_SECONDS = 0.3  # a device that has been idle takes a while until it is as fast as it can be
COMPARED_ROWS = 2_000

# ------------------------------------------------------------------------------------------------------------ the clock


class Clock:
    """Times calls on a torch device, until the device has done them."""

    def __init__(self, device):
        self.device = torch.device(device)

    def wait(self):
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)

    def seconds(self, call, repeats=REPEATS):
        """Return the median time of a call, after some that do not count: two, and more until the device is warm."""
        times = []
        while len(times) < 2 or sum(times) < WARM_SECONDS:
            times.append(self._one(call))
        return statistics.median(self._one(call) for _ in range(repeats))

    def _one(self, call):
        self.wait()
        started = time.perf_counter()
        call()
        self.wait()
        return time.perf_counter() - started


def ceilings(clock, quick):
    """Measure what the device can do at most: bytes per second copied and written, flops per second multiplied."""
    size = 1 << (24 if quick else 31)
    source, target = (torch.ones(size, dtype=torch.uint8, device=clock.device) for _ in range(2))
    copied = 2 * size / clock.seconds(lambda: target.copy_(source))
    written = size / clock.seconds(lambda: target.fill_(2))
    side = 512 if quick else 8192
    a, b = (torch.randn(side, side, device=clock.device) for _ in range(2))
    torch.backends.cuda.matmul.allow_tf32 = True
    multiplied = 2 * side**3 / clock.seconds(lambda: a @ b)
    torch.backends.cuda.matmul.allow_tf32 = False
    return {"copied": copied, "written": written, "multiplied": multiplied}


# ------------------------------------------------------------------------------------------------- the dense evaluation


class DenseTorch:
    """log p(x) of all rows under all components by Woodbury's identity in float32, batched over the components.

    The evaluation that one writes in torch: differences from the means (b, K, d), their products with the scaled
    loadings, and triangular solves of size L. (theory.md (3), the difference form.)
    """

    def __init__(self, model, device):
        weights, means, loadings, noise = (
            torch.tensor(np.asarray(a), dtype=torch.float64)
            for a in (model.weights_, model.means_, model.loadings_, model.noise_variance_)
        )
        K, L, d = loadings.shape
        scaled = loadings / noise[:, None, :]
        cholesky = torch.linalg.cholesky(torch.eye(L, dtype=torch.float64) + scaled @ loadings.mT)
        log_det = 2 * cholesky.diagonal(dim1=1, dim2=2).log().sum(dim=1) + noise.log().sum(dim=1)
        constant = weights.log() - 0.5 * (d * np.log(2 * np.pi) + log_det)
        self.means, self.precision, self.scaled, self.cholesky, self.constant = (
            a.to(device, torch.float32) for a in (means, 1 / noise, scaled, cholesky, constant)
        )
        self.rows_at_once = max(1, shapes.DEVICE_DENSE_BYTES // (4 * K * d))

    def score_samples(self, X):
        return torch.cat([self._score(rows) for rows in X.split(self.rows_at_once)])

    def _score(self, X):
        r = X[:, None, :] - self.means
        projected = torch.einsum("bkd,kld->kbl", r, self.scaled)
        solved = torch.linalg.solve_triangular(self.cholesky, projected.mT, upper=False)
        distance = torch.einsum("bkd,kd->bk", r * r, self.precision) - solved.square().sum(dim=1).T
        return torch.logsumexp(self.constant - 0.5 * distance, dim=1)


# ------------------------------------------------------------------------------------------------------------ the tasks


class Bench:
    """The tasks on one device, with what they are measured against."""

    def __init__(self, device, quick):
        self.clock, self.quick = Clock(device), quick
        self.ceilings = ceilings(self.clock, quick)
        self.rows = []
        # The bundled or given digits, and mixtures fitted to them on the CPU.
        self.workbench = shapes.BENCH

    def shape(self, name):
        shape = shapes.DEVICE_SHAPES[name]
        if self.quick:
            return replace(
                shape,
                n_samples=shapes.DEVICE_QUICK_ROWS,
                n_features=min(shape.n_features, 1024),
                n_components=min(shape.n_components, 50),
            )
        if self.clock.device.type == "cuda":
            most = torch.cuda.mem_get_info(self.clock.device)[0] // (4 * 4 * shape.n_features)
            return replace(shape, n_samples=min(shape.n_samples, most))
        return shape

    def add(self, task, shape, seconds, *, ceiling="copied", **figures):
        n, d = shape.n_samples, shape.n_features
        targets = {f"target_{name}": value for name, value in shapes.DEVICE_TARGETS[task].items()}
        row = {
            "task": task,
            "shape": shape.name,
            "n": n,
            "d": d,
            "K": shape.n_components,
            "L": shape.n_factors,
            "milliseconds": 1e3 * seconds,
            "rows_per_second": n / seconds,
            "bandwidth": 4 * n * d / seconds / self.ceilings[ceiling],
            "product": shape.floor_flops / seconds / self.ceilings["multiplied"],
            **targets,
            **figures,
        }
        self.rows.append(row)
        print(f"{task}: {row['milliseconds']:.3f} ms", file=sys.stderr)
        return row

    def score(self, task, shape, model, X):
        """Score rows, with the dense evaluation of the first of them beside it; return the time."""
        seconds = self.clock.seconds(lambda: model.score_samples(X))
        scores = model.score_samples(X).cpu().numpy()
        some = some_rows(len(X), model)
        expected = score_samples(X[some].cpu().numpy(), model)
        first = X[:COMPARED_ROWS]
        dense = DenseTorch(model, self.clock.device)
        few = min(len(first), 8 * dense.rows_at_once)
        dense_seconds = self.clock.seconds(lambda: dense.score_samples(first[:few]), 3)
        on_cpu = model.score_samples(first.cpu())
        self.add(
            task,
            shape,
            seconds,
            dense=dense_seconds / few / (seconds / len(X)),
            error=relative_error(scores[some], expected),
            against_cpu=relative_error(scores[: len(first)], on_cpu.numpy()),
            dense_error=relative_error(dense.score_samples(X[some]).cpu().numpy(), expected),
            tolerance=TOLERANCE[np.dtype(np.float32)],
        )
        return seconds

    def drawn(self, model, n, seed=1):
        out = torch.empty(n, model.n_features_in_, device=self.clock.device)
        return model.sample(n, random_state=seed, out=out)

    def symmetric(self):
        shape = self.shape("symmetric")
        model = cast(smooth_mixture(shape, SYMMETRIC_NOISE_STD), np.float32)
        self.score("score, symmetric", shape, model, self.drawn(model, shape.n_samples)[0])

    def fitted(self):
        """Score digits, and do one iteration of EM and ten.

        One is a whole fit, which checks its arguments and looks for what screening goes by as well. What each of the
        others adds to it is an iteration by itself.
        """
        shape, model = self.shape("fitted"), cast(self.workbench.fitted, np.float32)
        digits = torch.from_numpy(self.workbench.digits.test.astype(np.float32)).to(self.clock.device)
        X = digits.repeat(shape.n_samples // len(digits) + 1, 1)[: shape.n_samples]
        seconds = self.score("score, fitted", replace(shape, n_features=X.shape[1]), model, X)
        start = {f"{name}_init": getattr(model, f"{name}_") for name in ("weights", "means", "loadings")}
        start["noise_variance_init"] = model.noise_variance_

        def fit(iterations):
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", ConvergenceWarning)
                return MFA(*model.loadings_.shape[:2], max_iter=iterations, tol=0.0, **start).fit(X)

        on_cpu = model.score_samples(self.workbench.digits.test.astype(np.float64))
        expected = np.average(on_cpu, weights=np.bincount(np.arange(len(X)) % len(on_cpu), minlength=len(on_cpu)))
        tolerance = TOLERANCE[np.dtype(np.float32)]
        one, ten = (self.clock.seconds(lambda iterations=iterations: fit(iterations)) for iterations in (1, 10))
        against_cpu = relative_error(np.array(fit(10).lower_bounds_[0]), expected)
        for task, took in (("EM iteration", one), ("EM, after that", (ten - one) / 9), ("EM, mean of ten", ten / 10)):
            self.add(task, shape, took, passes=took / seconds, against_cpu=against_cpu, tolerance=tolerance)

    def attacked(self):
        """Attack the Bayes-optimal classifier of two digits; a pass is one over its classes."""
        shape = self.shape("attacked")
        classifier = self.workbench.classifier(np.float32)
        X, y = self.drawn(classifier, shape.n_samples)
        scoring = self.clock.seconds(lambda: classifier.class_log_likelihood(X))
        seconds = self.clock.seconds(lambda: attacks.ld_grad(classifier, X, y))
        first = slice(COMPARED_ROWS)
        here = attacks.ld_grad(classifier, X[first], y[first])
        there = attacks.ld_grad(classifier, X[first].cpu(), y[first].cpu())
        against_cpu = relative_error(here.l2.cpu().numpy(), there.l2.numpy())
        # Both classes' components are scored.
        twice = replace(shape, n_components=2 * shape.n_components)
        self.add("LD-Grad, 3 steps", twice, seconds, passes=seconds / scoring, against_cpu=against_cpu, tolerance=1e-4)

    def nearest(self):
        """Find the nearest adversarial examples; the error is the part of the mean distance that is not proved."""
        shape = self.shape("nearest")
        classifier = self.workbench.classifier(np.float32)
        X, y = self.drawn(classifier, shape.n_samples)
        scoring = self.clock.seconds(lambda: classifier.class_log_likelihood(X))
        seconds = self.clock.seconds(lambda: attacks.nearest(classifier, X, y), 3)
        found = attacks.nearest(classifier, X, y)
        first = slice(COMPARED_ROWS)
        there = attacks.nearest(classifier, X[first].cpu(), y[first].cpu())
        proved = found.lower_bound.double().mean() / found.l2.double().mean()
        self.add(
            "nearest",
            replace(shape, n_components=2 * shape.n_components),
            seconds,
            passes=seconds / scoring,
            error=float(1 - proved) if bool(found.success.all()) else float("inf"),
            against_cpu=relative_error(found.l2[first].cpu().numpy(), there.l2.numpy()),
            tolerance=BOUNDARY_TOLERANCE,
        )

    def sampled(self):
        """Draw samples; the error is that of their mean squared distance from their components."""
        shape = self.shape("drawn")
        model = cast(random_mixture(shape, 0.1), np.float32)
        out = torch.empty(shape.n_samples, shape.n_features, device=self.clock.device)
        seconds = self.clock.seconds(lambda: model.sample(len(out), random_state=0, out=out))
        X, labels = (a[:COMPARED_ROWS].cpu().numpy() for a in model.sample(len(out), random_state=0, out=out))
        expected, expected_labels = model.sample(len(X), random_state=0)
        against_cpu = relative_error(X, expected) if np.array_equal(labels, expected_labels) else float("inf")
        k = int(labels[0])
        own = X[labels == k]
        top = log_density(model.means_[k : k + 1], model, k, np.float64)
        distance = float(np.mean(2 * (top - log_density(own, model, k, np.float64))) / X.shape[1])
        tolerance = 5 * float(np.sqrt(2 / own.size))
        self.add(
            "sample",
            shape,
            seconds,
            ceiling="written",
            product=None,
            error=abs(distance - 1),
            against_cpu=against_cpu,
            tolerance=tolerance,
        )

    def run(self):
        for task in (self.symmetric, self.fitted, self.attacked, self.nearest, self.sampled):
            task()
            if self.clock.device.type == "cuda":
                mfa_fast.synchronize()
                torch.cuda.empty_cache()
        return self.rows


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--device", default="cuda", help="of torch; cpu only looks whether everything runs")
    parser.add_argument("--quick", action="store_true", help="few rows, and small models")
    parser.add_argument(
        "--json", metavar="NAME", help="also write bench/results/NAME.json, or this path; auto names it"
    )
    arguments = parser.parse_args()
    if arguments.device == "cuda" and not torch.cuda.is_available():
        sys.exit("bench/device.py: torch finds no CUDA device; --device cpu --quick looks whether everything runs")
    bench = Bench(arguments.device, arguments.quick)
    device = "CPU" if bench.clock.device.type == "cpu" else torch.cuda.get_device_name(bench.clock.device)
    rows = bench.run()
    print(summary(device, bench.ceilings))
    print(table(rows), end="")
    wrong = [row["task"] for row in rows if not max(row.get("error", 0), row["against_cpu"]) <= row["tolerance"]]
    if wrong:
        sys.exit(f"bench/device.py: not as accurate as it must be: {', '.join(wrong)}")
    if arguments.json:
        name = "-".join(device.lower().split()) if arguments.json == "auto" else arguments.json
        content = {
            "device": device,
            "torch": torch.__version__,
            "kernels": sources.digest(sources.DEVICE),
            "quick": arguments.quick,
            "ceilings": bench.ceilings,
            "rows": rows,
        }
        write_json(name, content)


if __name__ == "__main__":
    main()
