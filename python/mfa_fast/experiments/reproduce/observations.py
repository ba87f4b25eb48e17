"""Observations 1 and 3 as curves: how near the boundary comes, in closed form and as measured."""

from __future__ import annotations

from dataclasses import dataclass
from typing import cast

import numpy as np
from matplotlib.figure import Figure
from scipy.stats import norm

from mfa_fast import MFA, MFAClassifier
from mfa_fast._typing import Array
from mfa_fast.attacks import ld_grad
from mfa_fast.datasets.toys import N_LEVELS, DiscreteToy
from mfa_fast.experiments.pictures import COLOURS, plain_axes, png
from mfa_fast.experiments.reproduce.cells import Cell, Context
from mfa_fast.experiments.reproduce.comparison import claim
from mfa_fast.experiments.reproduce.experiment import Plan, Results
from mfa_fast.experiments.reproduce.images import ImageSets
from mfa_fast.experiments.reproduce.report import DataTable, Picture, Report
from mfa_fast.experiments.reproduce.settings import Settings

# Observation 1: class 0 is N(0, diag(sigma^2, 1)), class 1 is N((OTHER_MEAN, 0), I).
OTHER_MEAN = 3.0
# Observation 3: the second feature is a quantised Gaussian in both classes, in levels; the first is constant in class 0
# but for a probability that goes to 0, and uniform in class 1.
MEANS, STD = (30.0, 70.0), 8.0
CONSTANT = 40
SOURCE = "ICLR 2020 submission, observation "


@dataclass(frozen=True)
class Curve:
    """A quantity over what goes to 0, in closed form and as measured on samples."""

    places: Array
    closed_form: Array
    measured: Array

    @property
    def largest_difference(self) -> float:
        """The largest absolute difference between the two."""
        return float(np.max(np.abs(self.measured - self.closed_form)))


@dataclass(frozen=True)
class Observation1(Cell):
    """Mean distance to the boundary as the variance of class 0 along one direction goes to 0."""

    samples: int
    levels: int
    root_seed: int

    @property
    def title(self) -> str:
        """What a progress bar says."""
        return "observation 1"

    def compute(self, context: Context) -> Curve:
        """Measure with LD-Grad, which is exact where only one direction counts."""
        sigmas = np.geomspace(1.0, 1e-4, self.levels)
        seed = self.seed(self.root_seed, "samples")
        measured = [_measured_distance(sigma, self.samples, seed) for sigma in sigmas]
        return Curve(sigmas, np.array([closed_form_distance(sigma) for sigma in sigmas]), np.array(measured))


def _measured_distance(sigma: float, samples: int, seed: int) -> float:
    narrow = MFA.from_parameters([1.0], [[0.0, 0.0]], [[[0.0, np.sqrt(max(0.0, 1 - sigma**2))]]], sigma**2)
    wide = MFA.from_parameters([1.0], [[OTHER_MEAN, 0.0]], np.zeros((1, 1, 2)), 1.0)
    X, _ = narrow.sample(samples, random_state=seed)
    attack = ld_grad(MFAClassifier.from_mixtures([narrow, wide]), X, np.zeros(samples, np.int64), steps=10)
    return attack.summary()["mean_l2"]


def closed_form_distance(sigma: float) -> float:
    """Return the mean distance to the boundary of the correctly classified samples of class 0.

    Along the first direction the boundary is where the two densities are equal, at two points (one, if sigma is 1)
    between which class 0 is decided for; the other direction tells nothing. So the distance is that to the nearer of
    the two, and its mean over a normal distribution is made of its density and distribution function.
    """
    if sigma == 1.0:
        boundary = OTHER_MEAN / 2
        inside = norm.cdf(boundary)
        return float(boundary + norm.pdf(boundary) / inside)
    # (t / sigma)^2 - (t - OTHER_MEAN)^2 + 2 log(sigma) = 0
    a, b, c = sigma**-2 - 1, 2 * OTHER_MEAN, 2 * np.log(sigma) - OTHER_MEAN**2
    root = np.sqrt(b**2 - 4 * a * c)
    middle, half = -b / (2 * a), root / (2 * a)
    left, centre, right = ((middle + step * half) / sigma for step in (-1, 0, 1))
    # E |t - middle| over both halves, from the integrals of t and of 1.
    below = (middle * (norm.cdf(centre) - norm.cdf(left))) + sigma * (norm.pdf(centre) - norm.pdf(left))
    above = sigma * (norm.pdf(centre) - norm.pdf(right)) - middle * (norm.cdf(right) - norm.cdf(centre))
    return float(half - (below + above) / (norm.cdf(right) - norm.cdf(left)))


@dataclass(frozen=True)
class Observation3(Cell):
    """Share of class 0 that is one quantisation level from the boundary, as one feature becomes constant in it."""

    samples: int
    levels: int
    root_seed: int

    @property
    def title(self) -> str:
        """What a progress bar says."""
        return "observation 3"

    def compute(self, context: Context) -> Curve:
        """Count samples that another level of the first feature makes one of class 1."""
        rests = np.geomspace(0.5, 1e-12, self.levels)
        seed = self.seed(self.root_seed, "samples")
        measured = [_measured_share(rest, self.samples, seed) for rest in rests]
        return Curve(rests, np.array([closed_form_share(rest) for rest in rests]), np.array(measured))


def _measured_share(rest: float, samples: int, seed: int) -> float:
    levels = np.arange(N_LEVELS)
    first = np.full(N_LEVELS, rest / (N_LEVELS - 1))
    first[CONSTANT] = 1 - rest
    firsts = (first, np.full(N_LEVELS, 1 / N_LEVELS))
    seconds = [norm.pdf(levels, mean, STD) for mean in MEANS]
    tables = [np.multiply.outer(a, b / b.sum()) for a, b in zip(firsts, seconds, strict=True)]
    toy = DiscreteToy(np.stack(tables), levels)
    features, y = toy.sample(2 * samples, random_state=seed)
    right = features[(y == 0) & (toy.predict(features) == 0)]
    neighbours = [right + step for step in ([1, 0], [-1, 0])]
    flipped = [toy.predict(np.clip(neighbour, 0, N_LEVELS - 1)) == 1 for neighbour in neighbours]
    return float(np.mean(np.any(flipped, axis=0)))


def closed_form_share(rest: float) -> float:
    """Return the share of class 0, of its constant level and classified correctly, that is one level from class 1.

    The densities at another level of the first feature are equal where the second feature, whose log-ratio is linear,
    has a certain value; beyond it, samples are one level from class 1, up to where they are of class 1 anyway.
    """
    middle, gap = sum(MEANS) / 2, MEANS[1] - MEANS[0]

    def crossing(ratio: float) -> float:
        # With half a level, as levels beyond count whole.
        return float(np.ceil(middle + STD**2 / gap * np.log(ratio)) - 0.5)

    near = crossing(rest / (N_LEVELS - 1) * N_LEVELS)
    wrong = crossing((1 - rest) * N_LEVELS)
    inside = norm.cdf(wrong, MEANS[0], STD)
    return float(max(0.0, inside - norm.cdf(near, MEANS[0], STD)) / inside)


def plan_observation_1(settings: Settings, images: ImageSets) -> Plan:
    """Return the cell of the curve."""
    return {"curve": Observation1(settings.toy.samples, settings.toy.levels, settings.seed)}


def report_observation_1(settings: Settings, images: ImageSets, results: Results) -> Report:
    """Return what observation 1 says, and what came out."""
    curve = cast(Curve, results["curve"])
    relative = float(np.max(np.abs(curve.measured / curve.closed_form - 1)))
    picture = _picture(
        curve, "Standard deviation of class 0 along one direction", "Mean distance to the boundary", True
    )
    return Report(
        name="obs1",
        title="Observation 1: the boundary comes arbitrarily near",
        summary=(
            f"As the least standard deviation of class 0 falls from {curve.places[0]:g} to {curve.places[-1]:g}, the "
            f"mean distance of its samples to the best classifier's boundary falls from {curve.measured[0]:.2f} to "
            f"{curve.measured[-1]:.2g}."
        ),
        paragraphs=(
            "Class 0 is a Gaussian of variance 1 but for one direction, along which its variance goes to 0; class 1 is "
            "a spherical Gaussian of variance 1, three standard deviations away along the same direction. The closed "
            "form follows from the two points at which the densities are equal (equation 1 of the paper).",
        ),
        tables=(_table(curve, "Standard deviation", "Mean distance"),),
        pictures=(
            Picture("curve", picture, "Mean distance to the boundary: closed form (line) and measured (points)."),
        ),
        comparisons=(
            claim(
                "Mean distance as the standard deviation goes to 0",
                "tends to 0",
                f"{SOURCE}1",
                f"{curve.measured[-1]:.2g} at {curve.places[-1]:g}",
                bool(curve.measured[-1] < 100 * curve.places[-1] and np.all(np.diff(curve.measured) < 0)),
            ),
            claim(
                "Closed form and measured",
                "equal",
                "equation 1",
                f"within {100 * relative:.1f} % everywhere",
                # The mean over n samples is off by some 1 / sqrt(n) of the spread.
                relative < 5 / np.sqrt(settings.toy.samples),
            ),
        ),
    )


def plan_observation_3(settings: Settings, images: ImageSets) -> Plan:
    """Return the cell of the curve."""
    return {"curve": Observation3(settings.toy.samples, settings.toy.levels, settings.seed)}


def report_observation_3(settings: Settings, images: ImageSets, results: Results) -> Report:
    """Return what observation 3 says, and what came out."""
    curve = cast(Curve, results["curve"])
    shown = Curve(curve.places, 100 * curve.closed_form, 100 * curve.measured)
    picture = _picture(shown, "Probability of all other levels of the feature", "One level from class 1, %", False)
    return Report(
        name="obs3",
        title="Observation 3: one quantisation level away",
        summary=(
            "As one feature becomes constant in class 0, the share of its samples that are one level from class 1 "
            f"rises from {shown.measured[0]:.1f} to {shown.measured[-1]:.1f} %."
        ),
        paragraphs=(
            "Pairs of features, quantised to 100 levels each. In class 0 the first feature has one level, and all "
            "others share a probability that goes to 0; in class 1 all of its levels are as likely. The second feature "
            "is a quantised Gaussian in both, with different means.",
        ),
        tables=(_table(shown, "Probability of other levels", "One level away, %"),),
        pictures=(Picture("curve", picture, "Samples of class 0 that one level more or less makes one of class 1."),),
        comparisons=(
            claim(
                "Share one level from class 1 as the probability goes to 0",
                "almost any point",
                f"{SOURCE}3",
                f"{shown.measured[-1]:.1f} % at {curve.places[-1]:.0e}",
                bool(curve.measured[-1] > 0.99),
            ),
            claim(
                "Closed form and measured",
                "equal",
                "equation 10",
                f"within {100 * curve.largest_difference:.1f} points everywhere",
                curve.largest_difference < 2.5 / np.sqrt(settings.toy.samples),
            ),
        ),
    )


def _picture(curve: Curve, x_label: str, y_label: str, logarithmic: bool) -> bytes:
    figure = Figure(figsize=(8, 4), layout="constrained")
    axes = figure.subplots()
    axes.plot(curve.places, curve.closed_form, color="black", linewidth=1.5, label="closed form")
    axes.plot(curve.places, curve.measured, "o", color=COLOURS["bayes_symmetric"], markersize=7, label="measured")
    axes.set(xscale="log", yscale="log" if logarithmic else "linear", xlabel=x_label, ylabel=y_label)
    axes.invert_xaxis()
    axes.legend(frameon=False)
    plain_axes(axes)
    return png(figure)


def _table(curve: Curve, place: str, quantity: str) -> DataTable:
    rows = zip(curve.places, curve.closed_form, curve.measured, strict=True)
    return DataTable(
        "curve",
        (place, f"{quantity}, closed form", f"{quantity}, measured"),
        tuple((f"{x:.3g}", f"{closed:.4g}", f"{measured:.4g}") for x, closed, measured in rows),
    )
