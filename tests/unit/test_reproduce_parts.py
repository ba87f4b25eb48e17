"""Settings, verdicts and pieces of experiments, each by itself."""

import io
import math
import os
import sys
from types import SimpleNamespace

import numpy as np
import pytest
from matplotlib.figure import Figure
from rich.console import Console

from mfa_fast import MFA
from mfa_fast.attacks import AttackResult
from mfa_fast.experiments import paper, pictures, tables
from mfa_fast.experiments.reproduce import observations, plane
from mfa_fast.experiments.reproduce.attacked import AttackedModel
from mfa_fast.experiments.reproduce.bounds import distances_to_subspaces
from mfa_fast.experiments.reproduce.catalogue import EXPERIMENTS, find_experiments
from mfa_fast.experiments.reproduce.cells import Context, Store, closure
from mfa_fast.experiments.reproduce.charts import (
    Block,
    Line,
    _draw_bar,
    _ink,
    draw_bars,
    draw_lines,
    draw_sheet,
    legend_below,
)
from mfa_fast.experiments.reproduce.comparison import (
    COLUMNS,
    TEXTS,
    claim,
    compare_distance,
    compare_order,
    compare_share,
)
from mfa_fast.experiments.reproduce.distributions import Real
from mfa_fast.experiments.reproduce.images import ImageSet, ImageSets, find_image_sets
from mfa_fast.experiments.reproduce.larger_networks import compare_sweep
from mfa_fast.experiments.reproduce.learners import Gamma, TrainedRbf
from mfa_fast.experiments.reproduce.robustness import (
    Row,
    _order,
    asymmetric,
    label,
    plan_attacks,
    rows_of,
    symmetric,
)
from mfa_fast.experiments.reproduce.settings import Settings, read_settings

NAMES = (
    *("fig2", "obs1", "obs3", "fig4", "fig5", "fig6", "fig7", "fig8", "fig9", "fig10", "fig11", "fig12"),
    *("fig13", "fig14", "fig15", "fig16", "fig17", "fig18", "table1", "table2", "cifar", "subspace", "exact"),
)


# Settings.


def test_later_settings_win(tmp_path):
    file = tmp_path / "mine.toml"
    file.write_text("attack_samples = 7\npairs = [[1, 2]]\n[fig9]\nwidth = 3\n")
    assert read_settings().train_samples == Settings().train_samples
    assert read_settings(smoke=True).attack_samples < Settings().attack_samples
    settings = read_settings(smoke=True, file=file, changes=["attack_samples=5", "fig9.widths=[2]", "gamma=1"])
    assert settings.attack_samples == 5
    assert settings.pairs == ((1, 2),)
    assert (settings.fig9.width, settings.fig9.widths) == (3, (2,))
    assert settings.gamma == 1.0 and isinstance(settings.gamma, float)


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ("speed=3", "speed"),
        ("fig9.speed=3", "fig9.speed"),
        ("fig9=3", "fig9"),
        ("attack_samples=0", "attack_samples"),
        ("attack_samples=1.5", "attack_samples"),
        ("attack_samples=many", "attack_samples"),
        ("attack_samples=true", "attack_samples"),
        ("noise_std=-1", "noise_std"),
        ("noise_std=nan", "noise_std"),
        ("fig10.noise_stds=[0.1, 0]", "fig10.noise_stds"),
        ("fig11.betas=[-1]", "fig11.betas"),
        ("fig11.betas=[]", "fig11.betas must hold at least one number"),
        ("fig10.noise_stds=[]", "fig10.noise_stds must hold"),
        ("toy.samples=9", "toy.samples must be 10 or more, got 9"),
        ("toy.levels=1", "toy.levels must be 2 or more, got 1"),
        ("fig9.images=[]", "fig9.images must hold"),
        ("fig9.widths=[]", "fig9.widths must hold"),
        ("fig9.depths=[8, 10]", "fig9.depths must be 8 or a larger multiple of 4, .*; got 10"),
        ("fig9.depth=4", "fig9.depth must be 8 or a larger multiple of 4"),
        ("pairs=[[1, 1]]", "pairs"),
        ("pairs=[[1, 2, 3]]", "pairs"),
        ("pairs=[[0, 99]]", "pairs must name two different digits from 0 to 9, got 0 and 99"),
        ("cifar_pairs=[['cat', 'cat']]", "cifar_pairs must name two different"),
        ("cifar_pairs=[['cat', 'dogg']]", "cifar_pairs must name some of .* got 'dogg'"),
        ("pairs=[]", "pairs"),
        ("classifiers=['oracle']", "classifiers"),
        ("seed=-1", "seed"),
        ("attack_samples", "--set must be given as NAME=VALUE"),
    ],
)
def test_bad_settings_are_named(change, word):
    with pytest.raises(ValueError, match=word) as info:
        read_settings(changes=[change])
    assert "\n" not in str(info.value)


def test_a_file_that_is_no_toml_is_named(tmp_path):
    (tmp_path / "broken.toml").write_text("a = = 3")
    with pytest.raises(ValueError, match=r"broken\.toml"):
        read_settings(file=tmp_path / "broken.toml")


# Verdicts.


def test_a_distance_agrees_within_its_tolerance():
    assert compare_distance("x", 3.1, 3.0, "s", 0.15).verdict == "within 4 %"
    assert compare_distance("x", 3.0, 3.0, "s", 0.15).agrees is True
    far = compare_distance("x", 4.5, 3.0, "s", 0.15)
    assert (far.agrees, far.verdict, far.ratio) == (False, "50 % larger", 1.5)
    assert compare_distance("x", 0.3, 3.0, "s", 0.4).verdict == "10.0 times smaller"
    assert compare_distance("x", 0.3, None, "s", 0.4).agrees is None
    assert compare_distance("x", math.nan, 3.0, "s", 0.4).agrees is False


def test_a_share_agrees_within_points():
    assert compare_share("x", 0.97, 1.0, "s", 0.05).verdict == "within 3 points"
    assert compare_share("x", 0.90, 1.0, "s", 0.05).agrees is False
    assert compare_share("x", 0.05, 0.0, "s", 0.05).agrees is True
    assert compare_share("x", 0.05, None, "s", 0.05).agrees is None


def test_an_order_is_judged_on_the_same_data_only():
    theirs = {"a": 3.0, "b": 2.0, "c": 1.0}
    same = compare_order("x", {"c": 0.1, "a": 9.0, "b": 5.0}, theirs, "s", same_data=True)
    assert (same.agrees, same.ours) == (True, "a > b > c")
    other = compare_order("x", {"c": 9.0, "a": 1.0}, theirs, "s", same_data=True)
    assert (other.agrees, other.ours, other.paper) == (False, "c > a", "a > c")
    assert compare_order("x", {"c": 9.0, "a": 1.0}, theirs, "s", same_data=False).agrees is None


def test_no_word_of_a_comparison_is_cut_on_80_columns():
    words = (
        "Spherical Gaussians: median distance, blue class",
        "far where robust, near where vulnerable",
        "",
        "3.9 and 0.48",
    )
    screen = Console(width=80, file=io.StringIO())
    tables.print_table(tables.screen_table("", [claim(*words, True).cells()], COLUMNS, texts=TEXTS), screen)
    printed = screen.file.getvalue()
    assert all(word in printed for word in " ".join((*words, "holds")).split())
    assert max(map(len, printed.splitlines())) <= 80


def test_the_papers_order_is_the_same_on_all_of_its_data():
    sets = [paper.mnist_figures(pair) for pair in ((0, 6), (2, 7), (4, 5))]
    sets += [paper.celeba_figures(name) for name in Settings().attributes]
    for figures in sets:
        heights = [figures[key].mean_l2 for key in ("bayes_symmetric", "rbf_svm", "cnn", "linear_svm")]
        assert heights == sorted(heights, reverse=True)


def test_distances_on_asymmetric_data_are_credited_to_the_figure_that_shows_them():
    assert paper.celeba_figures("Male")["bayes_asymmetric"].source == "ICLR 2020 submission, figure 4"
    assert paper.celeba_figures("Smiling")["bayes_asymmetric"].source == "ICLR 2020 submission, figure 7"
    assert paper.mnist_figures((0, 6))["bayes_asymmetric"].source == "ICLR 2020 submission, figure 7"


def test_an_order_is_credited_to_the_figure_that_shows_it():
    digits = ImageSet("digits", ("0", "6"), None, "none")
    own = {"rbf_svm": 2.0, "cnn": 1.0, "linear_svm": 0.5}
    of_symmetric = _order(symmetric(digits, Settings()), own)
    assert (of_symmetric.source, of_symmetric.agrees) == ("ICLR 2020 submission, figure 6", None)
    of_real = _order(Real(digits, 0), own)
    assert of_real.source == "ICLR 2020 submission, figure 12; JMLR 22(221) 2021, figure 12"
    # These two show that order, on all of their data.
    shown = [{key: figure[0] for key, figure in paper.FIGURE_12.items()}]
    for pair in Settings().cifar_pairs:
        shown.append({key: figure.mean_l2 for key, figure in paper.real_figures(f"CIFAR-10 {'-'.join(pair)}").items()})
    for heights in shown:
        assert sorted(heights, key=heights.get, reverse=True) == ["rbf_svm", "cnn", "linear_svm"]


@pytest.mark.parametrize(
    ("means", "verdicts"),
    [
        ([0.8, 0.9, 0.7], (True, True)),
        ([0.75, 0.98, 1.23, 1.44], (True, False)),  # twice as robust as the first, and still brittle
        ([2.9, 3.0], (False, True)),
        ([0.8, math.nan], (False, False)),
    ],
)
def test_a_gain_is_told_from_robustness(means, verdicts):
    assert tuple(line.agrees for line in compare_sweep("x", means, 3.34)) == verdicts


@pytest.mark.parametrize(("highest", "inside"), [(0.7, True), (5.0, False), (50.0, False)])
def test_labels_of_similar_bars_are_in_similar_places(highest, inside):
    axes = Figure().subplots()
    for x, height in enumerate((0.49, 0.5, 0.48)):
        row = SimpleNamespace(key="linear_svm", mean_l2=height, paper=None, exact_mean=math.nan)
        _draw_bar(axes, row, x, 0.2, highest)
    assert [text.xy[1] == 0 for text in axes.texts] == [inside] * 3
    assert {text.get_color() for text in axes.texts} == {"black"}  # on orange, or on the page
    assert (_ink("#0072B2"), _ink("#000000"), _ink("#ffffff")) == ("white", "white", "black")


def _width_and_names(monkeypatch, rows):
    """Return the width of a chart of bars in inches, and what its legend says."""
    figures = []
    monkeypatch.setattr("mfa_fast.experiments.reproduce.charts.png", lambda figure: figures.append(figure) or b"")
    draw_bars(rows)
    legend = figures[0].axes[0].get_legend()
    return figures[0].get_figwidth(), [text.get_text() for text in legend.get_texts()]


def _row(distribution):
    return Row(distribution, "bayes", SimpleNamespace(mean_l2=1.0), None, 1.0)


def test_rows_say_which_gamma_a_machine_was_given():
    digits = symmetric(ImageSet("digits", ("0", "6"), None, "none"), Settings())
    settings = Settings(classifiers=("linear_svm", "rbf_svm"))
    plan = plan_attacks([digits], settings)
    (gamma,) = (cell for cell in plan.values() if isinstance(cell, Gamma))
    assert gamma.machine == plan[label(digits, "rbf_svm")].model
    trained = TrainedRbf(None, np.float64(0.0220970869), ())
    value = gamma.compute(SimpleNamespace(value={gamma.machine: trained}.get))
    attacked = SimpleNamespace(mean_l2=1.0, summary={"accuracy": 1.0, "adversarial_accuracy": 0.0, "median_l2": 1.0})
    results = {name: value if cell == gamma else attacked for name, cell in plan.items() if "exact" not in name}
    rows = rows_of([digits], settings, results)
    assert [row.cells()[1] for row in rows] == ["Linear SVM", "RBF SVM, gamma 0.0221"]
    assert [row.name for row in rows] == ["Linear SVM", "RBF SVM"]  # in charts and comparisons


def test_bars_of_many_data_sets_stand_in_several_lines(monkeypatch):
    pairs = [ImageSet("digits", (str(k), str(k + 1)), None, "none") for k in range(9)]
    rows = [_row(make(pair, Settings())) for pair in pairs for make in (asymmetric, symmetric)]
    few, _ = _width_and_names(monkeypatch, rows[:10:2])
    many, names = _width_and_names(monkeypatch, rows)
    assert many == few
    assert names == ["Bayes-optimal, asymmetric", "Bayes-optimal, symmetric"]
    assert _width_and_names(monkeypatch, rows[:2:2])[1] == ["Bayes-optimal"]


@pytest.mark.parametrize("n_sets", [1, 5])
def test_a_legend_stands_below_the_curves(n_sets):
    figure = Figure(figsize=(8, 4), layout="constrained")
    axes = figure.subplots()
    names = [f"classifier {k}" for k in range(n_sets)]
    lines = [Line(name, "black", [1, 2], [1, 3], dashed) for name in names for dashed in (False, True)]
    draw_lines(axes, lines, x_label="x", y_label="y")
    legend_below(figure, axes)
    figure.draw_without_rendering()
    (legend,) = figure.legends
    below = legend.get_window_extent()
    assert len(legend.get_texts()) == 2 * n_sets
    assert below.y1 <= axes.get_window_extent().y0
    assert below.y0 >= 0 and below.x0 >= 0 and below.x1 <= figure.bbox.x1


# Closed forms of the observations against numerical integration.


@pytest.mark.parametrize("sigma", [1.0, 0.9, 0.3, 0.01, 1e-4])
def test_closed_form_of_observation_1(sigma):
    t = np.linspace(-12 * sigma, 12 * sigma, 2_000_001)
    density = np.exp(-0.5 * (t / sigma) ** 2)
    gap = -0.5 * (t / sigma) ** 2 - np.log(sigma) + 0.5 * (t - observations.OTHER_MEAN) ** 2
    inside = gap > 0
    edges = t[1:][np.diff(inside.astype(int)) != 0]
    distance = np.min(np.abs(t[:, None] - edges), axis=1)
    expected = np.sum(distance[inside] * density[inside]) / np.sum(density[inside])
    assert observations.closed_form_distance(sigma) == pytest.approx(expected, rel=1e-3)


def test_closed_form_of_observation_3_tends_to_everything():
    shares = [observations.closed_form_share(rest) for rest in (0.5, 1e-3, 1e-6, 1e-9, 1e-12)]
    assert shares == sorted(shares)
    assert shares[0] < 0.05 and shares[-1] > 0.995


# Attacks that found nothing.


def _attacked(n, success):
    """Return n samples, classified correctly, all of which or none an attack has flipped."""
    X, y, found = np.zeros((n, 4)), np.arange(n) % 2, np.full(n, success)
    unknown = np.full(n, -1)
    l2 = np.full(n, 2.0 if success else np.inf)
    result = AttackResult(X + 1.0, l2, found, np.full(n, 3), unknown, unknown, np.ones(n), found)
    return AttackedModel(X, y, y, result)


def _reported(experiment, outcomes):
    """Return an experiment's report of outcomes by what their names end in; of others 1.0."""
    settings = Settings(classifiers=("bayes", "cnn"))
    images = ImageSets((ImageSet("digits", ("0", "6"), None, "none"),), (), ())
    names = EXPERIMENTS[experiment].plan(settings, images)
    results = {name: next((r for end, r in outcomes.items() if name.endswith(end)), 1.0) for name in names}
    return EXPERIMENTS[experiment].report(settings, images, results)


def _texts(report):
    rows = [cell for table in report.tables for row in table.rows for cell in row]
    return [report.summary, *rows, *(line.ours for line in report.comparisons)]


@pytest.mark.parametrize("cw", [_attacked(4, True), _attacked(9, True), _attacked(9, False)])
@pytest.mark.parametrize("ld_grad", [_attacked(6, True), _attacked(6, False)])
def test_attacks_of_any_number_and_success_are_held_against_the_exact_minimum(ld_grad, cw):
    outcomes = {"CW-L2": cw, "LD-Grad": ld_grad, ": cnn": cw, ": bayes": ld_grad, "exact": _attacked(6, True)}
    report = _reported("exact", outcomes)
    assert not any("nan" in text for text in _texts(report))
    flipped = [bool(attack.attack.success.all()) for attack in (ld_grad, cw)]
    assert len(report.comparisons) == 2 * flipped[0] + flipped[1] + all(flipped)
    assert all(line.agrees for line in report.comparisons)


def test_subspaces_are_reported_where_nothing_was_flipped():
    none = _attacked(6, False)
    report = _reported("subspace", {"subspaces": np.ones(6), "attack": none, "exact": none})
    assert not any("nan" in text for text in _texts(report))
    assert report.comparisons == ()


@pytest.mark.filterwarnings("error")
def test_pixels_are_drawn_where_none_has_changed():
    none = _attacked(6, False)
    assert draw_sheet([Block("an attack", "black", none)], (2, 2), shared=False)
    model = SimpleNamespace(**vars(none), key="rbf_svm", title="RBF SVM")
    figure = Figure()
    pictures.pixel_histogram(figure.subplots(), [model])
    assert pictures.png(figure)


# Geometry.


def test_distances_in_the_plane_are_those_to_the_boundary():
    X = np.random.default_rng(0).normal(scale=3, size=(200, 2))
    y = (X[:, 0] > 1).astype(int)
    found = plane._continuous(X, y, y, lambda points: points[:, 0] - 1)
    np.testing.assert_allclose(found.distances, np.abs(X[:, 0] - 1), atol=3e-3)
    circle = plane._continuous(X, y, y, lambda points: np.linalg.norm(points, axis=1) - 4)
    np.testing.assert_allclose(circle.distances, np.abs(np.linalg.norm(X, axis=1) - 4), atol=3e-3)


def test_distances_to_subspaces():
    rng = np.random.default_rng(0)
    means, loadings = rng.normal(size=(3, 7)), rng.normal(size=(3, 2, 7))
    mixture = MFA.from_parameters(np.full(3, 1 / 3), means, loadings, 1e-6)
    X = rng.normal(size=(10, 7))
    found = distances_to_subspaces(mixture, X)
    for k in range(3):
        coefficients, *_ = np.linalg.lstsq(loadings[k].T, (X - means[k]).T, rcond=None)
        expected = np.linalg.norm((X - means[k]).T - loadings[k].T @ coefficients, axis=0)
        np.testing.assert_allclose(found[:, k], expected, rtol=1e-10)


# The catalogue.


def test_every_figure_and_table_has_a_driver():
    assert tuple(sorted(EXPERIMENTS)) == tuple(sorted(NAMES))
    assert len(find_experiments("all")) == len(NAMES)
    with pytest.raises(ValueError, match="fig2"):
        find_experiments("fig1")


def test_what_the_paper_shows_is_said_where_something_else_takes_its_place():
    digits = ImageSet("mnist", ("0", "6"), None, "none")
    images = ImageSets((digits,), (), ())
    assert images.instead_of("MNIST 0-6") == images.instead_of("CelebA Male", "MNIST 0-6") == ()
    assert images.instead_of("CelebA Male") == ("The paper shows CelebA Male, which was not given (see --data).",)
    several = images.instead_of("CelebA Male", "CelebA Smiling", "CelebA Bangs")
    assert several[0].startswith("The paper shows CelebA Male, CelebA Smiling and CelebA Bangs, which were not given")


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere file systems take no such names")
def test_names_in_a_folder_of_images_need_not_be_text(tmp_path):
    (tmp_path / os.fsdecode(b"caf\xe9")).touch()
    fingerprints = {images.fingerprint for images in find_image_sets(Settings(), [tmp_path]).digits}
    (tmp_path / os.fsdecode(b"caf\xe8")).touch()
    assert not fingerprints & {images.fingerprint for images in find_image_sets(Settings(), [tmp_path]).digits}


def test_plans_share_their_cells(tmp_path):
    pytest.importorskip("torch", reason="torch is not installed: the networks' keys have its version")
    settings = Settings()
    images = find_image_sets(settings, [])
    plans = {name: EXPERIMENTS[name].plan(settings, images) for name in NAMES}
    assert set(plans["fig6"].values()) == set(plans["table1"].values())
    assert set(plans["fig17"].values()) < set(plans["fig6"].values())
    keys = [cell.key for cell in closure(cell for plan in plans.values() for cell in plan.values())]
    assert len(keys) == len(set(keys))
    context = Context(Store(tmp_path), 1)
    with pytest.raises(FileNotFoundError):
        context.value(next(iter(plans["fig6"].values())))
