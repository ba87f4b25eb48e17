"""Pieces of the main job, each by itself."""

from dataclasses import replace

import numpy as np
import pytest

pytest.importorskip("rich")
pytest.importorskip("matplotlib")

from mfa_fast.attacks import AttackResult
from mfa_fast.experiments import RunConfig, main_job, models, pictures, tables


def test_highest_gamma_that_keeps_accuracy_and_gradient():
    trial = models.GammaTrial
    trials = [trial(0.1, 0.99, 1.0), trial(1, 1.0, 1.0), trial(2, 0.998, 1.0), trial(4, 1, 0.5)]
    assert models.choose_gamma(trials) == 2
    assert models.choose_gamma([trial(1, 0.9, 1.0), trial(2, 1.0, 0.4), trial(3, 1.0, 0.2)]) == 2


@pytest.mark.parametrize(("largest", "factor"), [(0, 1), (3, 1), (0.9, 1), (0.3, 2), (0.1, 10), (0.004, 200)])
def test_magnification_is_round_and_fits_the_scale(largest, factor):
    assert pictures.magnification(np.array([0, -largest])) == factor


def test_a_failure_far_away_does_not_let_an_attack_seem_nearer_than_the_nearest():
    def found(l2, success, bound):
        zeros = np.zeros(len(l2), np.int64)
        return AttackResult(np.zeros((3, 1)), np.array(l2), np.array(success), zeros + 1, zeros, zeros, bound, zeros)

    attack = found([1.1, 2.2, 50.0], [True, True, False], np.full(3, np.nan))
    nearest = found([1.0, 2.0, 9.0], [True, True, True], np.array([1.0, 2.0, 3.0]))
    assert tables._excess(attack, nearest, np.array([True, True, True])) == "10.0 %"
    assert tables._excess(attack, nearest, np.array([False, False, True])) == "-"


def test_classes_are_drawn_equally_often_however_rare_one_is():
    rng = np.random.default_rng(0)
    X, y = rng.normal(size=(60, 3)), np.repeat([0, 1], [55, 5])
    fitted = models.fit_mixtures(X + 9 * y[:, None], y, 1, 0, max_iter=5, seed=0, n_threads=1)
    np.testing.assert_array_equal(fitted.priors_, [0.5, 0.5])
    np.testing.assert_array_equal(fitted.symmetric(0.01).priors_, [0.5, 0.5])


def test_faces_have_a_component_for_every_thousand_images_of_their_class():
    y = np.repeat([0, 1], [4200, 900])
    config = RunConfig(data=".", attribute="Male")
    assert config.mixture_size(y) == ((4, 1), 10)
    assert replace(config, components=7).mixture_size(y) == (7, 10)
    assert replace(config, components=(4, 1), factors=2).mixture_size(y) == ((4, 1), 2)
    with pytest.raises(ValueError, match=r"^components must be an integer of at least 1; got 0"):
        replace(config, components=(4, 0))
    assert tables.numbers((4, 1)) == "4 and 1"
    assert tables.numbers(7) == "7"


def test_small_images_get_a_principal_direction_that_exists():
    assert models.principal_component(np.zeros((12000, 784))) == 50
    assert models.principal_component(np.zeros((360, 64))) == 16
    assert models.principal_component(np.zeros((5, 64))) == 4
    assert models.principal_component(np.zeros((5, 2))) == 1


def test_the_papers_asymmetric_figure_stands_beside_its_own_noise_only():
    at = {noise: main_job._paper_figures(RunConfig(data=".", asymmetric_noise_std=noise)) for noise in (0.01, 0.001)}
    assert at[0.01]["bayes_asymmetric"].mean_l2 == 0.5
    assert set(at[0.01]) - set(at[0.001]) == {"bayes_asymmetric"}
    assert all("bayes_asymmetric_same_noise" not in figures for figures in at.values())
