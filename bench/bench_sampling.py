"""Samples with noise against NumPy's normal numbers alone, on one generator."""

import shapes
from mfa_fast.experiments.tasks import sample_task


def test_sample(paired, dtype):
    problem = shapes.BENCH.sample_problem(dtype)
    X, labels = paired(sample_task(problem))
    assert X.dtype == dtype
    assert X.shape == problem.X.shape
    assert set(labels) == set(range(problem.shape.n_components))
