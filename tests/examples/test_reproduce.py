"""`mfa-fast reproduce` from the outside: every figure and table, on budgets of seconds."""

import csv
import json
import os
import pickle
import re
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

pytest.importorskip("typer")
pytest.importorskip("matplotlib")

from mfa_fast.cli import main
from mfa_fast.experiments.reproduce.catalogue import EXPERIMENTS
from mfa_fast.experiments.reproduce.cells import RECORD, UNFINISHED, VALUE
from mfa_fast.experiments.reproduce.images import find_image_sets
from mfa_fast.experiments.reproduce.settings import read_settings
from mfa_fast.experiments.reproduce.sweep import absent

TINY = """
max_iter = 5
components = 2
factors = 2
pairs = [[0, 6], [4, 5]]
train_samples = 80
attack_samples = 24
svm_steps = 20
gamma = 0.05
subspace_samples = 30
[network]
width = 2
images = 200
[cw]
samples = 4
iterations = 20
binary_search_steps = 1
learning_rate = 0.1
[fig9]
images = [50, 100]
width = 2
widths = [2, 3]
depths = [8, 12]
sweep_images = 50
[fig10]
noise_stds = [0.001, 0.05]
[fig11]
betas = [0.0, 5.0]
steps = 2
images = 100
[toy]
samples = 60
levels = 4
"""
WITHOUT_NETWORKS = 'classifiers=["bayes", "linear_svm", "rbf_svm"]'


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    """Return the options of a quick sweep whose cells all tests share."""
    folder = tmp_path_factory.mktemp("reproduce")
    (folder / "tiny.toml").write_text(TINY)
    return ["--smoke", "--config", str(folder / "tiny.toml"), "--out", str(folder / "out")], folder


def _needs(name, settings):
    cells = EXPERIMENTS[name].plan(settings, find_image_sets(settings, [])).values()
    return absent(cell for top in cells for cell in (top, *top.inputs))


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
@pytest.mark.parametrize("name", EXPERIMENTS)
def test_every_id_leaves_its_table_and_picture(name, tiny, capsys):
    options, folder = tiny
    settings = read_settings(smoke=True, file=folder / "tiny.toml")
    if needed := _needs(name, settings):
        pytest.skip(f"{name} needs {', '.join(needed)}")
    assert main(["reproduce", name, *options]) == 0
    printed = capsys.readouterr().out
    assert "report.html" in printed
    written = {path.name for path in (folder / "out" / name).iterdir()}
    assert any(entry.endswith(".png") for entry in written)
    tables = [entry for entry in written if entry.endswith(".csv") and entry != "comparison.csv"]
    for table in tables:
        with (folder / "out" / name / table).open(newline="") as file:
            header, *rows = csv.reader(file)
        assert rows and all(len(row) == len(header) for row in rows)
    assert tables
    page = (folder / "out" / name / "report.html").read_text("utf-8")
    _check_page(page)
    assert page.count("data:image/png;base64,") == sum(entry.endswith(".png") for entry in written)
    assert f"mfa-fast reproduce {name}" in page


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
@pytest.mark.parametrize("name", ["fig6", "table1"])
def test_tables_say_which_gamma_the_rbf_svm_was_given(name, tiny, capsys):
    options, folder = tiny
    assert main(["reproduce", name, *options, "--set", WITHOUT_NETWORKS]) == 0
    table = {"fig6": "attacks", "table1": "accuracies"}[name]
    with (folder / "out" / name / f"{table}.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    if name == "table1":
        assert [row["Gamma of the RBF SVM"] for row in rows] == ["0.05", "0.05"]
    else:
        assert [row["Classifier"] for row in rows] == 2 * ["Bayes-optimal", "Linear SVM", "RBF SVM, gamma 0.05"]


def _check_page(page):
    text = re.sub(r"base64,[^\"]*", "", page)
    assert "http" not in text and "@import" not in text and "url(" not in text
    assert not re.search(r"\$\w+", text)  # every word filled in
    assert "nan" not in re.sub(r"<style>.*</style>", "", text, flags=re.DOTALL).lower().split()


def test_all_on_one_page_and_nothing_done_twice(tiny, capsys):
    options, folder = tiny
    settings = read_settings(smoke=True, file=folder / "tiny.toml")
    for name in EXPERIMENTS:
        if not _needs(name, settings):
            assert main(["reproduce", name, *options]) == 0
    before = _done(folder / "out")
    capsys.readouterr()
    assert main(["reproduce", "all", *options]) == 0
    printed = capsys.readouterr().out
    assert _done(folder / "out") == before
    page = (folder / "out" / "all" / "report.html").read_text("utf-8")
    _check_page(page)
    for name in EXPERIMENTS:
        needed = _needs(name, settings)
        assert (f'id="{name}"' in page) == (not needed)
        assert (f"Left out: {name}" in printed) == bool(needed)


def _done(out):
    """Return when each finished cell was written."""
    return {path.name: path.stat().st_mtime_ns for path in (out / "cells").glob(f"*/{RECORD}")} | {
        path.parent.name: path.stat().st_mtime_ns for path in (out / "cells").glob(f"*/{VALUE}")
    }


def test_without_torch_all_says_what_it_leaves_out(tiny, capsys, monkeypatch, tmp_path):
    options, _ = tiny
    monkeypatch.setattr("mfa_fast.experiments.reproduce.sweep._is_installed", lambda package: package != "torch")
    assert main(["reproduce", "all", *options[:3], "--out", str(tmp_path / "out"), "--dry-run"]) == 0
    printed = capsys.readouterr().out
    for name in ("fig6", "fig9", "fig10", "fig11", "fig12", "table1", "table2", "cifar", "exact"):
        assert f"Left out: {name} needs torch" in printed
    assert 'pip install "mfa_fast[torch]"' in printed
    assert "Left out: fig2" not in printed
    assert main(["reproduce", "fig9", *options]) == 2
    error = capsys.readouterr().err
    assert "fig9 needs torch" in error and 'pip install "mfa_fast[torch]"' in error
    assert main(["reproduce", "fig6", *options, "--set", WITHOUT_NETWORKS, "--dry-run"]) == 0


def test_without_torch_and_foolbox_one_command_brings_both(tiny, capsys, monkeypatch):
    monkeypatch.setattr("mfa_fast.experiments.reproduce.sweep._is_installed", lambda package: False)
    assert main(["reproduce", "exact", *tiny[0]]) == 2
    assert capsys.readouterr().err.endswith(': pip install "mfa_fast[torch,attacks]"\n')


# Data of users, in the official layouts.


@pytest.fixture(scope="module")
def celeba(tmp_path_factory):
    """Write faces that are brighter above, or below, by attribute."""
    image = pytest.importorskip("PIL.Image")
    folder, rng = tmp_path_factory.mktemp("celeba"), np.random.default_rng(0)
    (folder / "img_align_celeba").mkdir()
    names = [f"{i:06d}.jpg" for i in range(1, 101)]
    male = rng.integers(0, 2, len(names))
    for name, above in zip(names, male, strict=True):
        pixels = rng.integers(60, 120, (12, 12, 3), dtype=np.uint8)
        pixels[:6] += 100 * np.uint8(above)
        pixels[6:] += 100 * np.uint8(1 - above)
        image.fromarray(pixels).resize((178, 218)).save(folder / "img_align_celeba" / name)
    rows = [f"{name} {2 * value - 1:2d}" for name, value in zip(names, male, strict=True)]
    (folder / "list_attr_celeba.txt").write_text("\n".join([str(len(names)), "Male ", *rows]) + "\n")
    parts = [f"{name} {0 if i < 70 else 2}" for i, name in enumerate(names)]
    (folder / "list_eval_partition.txt").write_text("\n".join(parts) + "\n")
    return folder


@pytest.fixture(scope="module")
def cifar(tmp_path_factory):
    """Write two classes, one brighter than the other, and eight more."""
    folder, rng = tmp_path_factory.mktemp("cifar"), np.random.default_rng(0)
    (folder / "cifar-10-batches-py").mkdir()
    for name in (*(f"data_batch_{i}" for i in range(1, 6)), "test_batch"):
        labels = rng.permutation(np.arange(200) % 10)
        pixels = rng.integers(0, 100, (200, 3072)) + 100 * (labels[:, None] == 1)
        batch = {b"data": pixels.astype(np.uint8), b"labels": labels.tolist()}
        (folder / "cifar-10-batches-py" / name).write_bytes(pickle.dumps(batch, protocol=2))
    return folder


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
@pytest.mark.parametrize("name", ["fig4", "fig12", "table2", "cifar", "subspace"])
def test_user_supplied_images(name, celeba, cifar, tiny, tmp_path):
    pytest.importorskip("torch")
    pytest.importorskip("foolbox")
    options = [*tiny[0][:3], "--out", str(tmp_path / "out"), "--data", str(celeba), "--data", str(cifar)]
    sets = ["--set", 'attributes=["Male"]', "--set", "size=8", "--set", 'cifar_pairs=[["airplane", "automobile"]]']
    assert main(["reproduce", name, *options, *sets]) == 0
    page = (tmp_path / "out" / name / "report.html").read_text("utf-8")
    assert ("CIFAR-10 airplane-automobile" if name == "cifar" else "CelebA Male") in page
    assert "was not given" not in page
    with (tmp_path / "out" / name / "comparison.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    with_paper = [row for row in rows if row["Ratio"] != "-"]
    assert with_paper, "the paper has figures for these data"


# Killing a sweep.


def _command(out, jobs):
    return [
        *(sys.executable, "-m", "mfa_fast.cli", "reproduce", "fig6", "--smoke", "--jobs", str(jobs)),
        *("--out", str(out), "--set", WITHOUT_NETWORKS),
    ]


def _finished(out):
    return {path.parent: path.stat().st_mtime_ns for path in out.glob(f"cells/[!.]*/{RECORD}")}


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """Return the folder of a sweep that nothing has interrupted."""
    out = tmp_path_factory.mktemp("whole")
    subprocess.run(_command(out, 1), check=True, capture_output=True, timeout=300)
    return out


@pytest.mark.parametrize("jobs", [1, 2])
def test_a_killed_sweep_goes_on_where_it_was(jobs, whole, tmp_path):
    broken = tmp_path / "broken"
    expected = {path.name for path in _finished(whole)}
    assert len(expected) > 12
    process = subprocess.Popen(_command(broken, jobs), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    while len(_finished(broken)) < 5:
        assert process.poll() is None
        time.sleep(0.002)
    # The process only: its workers have to notice by themselves.
    os.kill(process.pid, signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    _wait_for_workers(broken)
    before = _finished(broken)
    assert 5 <= len(before) < len(expected)
    subprocess.run(_command(broken, jobs), check=True, capture_output=True, timeout=300)
    after = _finished(broken)
    assert {path.name for path in after} == expected  # nothing is lost
    assert {path: after[path] for path in before} == before  # nothing is done twice
    assert not list(broken.glob(f"cells/{UNFINISHED}*"))
    for name in ("attacks.csv", "comparison.csv"):
        assert (broken / "fig6" / name).read_bytes() == (whole / "fig6" / name).read_bytes()


def _wait_for_workers(out, patience=60):
    """Wait until no process of a killed sweep writes here any more."""
    quiet_since, seen = time.monotonic(), None
    deadline = quiet_since + patience
    while time.monotonic() < min(deadline, quiet_since + 3):
        now = sorted(str(path) for path in out.glob("cells/*"))
        if now != seen:
            quiet_since, seen = time.monotonic(), now
        time.sleep(0.05)


# Options.


def fails(capsys, *arguments):
    code = main(["reproduce", *(str(argument) for argument in arguments)])
    lines = [line for line in capsys.readouterr().err.splitlines() if line.strip()]
    assert code == 2 and len(lines) == 1, lines
    assert lines[0].startswith("mfa-fast: error: ")
    return lines[0]


def test_list_names_everything(capsys):
    assert main(["reproduce", "--list"]) == 0
    printed = capsys.readouterr().out
    for name in (*EXPERIMENTS, "all"):
        assert re.search(rf"\b{name}\b", printed)


def test_dry_run_does_nothing(tmp_path, capsys):
    assert main(["reproduce", "fig2", "--dry-run", "--out", str(tmp_path / "out")]) == 0
    assert "8 cells to be done" in capsys.readouterr().out
    assert main(["reproduce", "fig4", "--dry-run", "--out", str(tmp_path / "out")]) == 0
    assert "attack Bayes-optimal with LD-Grad" in capsys.readouterr().out
    assert main(["reproduce", "all", "--dry-run", "--out", str(tmp_path / "out")]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(set(lines)) == len(lines)  # no two cells are said to be the same
    assert not any(tmp_path.iterdir())


def test_real_images_need_a_classifier_that_learns(tmp_path, capsys):
    options = ("--set", 'classifiers=["bayes"]', "--out", tmp_path / "out")
    assert "classifiers" in fails(capsys, "fig12", *options)
    assert main(["reproduce", "all", "--dry-run", *map(str, options)]) == 0
    printed = capsys.readouterr().out
    assert "Left out: fig12 compares classifiers that learn" in printed
    assert "Left out: cifar compares classifiers that learn" in printed


def test_bad_arguments_are_named_before_any_work(tmp_path, capsys):
    assert "name" in fails(capsys)
    assert "fig1" in fails(capsys, "fig1")
    assert "speed" in fails(capsys, "fig2", "--set", "speed=1")
    assert "nowhere" in fails(capsys, "fig6", "--data", tmp_path / "nowhere")
    assert "mine.toml" in fails(capsys, "fig2", "--config", tmp_path / "mine.toml")
    (tmp_path / "fig2").mkdir()
    (tmp_path / "fig2" / "thesis.txt").write_text("precious")
    assert "thesis.txt" in fails(capsys, "fig2", "--out", tmp_path)
    assert not (tmp_path / "cells").exists()
    (tmp_path / "a.npz").write_bytes(b"")
    (tmp_path / "b.npz").write_bytes(b"")
    twice = ("--data", tmp_path / "a.npz", "--data", tmp_path / "b.npz")
    assert "once" in fails(capsys, "fig6", *twice, "--set", WITHOUT_NETWORKS)


def test_the_settings_used_are_written_down(tiny):
    options, folder = tiny
    assert main(["reproduce", "obs1", *options, "--set", "toy.samples=70"]) == 0
    written = json.loads((folder / "out" / "obs1" / "settings.json").read_text())
    assert written["toy"]["samples"] == 70
    assert written["max_iter"] == 5
