"""Every figure and table of the paper, by the name that `mfa-fast reproduce` knows it under.

Figures have the numbers of the paper's first version (ICLR 2020 submission), which are others than in JMLR.
"""

from mfa_fast.experiments.reproduce.adversarial_training import FIGURE_11
from mfa_fast.experiments.reproduce.asymmetry import asymmetry
from mfa_fast.experiments.reproduce.bounds import SUBSPACE
from mfa_fast.experiments.reproduce.exact import EXACT
from mfa_fast.experiments.reproduce.experiment import Experiment
from mfa_fast.experiments.reproduce.helix import plan_figure_8, report_figure_8
from mfa_fast.experiments.reproduce.larger_networks import FIGURE_9
from mfa_fast.experiments.reproduce.noise_levels import FIGURE_10
from mfa_fast.experiments.reproduce.observations import (
    plan_observation_1,
    plan_observation_3,
    report_observation_1,
    report_observation_3,
)
from mfa_fast.experiments.reproduce.plane import plan_figure_2, plan_figure_5, report_figure_2, report_figure_5
from mfa_fast.experiments.reproduce.real_images import CIFAR, FIGURE_12, TABLE_2
from mfa_fast.experiments.reproduce.symmetric_sets import FIGURE_6, TABLE_1, samples_figure

# In the order of the paper.
_EXPERIMENTS = (
    Experiment("fig2", "Distributions in the plane, and their boundaries", plan_figure_2, report_figure_2),
    Experiment("obs1", "Observation 1: distance as a variance goes to 0", plan_observation_1, report_observation_1),
    Experiment("obs3", "Observation 3: one quantisation level away", plan_observation_3, report_observation_3),
    asymmetry(
        "fig4",
        "Symmetric and asymmetric data",
        lambda images: images.wanted_or("Male", stand_in=0),
        ("CelebA Male",),
    ),
    Experiment("fig5", "Two reasons for being brittle", plan_figure_5, report_figure_5),
    FIGURE_6,
    asymmetry(
        "fig7",
        "Symmetric and asymmetric data, further sets",
        lambda images: images.wanted("Smiling", "0-6") or images.modelled[:1],
        ("CelebA Smiling", "MNIST 0-6"),
    ),
    Experiment("fig8", "A mixture of factor analyzers on a helix", plan_figure_8, report_figure_8),
    FIGURE_9,
    FIGURE_10,
    FIGURE_11,
    FIGURE_12,
    samples_figure("fig13", "Smiling", 0),
    samples_figure("fig14", "Eyeglasses", 1),
    samples_figure("fig15", "No_Beard", 2),
    samples_figure("fig16", "Heavy_Makeup", 3),
    samples_figure("fig17", "0-6", 0),
    samples_figure("fig18", "4-5", 2),
    TABLE_1,
    TABLE_2,
    CIFAR,
    SUBSPACE,
    EXACT,
)
EXPERIMENTS: dict[str, Experiment] = {experiment.name: experiment for experiment in _EXPERIMENTS}
ALL = "all"


def find_experiments(name: str) -> list[Experiment]:
    """Return the experiment of a name, or all of them.

    Raises
    ------
    ValueError
        If there is none of that name.
    """
    if name == ALL:
        return list(EXPERIMENTS.values())
    if name not in EXPERIMENTS:
        msg = f"name must be one of {', '.join(EXPERIMENTS)} or {ALL}; got {name!r}"
        raise ValueError(msg)
    return [EXPERIMENTS[name]]
