"""What attacks return: the results and the figures that are made of them."""

import dataclasses

import numpy as np
import pytest

from attack_cases import problem
from mfa_fast.attacks import AttackResult, ld_grad
from models import classifier_of


def _result():
    mixtures, priors, X, y = problem(noise_std=1.0)
    return ld_grad(classifier_of(mixtures, priors), X, y)


def test_a_result_is_frozen():
    result = _result()
    assert isinstance(result, AttackResult)
    names = {field.name for field in dataclasses.fields(result)}
    wanted = "X_adv l2 success n_steps source target lower_bound certified"
    assert names >= set(wanted.split())
    with pytest.raises(dataclasses.FrozenInstanceError):
        result.l2 = None
    assert result.success.dtype == bool
    assert result.l2.shape == result.success.shape == result.n_steps.shape == (40,)


def test_a_result_is_shown_by_what_it_comes_to():
    result = _result()
    summary = result.summary()
    assert repr(result) == (
        f"AttackResult(n_samples=40, accuracy={summary['accuracy']:.4g}, success_rate={summary['success_rate']:.4g}, "
        f"mean_l2={summary['mean_l2']:.4g}, certified_rate={summary['certified_rate']:.4g})"
    )


def test_security_curve():
    result = _result()
    assert np.any(result.l2 == 0)  # some are wrong from the start
    radii = np.array([0.0, 0.5, 1.0, 2.0, 1e9])
    curve = np.asarray(result.security_curve(radii))
    l2 = np.where(result.success, result.l2, np.inf)
    assert curve == pytest.approx([np.mean(l2 > r) for r in radii])


def test_no_radius_is_large_enough_for_an_attack_that_failed():
    mixtures, priors, X, y = problem(noise_std=1.0)
    result = ld_grad(classifier_of(mixtures, priors), X, y, steps=0)
    assert result.security_curve([np.inf]) == result.summary()["adversarial_accuracy"]


@pytest.mark.parametrize("radii", [None, "wide", [1.0, np.nan], [[1.0, 2.0]]])
def test_radii_that_are_none(radii):
    result = _result()
    for curve in (result.security_curve, result.certified_curve):
        with pytest.raises(ValueError, match="radii"):
            curve(radii)


def test_results_compare_by_identity():
    result = _result()
    assert result == result
    assert result != _result()


def test_summary():
    result = _result()
    right = result.n_steps > 0  # what was wrong from the start needs no attack and says nothing of it
    assert not right.all()
    l2 = np.where(result.success, result.l2, np.inf)[right]
    summary = result.summary()
    assert summary["accuracy"] == pytest.approx(right.mean())
    assert summary["success_rate"] == pytest.approx(np.isfinite(l2).mean())
    assert summary["mean_l2"] == pytest.approx(l2[np.isfinite(l2)].mean())
    assert summary["median_l2"] == pytest.approx(np.median(l2))
