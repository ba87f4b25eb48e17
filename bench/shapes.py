"""The named problems of the benchmarks, by the names that the suites use.

The sizes themselves are in `mfa_fast.experiments.problems`, because `mfa-fast bench` measures the same problems where
there is no bench/ folder. Models and data are made once per process and kept nowhere else.

    MFA_FAST_DATA      folder with MNIST; without it digits like these are made of those bundled in scikit-learn
    MFA_BENCH_QUICK=1  a fifth of the samples
"""

import os
from functools import lru_cache

import numpy as np

from mfa_fast.experiments.problems import DTYPES, NESTED_NOISE_STDS, SHAPES, SYMMETRIC_NOISE_STD, Shape
from mfa_fast.experiments.throughput import Workbench

QUICK = os.environ.get("MFA_BENCH_QUICK", "0") not in ("", "0")
DATA = os.environ.get("MFA_FAST_DATA") or None
BENCH = Workbench(quick=QUICK, data=DATA)
REPEATS = 3 if QUICK else 7

DTYPE_NAMES = {np.dtype(dtype).name: dtype for dtype in DTYPES}

# Name in the reports, and the arguments of Workbench.problem after the dtype.
SCORED = {
    "fitted": ("fitted", {}),
    "symmetric": ("symmetric", {}),
    "smooth": ("smooth", {"shape_name": "faces"}),
    **{f"nested-{std:g}": ("nested", {"noise_std": std}) for std in NESTED_NOISE_STDS},
}
DENSE = {
    f"{shape}-{std:g}": ("random", {"shape_name": shape, "noise_std": std})
    for shape in ("mnist-25", "faces", "small")
    for std in (SYMMETRIC_NOISE_STD, 1.0)
}

# Which of DENSE peers are measured on too, and as many rows as they get through in time.
PEERS = {
    "mnist-25-0.001": 2_000,
    "mnist-25-1": 2_000,
    "faces-0.001": 100,
    "small-0.001": 20_000,
}

# Scaling: each varied alone, the others as here.
SCALING_BASE = {"n": 4_000, "d": 512, "K": 16, "L": 5}
SCALING_FACTORS = (0.5, 1, 2) if QUICK else (0.5, 1, 2, 4, 8)
SCALING_FLOPS = 4e9  # at least so many are timed at a time, so that waking the threads does not count

# What bench/device.py measures a CUDA device on: rows enough to keep it busy for milliseconds. Of the targets,
# `bandwidth` (the part of a copy's, counting X once; for samples of a fill's) and `dense` (how many times faster than
# the dense evaluation) are the least, `passes` (time in scoring passes over the same rows) the most. A task
# without any is measured all the same.
DEVICE_SHAPES = {
    "symmetric": Shape("faces-160", 12_288, 160, 10, 200_000),
    "fitted": Shape("mnist-fit", 784, 50, 6, 2_000_000),
    "attacked": Shape("mnist-25", 784, 25, 6, 500_000),
    "nearest": Shape("mnist-25", 784, 25, 6, 20_000),
    "drawn": Shape("mnist-25", 784, 25, 6, 2_000_000),
}
DEVICE_DENSE_BYTES = 1 << 30  # of differences between rows and means, which the dense evaluation holds at a time
DEVICE_QUICK_ROWS = 1_000  # of each of them in the quick mode
DEVICE_TARGETS = {
    "score, symmetric": {"bandwidth": 0.40, "dense": 50.0},
    "score, fitted": {"bandwidth": 0.25, "dense": 50.0},
    "EM iteration": {"passes": 2.5},
    "EM, after that": {"passes": 2.5},
    "EM, mean of ten": {"passes": 2.5},
    "LD-Grad, 3 steps": {"passes": 2.5},
    "nearest": {},
    "sample": {"bandwidth": 0.50},
}

__all__ = [
    "BENCH",
    "DENSE",
    "DEVICE_DENSE_BYTES",
    "DEVICE_QUICK_ROWS",
    "DEVICE_SHAPES",
    "DEVICE_TARGETS",
    "DTYPE_NAMES",
    "PEERS",
    "QUICK",
    "REPEATS",
    "SCALING_BASE",
    "SCALING_FACTORS",
    "SCALING_FLOPS",
    "SCORED",
    "SHAPES",
]


@lru_cache(maxsize=1)
def problem(name, dtype):
    """Make one of SCORED or DENSE; the last one is kept, for the peers that come after each other."""
    kind, options = {**SCORED, **DENSE}[name]
    return BENCH.problem(kind, dtype, **options)
