"""The nearest adversarial example, with its certificate, against a dense scoring pass of the same samples."""

import numpy as np
import pytest

import reference
import shapes
from mfa_fast.attacks import ld_grad
from mfa_fast.experiments.tasks import nearest_task
from models import mixtures_of

N_COMPARED = 4


@pytest.mark.parametrize("rule", ["max", "sum"])
def test_nearest(paired, rule, dtype):
    classifier, problem, labels = shapes.BENCH.attack_problem(dtype)
    found = paired(nearest_task(classifier.set_params(rule=rule), problem, labels))
    assert np.mean(found.certified) >= 0.99
    assert np.all(found.lower_bound <= found.l2)
    assert np.all(found.l2 <= ld_grad(classifier, problem.X, labels, steps=50).l2)
    mixtures = mixtures_of(classifier)
    scores = reference.class_scores(found.X_adv[:N_COMPARED], mixtures, [0.5, 0.5], rule)
    assert np.all(np.argmax(scores, axis=1) != labels[:N_COMPARED])
