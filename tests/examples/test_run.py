"""The command `mfa-fast run`: the main job on the bundled digits, its report, and where that may be written."""

import csv
import json
import os
import re
import sys

import numpy as np
import pytest
from sklearn.datasets import load_digits

pytest.importorskip("typer")
pytest.importorskip("matplotlib")

from command_line import N_ATTACKED, QUICK, command, fails
from mfa_fast.cli import main

MODELS = ["bayes_symmetric", "bayes_asymmetric", "linear_svm", "rbf_svm"]
# The tables have one row more, the pictures have not.
ROWS = [*MODELS[:2], "bayes_asymmetric_same_noise", *MODELS[2:]]


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    """Return the folder of one quick run, made by the installed command in a process of its own."""
    folder = tmp_path_factory.mktemp("cli") / "deep" / "report"
    done = command("run", *QUICK, "--out", str(folder))
    assert done.returncode == 0, done.stderr
    return folder, done.stdout


def read_csv(path):
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def test_run_writes_every_file(report):
    folder, printed = report
    names = {path.name for path in folder.iterdir()}
    images = {f"adversarial-{key.replace('_', '-')}.png" for key in MODELS}
    images |= {"samples.png", "histograms.png", "mean-l2.png", "accuracy-under-attack.png"}
    tables = {"config.json", "manifest.json", "summary.json", "summary.csv", "samples.csv", "report.html"}
    assert names == images | tables
    for name in images:
        assert (folder / name).read_bytes().startswith(b"\x89PNG\r\n")
    assert "Bayes, symmetric" in printed and "report.html" in printed
    assert [path.name for path in folder.parent.iterdir()] == [folder.name]  # no scratch left


def test_tables_agree_with_each_other(report):
    folder, _ = report
    summary = {row["model"]: row for row in read_csv(folder / "summary.csv")}
    assert list(summary) == ROWS
    samples = read_csv(folder / "samples.csv")
    assert len(samples) == len(ROWS) * N_ATTACKED
    for record in json.loads((folder / "summary.json").read_text())["models"]:
        rows = [row for row in samples if row["model"] == record["model"]]
        correct = [row for row in rows if row["label"] == row["predicted"]]
        flipped = [float(row["l2"]) for row in correct if row["success"] == "True"]
        assert record["accuracy"] == pytest.approx(len(correct) / len(rows))
        assert record["success_rate"] == pytest.approx(len(flipped) / len(correct))
        assert record["mean_l2"] == pytest.approx(np.mean(flipped), rel=1e-5)
        assert float(summary[record["model"]]["mean_l2"]) == pytest.approx(record["mean_l2"])


def test_the_exact_radius_stands_beside_every_attack(report):
    folder, printed = report
    samples = read_csv(folder / "samples.csv")
    for record in json.loads((folder / "summary.json").read_text())["models"]:
        rows = [row for row in samples if row["model"] == record["model"] and row["label"] == row["predicted"]]
        bounds, nearest, found = (
            np.array([float(row[name]) for row in rows]) for name in ("lower_bound", "nearest_l2", "l2")
        )
        success = np.array([row["success"] == "True" for row in rows])
        assert np.all(bounds <= nearest)
        assert np.all(nearest[success] <= found[success])
        assert record["nearest_mean_lower_bound"] == pytest.approx(bounds.mean(), rel=1e-5)
        certified = np.mean([row["certified"] == "True" for row in rows])
        assert record["certified_rate"] == pytest.approx(certified)
        if record["model"] == "rbf_svm":
            assert certified < 1
        else:
            assert certified == 1
    page = (folder / "report.html").read_text("utf-8")
    assert "How near is the nearest adversarial image?" in page
    assert "Too far" in page and "Too far" in printed


def test_symmetric_is_robust_and_asymmetric_is_not(report):
    folder, _ = report
    records = json.loads((folder / "summary.json").read_text())["models"]
    found = {record["model"]: record for record in records}
    assert found["bayes_symmetric"]["accuracy"] == 1
    assert found["bayes_symmetric"]["success_rate"] == 1
    assert found["bayes_symmetric"]["mean_l2"] > 2 * found["bayes_asymmetric"]["mean_l2"]
    assert found["bayes_symmetric"]["mean_l2"] > found["linear_svm"]["mean_l2"]


def test_config_is_resolved(report):
    folder, _ = report
    written = json.loads((folder / "config.json").read_text())
    assert written["config"]["components"] == 5
    assert written["config"]["factors"] == 4
    assert written["config"]["max_iter"] == 20
    assert {"mfa_fast", "numpy", "scikit-learn", "python"} <= set(written["versions"])


def test_report_is_self_contained(report):
    folder, _ = report
    page = (folder / "report.html").read_text("utf-8")
    sources = re.findall(r"""(?:src|href)\s*=\s*["']([^"']*)""", page)
    assert len(sources) == 8
    assert all(source.startswith("data:image/png;base64,") for source in sources)
    assert "http" not in re.sub(r"base64,[^\"]*", "", page)
    assert "@import" not in page and "url(" not in page
    assert not re.search(r"\$\w+", re.sub(r"base64,[^\"]*", "", page))  # every word filled in


def test_a_run_replaces_an_earlier_one_and_nothing_else(report, tmp_path, capsys):
    folder, _ = report
    before = (folder / "summary.csv").read_text()
    assert main(["run", *QUICK, "--gamma", "0.1", "--out", str(folder)]) == 0
    after = (folder / "summary.csv").read_text()
    assert _without_times(before)[:3] == _without_times(after)[:3]  # only the RBF SVM has changed
    assert "0.1" in (folder / "report.html").read_text("utf-8")
    (tmp_path / "thesis.txt").write_text("precious")
    capsys.readouterr()
    assert "out" in fails(capsys, "run", *QUICK, "--out", tmp_path)
    assert "out" in fails(capsys, "run", *QUICK, "--out", tmp_path / "thesis.txt")
    assert (tmp_path / "thesis.txt").read_text() == "precious"


def _without_times(table):
    return [line.rsplit(",", 2)[0] for line in table.splitlines()[1:]]


def test_too_few_samples_to_train_from(tmp_path, capsys):
    line = fails(capsys, "run", "--train-samples", "1", "--out", tmp_path / "out")
    assert re.search(r"train_samples must be enough to hold both classes; 1 drew class \d alone: use more", line)


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("--noise-std", "-1"),
        ("--noise-std", "nan"),
        ("--gamma", "0"),
        ("--components", "0"),
        ("--components", "many"),
        ("--factors", "64"),
        ("--components", "10000"),
        ("--seed", "-1"),
        ("--seed", str(2**32 - 3)),  # the third seed after it would be none
        ("--no-such-option", "1"),
        ("--pair", "0"),
    ],
)
def test_bad_options(option, value, tmp_path, capsys):
    line = fails(capsys, "run", "--out", tmp_path / "out", option, value)
    assert option.lstrip("-").replace("-", "_") in line.replace("-", "_")
    assert not any(tmp_path.iterdir())


def test_interrupt_has_its_own_code(monkeypatch, capsys):
    def interrupted(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr("mfa_fast._commands.run_main_job", interrupted)
    assert main(["run"]) == 130
    assert capsys.readouterr().err.strip() == "mfa-fast: interrupted"


@pytest.mark.parametrize("marked", ["nothing", "manifest"])
def test_a_folder_of_somebody_else_survives(marked, report, tmp_path, capsys):
    theirs = {"config.json": b"{}", "weights.bin": b"precious"}
    if marked == "manifest":  # a report to which something has been added
        theirs["manifest.json"] = (report[0] / "manifest.json").read_bytes()
    for name, content in theirs.items():
        (tmp_path / name).write_bytes(content)
    line = fails(capsys, "run", *QUICK, "--out", tmp_path)
    assert str(tmp_path) in line and "name a new" in line
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == theirs


def test_a_report_goes_into_the_folder_one_is_in(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for _ in range(2):
        assert main(["run", *QUICK, "--gamma", "0.1", "--out", "."]) == 0
        assert (tmp_path / "report.html").is_file()


def test_a_folder_inside_a_file_is_refused_before_the_work(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("mfa_fast._commands.run_main_job", None)
    (tmp_path / "thesis.txt").write_text("precious")
    assert "thesis.txt" in fails(capsys, "run", "--out", tmp_path / "thesis.txt" / "report")


def test_asymmetric_rows_say_their_noise(report, tmp_path):
    folder, printed = report
    summary = {row["model"]: row for row in read_csv(folder / "summary.csv")}
    page = (folder / "report.html").read_text("utf-8")
    for key, noise in (("bayes_asymmetric", "0.01"), ("bayes_asymmetric_same_noise", "0.001")):
        title = f"Bayes, asymmetric, noise {noise}"
        assert summary[key]["title"] == title
        assert float(summary[key]["noise_std"]) == float(noise)
        assert title in page
        assert f"  noise {noise} " in printed
    lower = float(summary["bayes_asymmetric_same_noise"]["mean_l2"])
    assert lower < float(summary["bayes_asymmetric"]["mean_l2"])
    assert "no pictures" in page
    shares = {float(row[name]) for row in summary.values() for name in ("accuracy", "success_rate")}
    assert all(("100 %" if share == 1 else f"{100 * share:.1f} %") in printed for share in shares)
    assert "…" not in printed  # nothing is cut short on 80 columns

    once = tmp_path / "once"
    assert main(["run", *QUICK, "--gamma", "0.1", "--noise-std", "0.01", "--out", str(once)]) == 0
    assert [row["model"] for row in read_csv(once / "summary.csv")] == MODELS
    assert "no pictures" not in (once / "report.html").read_text("utf-8")


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere file systems take no such names")
def test_the_name_of_the_data_need_not_be_text(tmp_path):
    digits = load_digits()
    folder, out = tmp_path / os.fsdecode(b"caf\xe9"), tmp_path / "report"
    folder.mkdir()
    images = (15 * digits.images).astype(np.uint8)
    arrays = {"x_train": images, "y_train": digits.target, "x_test": images, "y_test": digits.target}
    np.savez(folder / "mnist.npz", **arrays)
    asked = ["--data", str(folder), "--components", "2", "--factors", "2", "--gamma", "0.1"]
    assert main(["run", *QUICK, *asked, "--out", str(out)]) == 0
    assert r"caf\udce9" in (out / "report.html").read_text("utf-8")
