"""LD-Grad: 3 steps against a scoring pass of both classes, 10 steps against 3."""

import numpy as np
import pytest

import reference
import shapes
import tolerances
from mfa_fast.experiments.problems import ATTACK_STEPS
from mfa_fast.experiments.tasks import attack_task
from models import mixtures_of

N_COMPARED = 4


@pytest.mark.parametrize("steps", ATTACK_STEPS)
def test_ld_grad(paired, steps, dtype):
    classifier, problem, labels = shapes.BENCH.attack_problem(dtype)
    found = paired(attack_task(classifier, problem, labels, steps))
    assert found.success.all()
    mixtures = mixtures_of(classifier)
    X, y = problem.X[:N_COMPARED], labels[:N_COMPARED]
    expected, success, n_steps = reference.ld_grad(X, y, mixtures, [0.5, 0.5], steps=steps)
    assert success.all()
    assert np.array_equal(found.n_steps[:N_COMPARED], n_steps)
    moved = np.linalg.norm((expected - X).astype(float), axis=1)
    off = np.linalg.norm((found.X_adv[:N_COMPARED] - expected).astype(float), axis=1)
    assert np.max(off / moved) <= tolerances.ATTACK[np.dtype(dtype)]
