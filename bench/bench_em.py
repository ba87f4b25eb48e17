"""One EM iteration on digits against the dense matrix product of as many rows."""

import numpy as np

import reference
import shapes
import tolerances
from mfa_fast.experiments.tasks import em_task


def test_em_iteration(paired, dtype):
    problem = shapes.BENCH.em_problem(dtype)
    model = paired(em_task(problem))
    # The floor of the noise is far below what is fitted, and does not matter.
    names = ("weights_", "means_", "loadings_", "noise_variance_")
    start = reference.Parameters(*(getattr(problem.model, name).astype(np.float64) for name in names))
    expected, _ = reference.em_step(problem.X, start)
    tolerance = tolerances.EM_PARAMETERS_FLOAT32 if dtype == np.float32 else tolerances.EM_PARAMETERS
    for name, value in zip(names, expected, strict=True):
        assert tolerances.scaled_error(getattr(model, name), value) <= tolerance, name
