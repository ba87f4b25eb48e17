"""Densities, of mixtures and of all components, against the dense matrix product; predictions against scores."""

import pytest

import shapes
from mfa_fast.experiments.tasks import dense_task, predict_task, score_task


@pytest.mark.parametrize("name", shapes.SCORED)
def test_score_samples(paired, name, dtype):
    paired(score_task(shapes.problem(name, dtype), name.partition("-")[0]))


@pytest.mark.parametrize("name", shapes.DENSE)
def test_weighted_log_prob(paired, name, dtype):
    paired(dense_task(shapes.problem(name, dtype)))


def test_predict(paired, dtype):
    paired(predict_task(*shapes.BENCH.attack_problem(dtype)[:2]))
