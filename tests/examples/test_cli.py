"""The command `mfa-fast` from the outside, on the bundled digits."""

import csv
import json
import re
import subprocess
import sys

import numpy as np
import pytest

pytest.importorskip("typer")
pytest.importorskip("matplotlib")

from mfa_fast.cli import main
from mfa_fast.experiments import models, pictures

MODELS = ["bayes_symmetric", "bayes_asymmetric", "linear_svm", "rbf_svm"]
COMMANDS = ["run", "fit", "sample", "score", "attack", "bench", "info"]
N_ATTACKED = 40
QUICK = ["--train-samples", "300", "--attack-samples", str(N_ATTACKED), "--max-iter", "20"]


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    """Return the folder of one quick run, made by the installed command in a process of its own."""
    folder = tmp_path_factory.mktemp("cli") / "deep" / "report"
    done = command("run", *QUICK, "--out", str(folder))
    assert done.returncode == 0, done.stderr
    return folder, done.stdout


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    path = tmp_path_factory.mktemp("model") / "digits.safetensors"
    assert main(["fit", str(path), "--max-iter", "20"]) == 0
    return str(path)


def command(*arguments):
    return subprocess.run(
        [sys.executable, "-m", "mfa_fast.cli", *arguments],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def fails(capsys, *arguments):
    """Return the one line of an expected failure."""
    code = main([str(argument) for argument in arguments])
    captured = capsys.readouterr()
    lines = [line for line in captured.err.splitlines() if line.strip()]
    assert code == 2
    assert len(lines) == 1, captured.err
    assert lines[0].startswith("mfa-fast: error: ")
    assert "Traceback" not in captured.out + captured.err
    return lines[0]


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
    assert list(summary) == MODELS
    samples = read_csv(folder / "samples.csv")
    assert len(samples) == len(MODELS) * N_ATTACKED
    for record in json.loads((folder / "summary.json").read_text())["models"]:
        rows = [row for row in samples if row["model"] == record["model"]]
        correct = [row for row in rows if row["label"] == row["predicted"]]
        flipped = [float(row["l2"]) for row in correct if row["success"] == "True"]
        assert record["accuracy"] == pytest.approx(len(correct) / len(rows))
        assert record["success_rate"] == pytest.approx(len(flipped) / len(correct))
        assert record["mean_l2"] == pytest.approx(np.mean(flipped), rel=1e-5)
        assert float(summary[record["model"]]["mean_l2"]) == pytest.approx(record["mean_l2"])


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
    return [line.rsplit(",", 1)[0] for line in table.splitlines()[1:]]


def test_fit_sample_score_attack(model, tmp_path, capsys):
    drawn, attacked = tmp_path / "drawn.npz", tmp_path / "attacked.npz"
    assert main(["sample", model, "-n", "30", "--seed", "7", "--out", str(drawn)]) == 0
    with np.load(drawn) as content:
        X, y = content["X"], content["y"]
    assert X.shape == (30, 64)
    assert len(np.unique(y)) == 2
    again = tmp_path / "again.npz"
    assert main(["sample", model, "-n", "30", "--seed", "7", "--out", str(again)]) == 0
    with np.load(again) as content:
        np.testing.assert_array_equal(content["X"], X)

    capsys.readouterr()
    assert main(["score", model]) == 0
    printed = capsys.readouterr().out
    assert float(re.search(r"accuracy: (\S+)", printed)[1]) > 0.95
    assert np.isfinite(float(re.search(r"mean log-likelihood: (\S+)", printed)[1]))
    assert main(["score", model, "--data", str(drawn)]) == 0
    assert "samples: 30" in capsys.readouterr().out

    assert main(["attack", model, "--data", str(drawn), "--out", str(attacked)]) == 0
    assert "Mean L2" in capsys.readouterr().out
    with np.load(attacked) as content:
        moved = np.linalg.norm(content["X_adv"] - X, axis=1)
        flipped = content["success"]
        assert flipped.mean() > 0.9
        np.testing.assert_allclose(content["l2"][flipped], moved[flipped], rtol=1e-3)


def test_a_single_mixture_from_an_array(tmp_path, capsys):
    X = np.random.default_rng(0).normal(size=(60, 5)).astype(np.float32)
    data, out = tmp_path / "X.npy", tmp_path / "mixture.safetensors"
    np.save(data, X)
    sizes = ["--components", "2", "--factors", "1"]
    assert main(["fit", str(out), "--data", str(data), *sizes]) == 0
    assert main(["score", str(out), "--data", str(data)]) == 0
    assert "mean log-likelihood" in capsys.readouterr().out
    drawn = tmp_path / "drawn.npz"
    assert main(["sample", str(out), "-n", "3", "--no-noise", "--out", str(drawn)]) == 0
    with np.load(drawn) as content:
        assert sorted(content.files) == ["X", "component"]
    assert "components" in fails(capsys, "fit", out, "--data", data)
    capsys.readouterr()
    assert "MFA" in fails(capsys, "attack", out, "--data", data)


def test_equal_pair(capsys):
    assert "3" in fails(capsys, "run", "--pair", "3", "3")


@pytest.mark.parametrize("where", ["run", "fit"])
def test_missing_data(where, tmp_path, capsys):
    missing = tmp_path / "mnist.npz"
    target = ["--out", tmp_path / "out"] if where == "run" else [tmp_path / "m.safetensors"]
    line = fails(capsys, where, *target, "--data", missing, "--pair", "0", "6")
    assert "mnist.npz" in line
    assert not any(tmp_path.iterdir())


@pytest.mark.parametrize("arguments", [["run"], ["score"], ["score", "--pair", "0", "6"]])
def test_truncated_data(arguments, model, tmp_path, capsys):
    whole, cut = tmp_path / "whole.npz", tmp_path / "cut.npz"
    images = np.zeros((20, 28, 28), np.uint8)
    labels = np.arange(20, dtype=np.uint8) % 10
    np.savez(whole, x_train=images, y_train=labels, x_test=images, y_test=labels)
    cut.write_bytes(whole.read_bytes()[:-300])
    first, *rest = arguments
    line = fails(capsys, first, *([model] if first == "score" else []), *rest, "--data", cut)
    assert "cut.npz" in line


def test_mnist_file_without_pair_names_the_remedy(model, tmp_path, capsys):
    np.savez(tmp_path / "mnist.npz", x_train=np.zeros(3))
    assert "--pair" in fails(capsys, "score", model, "--data", tmp_path / "mnist.npz")


def test_unknown_attribute(tmp_path, capsys):
    (tmp_path / "img_align_celeba").mkdir()
    (tmp_path / "list_attr_celeba.txt").write_text("0\nMale Smiling\n")
    (tmp_path / "list_eval_partition.txt").write_text("")
    line = fails(capsys, "run", "--data", tmp_path, "--attribute", "Grumpy")
    assert "Grumpy" in line
    assert "data" in fails(capsys, "run", "--attribute", "Male")


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
        ("--no-such-option", "1"),
        ("--pair", "0"),
    ],
)
def test_bad_options(option, value, tmp_path, capsys):
    line = fails(capsys, "run", "--out", tmp_path / "out", option, value)
    assert option.lstrip("-").replace("-", "_") in line.replace("-", "_")
    assert not any(tmp_path.iterdir())


def test_model_files_that_are_none(tmp_path, capsys):
    assert "nowhere" in fails(capsys, "score", tmp_path / "nowhere.safetensors")
    broken = tmp_path / "broken.safetensors"
    broken.write_bytes(b"not a model")
    assert "broken" in fails(capsys, "sample", broken)


def test_wrong_number_of_features(model, tmp_path, capsys):
    np.save(tmp_path / "X.npy", np.zeros((4, 3)))
    line = fails(capsys, "score", model, "--data", tmp_path / "X.npy")
    assert "3" in line and "64" in line


@pytest.mark.parametrize("name", COMMANDS)
def test_help(name, capsys):
    assert main([name, "--help"]) == 0
    printed = capsys.readouterr().out
    assert "Usage: mfa-fast " + name in printed
    assert main([]) == 0
    assert name in capsys.readouterr().out


def test_info_and_version(capsys):
    assert main(["info"]) == 0
    assert "mfa_fast" in capsys.readouterr().out
    assert main(["--version"]) == 0
    assert re.match(r"mfa-fast \d", capsys.readouterr().out)


def test_interrupt_has_its_own_code(monkeypatch, capsys):
    def interrupted(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr("mfa_fast._commands.run_main_job", interrupted)
    assert main(["run"]) == 130
    assert capsys.readouterr().err.strip() == "mfa-fast: interrupted"


def test_missing_package_names_the_extra(monkeypatch, capsys):
    for name in [name for name in sys.modules if name.startswith("mfa_fast._commands")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.delattr("mfa_fast._commands", raising=False)
    monkeypatch.setitem(sys.modules, "typer", None)
    assert 'pip install "mfa_fast[experiments]"' in fails(capsys, "info")


def test_highest_gamma_that_keeps_accuracy_and_gradient():
    trial = models.GammaTrial
    trials = [trial(0.1, 0.99, 1.0), trial(1, 1.0, 1.0), trial(2, 0.998, 1.0), trial(4, 1, 0.5)]
    assert models.choose_gamma(trials) == 2
    assert models.choose_gamma([trial(1, 0.9, 1.0), trial(2, 1.0, 0.4), trial(3, 1.0, 0.2)]) == 2


@pytest.mark.parametrize(("largest", "factor"), [(0, 1), (3, 1), (0.9, 1), (0.3, 2), (0.1, 10), (0.004, 200)])
def test_magnification_is_round_and_fits_the_scale(largest, factor):
    assert pictures.magnification(np.array([0, -largest])) == factor


def test_small_images_get_a_principal_direction_that_exists():
    assert models.principal_component(np.zeros((12000, 784))) == 50
    assert models.principal_component(np.zeros((360, 64))) == 16
    assert models.principal_component(np.zeros((5, 64))) == 4
    assert models.principal_component(np.zeros((5, 2))) == 1


def test_a_folder_of_somebody_else_survives(tmp_path, capsys):
    for name in ("config.json", "weights.bin"):
        (tmp_path / name).write_text("{}")
    assert "weights.bin" in fails(capsys, "run", "--out", str(tmp_path)) or (tmp_path / "weights.bin").exists()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["config.json", "weights.bin"]


def test_a_folder_that_is_not_there_is_named_before_the_fit(tmp_path, capsys):
    assert "no folder" in fails(capsys, "fit", str(tmp_path / "none" / "model.safetensors"))
