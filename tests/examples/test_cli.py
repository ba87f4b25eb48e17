"""The command `mfa-fast` from the outside, on the bundled digits."""

import csv
import json
import os
import re
import subprocess
import sys
from dataclasses import replace
from importlib.metadata import entry_points

import numpy as np
import pytest
from safetensors import safe_open
from safetensors.numpy import load_file, save_file

pytest.importorskip("typer")
pytest.importorskip("matplotlib")

from mfa_fast import MFAClassifier, _commands
from mfa_fast.attacks import AttackResult, ld_grad
from mfa_fast.cli import main
from mfa_fast.experiments import RunConfig, main_job, models, pictures, tables

MODELS = ["bayes_symmetric", "bayes_asymmetric", "linear_svm", "rbf_svm"]
# The tables have one row more, the pictures have not.
ROWS = [*MODELS[:2], "bayes_asymmetric_same_noise", *MODELS[2:]]
COMMANDS = ["run", "fit", "sample", "score", "attack", "reproduce", "bench", "info"]
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
    sizes = ["--components", "2", "--factors"]
    assert main(["fit", str(out), "--data", str(data), *sizes, "0"]) == 0
    assert main(["fit", str(out), "--data", str(data), *sizes, "1"]) == 0
    assert main(["score", str(out), "--data", str(data)]) == 0
    assert "mean log-likelihood" in capsys.readouterr().out
    drawn = tmp_path / "drawn.npz"
    assert main(["sample", str(out), "-n", "3", "--no-noise", "--out", str(drawn)]) == 0
    with np.load(drawn) as content:
        assert sorted(content.files) == ["X", "component"]
    assert "--components" in fails(capsys, "fit", out, "--data", data)
    capsys.readouterr()
    assert "has no classes to attack" in fails(capsys, "attack", out, "--data", data)
    line = fails(capsys, "fit", out, "--data", data, *sizes, "1", "--symmetric", "0.01")
    assert "--symmetric is for classifiers" in line


def test_a_fit_does_not_take_data_for_the_model(tmp_path, capsys):
    data = tmp_path / "X.npy"
    np.save(data, np.zeros((4, 3)))
    assert "out is the model file to write" in fails(capsys, "fit", data)
    assert np.load(data).shape == (4, 3)


def test_a_symmetric_classifier_of_diagonal_fits(tmp_path):
    path = tmp_path / "symmetric.safetensors"
    chosen = ["--noise-type", "diag", "--min-noise-variance", "1e-3", "--n-init", "2", "--max-iter", "5"]
    assert main(["fit", str(path), *chosen, "--symmetric", "0.01"]) == 0
    classifier = MFAClassifier.load(path)
    assert classifier.min_noise_variance == 1e-3
    assert classifier.n_init == 2
    for mixture in classifier.mixtures_:
        np.testing.assert_allclose(mixture.noise_variance_, 1e-4)


def test_a_wrong_option_points_to_the_command_that_has_others(capsys):
    assert "(see mfa-fast run --help)" in fails(capsys, "run", "--pair", "0")
    assert "(see mfa-fast --help)" in fails(capsys, "walk")


@pytest.mark.parametrize("pair", [("3", "3"), ("0", "11"), ("-1", "3")])
def test_bad_pairs(pair, model, capsys):
    expected = f"pair must name two different digits from 0 to 9, got {pair[0]} and {pair[1]}"
    assert expected in fails(capsys, "run", "--pair", *pair)
    assert expected in fails(capsys, "score", model, "--pair", *pair)


def test_a_size_without_faces_is_refused(model, tmp_path, capsys):
    np.save(tmp_path / "X.npy", np.zeros((4, 64)))
    for arguments in (["run"], ["score", model], ["attack", model, "--data", tmp_path / "X.npy"]):
        assert "size is that of faces, which need attribute" in fails(capsys, *arguments, "--size", "32")


def test_too_few_samples_to_train_from(tmp_path, capsys):
    line = fails(capsys, "run", "--train-samples", "1", "--out", tmp_path / "out")
    assert re.search(r"train_samples must be enough to hold both classes; 1 drew class \d alone: use more", line)


@pytest.mark.parametrize("where", ["run", "fit"])
def test_missing_data(where, tmp_path, capsys):
    missing = tmp_path / "mnist.npz"
    target = ["--out", tmp_path / "out"] if where == "run" else [tmp_path / "m.safetensors"]
    line = fails(capsys, where, *target, "--data", missing, "--pair", "0", "6")
    assert "mnist.npz" in line
    assert "OpenML" not in line  # which is not what leaving --data out means here
    assert not any(tmp_path.iterdir())


def test_array_files_that_are_none(model, tmp_path, capsys):
    assert "data must name a file that exists; got" in fails(capsys, "score", model, "--data", tmp_path / "none.npy")
    (tmp_path / "text.npy").write_text("0.5 1.5")
    np.save(tmp_path / "objects.npy", np.array([{}]))
    for name in ("text.npy", "objects.npy"):
        line = fails(capsys, "score", model, "--data", tmp_path / name)
        assert f"{name} is cut short or of another kind (no array of numbers): expected a .npy file" in line


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
    assert "3" in line and "64" in line and "MFAClassifier" in line


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
    with pytest.raises(ValueError, match=r"components must be at least 1, got \(4, 0\)"):
        replace(config, components=(4, 0))
    assert tables.numbers((4, 1)) == "4 and 1"
    assert tables.numbers(7) == "7"


def test_small_images_get_a_principal_direction_that_exists():
    assert models.principal_component(np.zeros((12000, 784))) == 50
    assert models.principal_component(np.zeros((360, 64))) == 16
    assert models.principal_component(np.zeros((5, 64))) == 4
    assert models.principal_component(np.zeros((5, 2))) == 1


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


@pytest.mark.parametrize("name", ["fit", "sample", "attack"])
def test_a_folder_that_is_not_there_is_named_before_the_work(name, model, tmp_path, monkeypatch, capsys):
    for work in ("_read", "_load_model"):
        monkeypatch.setattr(f"mfa_fast._commands.{work}", None)
    target = tmp_path / "none" / "x.safetensors"
    line = fails(capsys, name, *([target] if name == "fit" else [model, "--out", target]))
    assert f"no folder {target.parent}" in line
    assert not any(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("y", "word"),
    [([0, 1], "2 labels"), (["no", "yes", "no"], "does not know"), ([0, 1, 7], "does not know")],
)
def test_labels_that_do_not_fit(y, word, model, tmp_path, capsys):
    np.savez(tmp_path / "data.npz", X=np.zeros((3, 64), np.float32), y=np.array(y))
    for name in ("score", "attack"):
        assert word in fails(capsys, name, model, "--data", tmp_path / "data.npz")
    assert capsys.readouterr().out == ""


def test_score_takes_a_column_of_labels_and_a_prior_of_zero(model, tmp_path, capsys):
    loaded = MFAClassifier.load(model)
    X, y = loaded.sample(20, random_state=0)
    np.savez(tmp_path / "data.npz", X=X, y=y[:, None])
    certain = MFAClassifier.from_mixtures(loaded.mixtures_, loaded.classes_, [1.0, 0.0])
    certain.save(tmp_path / "certain.safetensors")
    for path, accuracy in ((model, 1.0), (tmp_path / "certain.safetensors", np.mean(y == loaded.classes_[0]))):
        assert main(["score", str(path), "--data", str(tmp_path / "data.npz")]) == 0
        captured = capsys.readouterr()
        assert "divide" not in captured.err
        assert np.isfinite(float(re.search(r"mean log-likelihood: (\S+)", captured.out)[1]))
        assert float(re.search(r"accuracy: (\S+)", captured.out)[1]) == pytest.approx(accuracy, abs=1e-4)


def test_score_is_the_density_whatever_the_rule(model, tmp_path, capsys):
    loaded = MFAClassifier.load(model)
    X, y = loaded.sample(20, random_state=0)
    np.savez(tmp_path / "data.npz", X=X, y=y)
    blurred = loaded.symmetric(1.0)
    printed = []
    for rule in ("max", "sum"):
        blurred.set_params(rule=rule).save(tmp_path / "blurred.safetensors")
        assert main(["score", str(tmp_path / "blurred.safetensors"), "--data", str(tmp_path / "data.npz")]) == 0
        printed.append(re.search(r"mean log-likelihood: (\S+)", capsys.readouterr().out)[1])
    scores = np.stack([mixture.score_samples(X) for mixture in blurred.mixtures_], axis=1) + np.log(blurred.priors_)
    log_density = np.logaddexp.reduce(scores, axis=1)
    assert printed == [f"{np.mean(log_density):.6g}"] * 2


def test_a_damaged_classifier_is_called_damaged(model, tmp_path, capsys):
    arrays = load_file(model)
    del arrays["priors"]
    with safe_open(model, framework="numpy") as file:
        save_file(arrays, tmp_path / "damaged.safetensors", file.metadata())
    line = fails(capsys, "score", tmp_path / "damaged.safetensors")
    assert "damaged.safetensors" in line and "priors" in line
    assert "expected" not in line


def test_threads_reach_every_attack_and_change_nothing(model, tmp_path, monkeypatch):
    asked, results = [], {}

    def spy(*arguments, **settings):
        asked.append(settings.get("n_threads", getattr(arguments[0], "n_threads", None)))
        return ld_grad(*arguments, **settings)

    for module in ("_commands", "experiments.main_job", "experiments.models"):
        monkeypatch.setattr(f"mfa_fast.{module}.ld_grad", spy)
    for threads in (1, 2):
        asked.clear()
        assert main(["run", *QUICK, "--threads", str(threads), "--out", str(tmp_path / f"run{threads}")]) == 0
        out, option = tmp_path / f"{threads}.npz", ["--threads", str(threads)]
        assert main(["sample", model, "-n", "20", "--out", str(out), *option]) == 0
        assert main(["score", model, "--data", str(out), *option]) == 0
        assert main(["attack", model, "--data", str(out), *option]) == 0
        assert len(asked) > len(ROWS) and set(asked) == {threads}
        with np.load(out) as content:
            results[threads] = content["X"]
    np.testing.assert_array_equal(results[1], results[2])
    samples = [(tmp_path / f"run{threads}" / "samples.csv").read_text() for threads in (1, 2)]
    assert samples[0] == samples[1]


def test_attack_by_the_nearest_samples(model, tmp_path, capsys):
    results = {}
    for method in ("ld-grad", "nearest"):
        out = tmp_path / f"{method}.npz"
        assert main(["attack", model, "--samples", "20", "--method", method, "--steps", "10", "--out", str(out)]) == 0
        with np.load(out) as content:
            results[method] = dict(content)
    printed = capsys.readouterr().out
    assert "Proved" in printed and "100 %" in printed
    assert set(results["nearest"]) - set(results["ld-grad"]) == {"lower_bound", "certified"}
    assert np.all(results["nearest"]["lower_bound"] <= results["nearest"]["l2"])
    assert np.all(results["nearest"]["l2"] <= results["ld-grad"]["l2"])
    assert "method" in fails(capsys, "attack", model, "--method", "guess")


@pytest.mark.parametrize("method", ["ld-grad", "nearest"])
def test_without_labels_there_is_no_accuracy(method, model, tmp_path, capsys):
    X, y = MFAClassifier.load(model).sample(5, random_state=0)
    np.savez(tmp_path / "labelled.npz", X=X, y=y)
    np.save(tmp_path / "X.npy", X)
    for name, told in (("labelled.npz", True), ("X.npy", False)):
        assert main(["attack", model, "--data", str(tmp_path / name), "--method", method]) == 0
        printed = capsys.readouterr().out
        assert ("Accuracy" in printed) == told
        assert "Success" in printed


@pytest.mark.skipif(os.name == "nt", reason="Windows has no such permissions")
def test_arrays_have_the_permissions_of_any_file(model, tmp_path):
    out, plain = tmp_path / "drawn.npz", tmp_path / "plain"
    plain.touch()
    for mode in (plain.stat().st_mode, 0o100640):
        assert main(["sample", model, "-n", "3", "--out", str(out)]) == 0
        assert out.stat().st_mode == mode
        out.chmod(0o640)


def test_the_threads_of_a_model_are_those_asked_for(tmp_path):
    path = tmp_path / "digits.safetensors"
    assert main(["fit", str(path), "--max-iter", "2", "--threads", "1"]) == 0
    for threads in (None, 2):
        assert _commands._threaded(_commands._load_model(path), threads).n_threads == threads


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


def test_the_papers_asymmetric_figure_stands_beside_its_own_noise_only():
    at = {noise: main_job._paper_figures(RunConfig(data=".", asymmetric_noise_std=noise)) for noise in (0.01, 0.001)}
    assert at[0.01]["bayes_asymmetric"].mean_l2 == 0.5
    assert set(at[0.01]) - set(at[0.001]) == {"bayes_asymmetric"}
    assert all("bayes_asymmetric_same_noise" not in figures for figures in at.values())


def test_help_tells_of_the_noise_and_of_the_products(capsys):
    assert main(["run", "--help"]) == 0
    printed = " ".join(re.sub("[\u2500-\u257f|]", " ", capsys.readouterr().out).split())
    assert "the median is 0.07" in printed and "sqrt(2 d ln(0.5/sigma) + d)" in printed
    assert main(["info", "--help"]) == 0
    printed = capsys.readouterr().out
    assert "matrix products" in printed and "BLAS" not in printed


def test_the_package_runs_as_the_command():
    done = subprocess.run(
        [sys.executable, "-m", "mfa_fast", "--version"], capture_output=True, text=True, timeout=120, check=False
    )
    assert (done.returncode, done.stdout) == (0, command("--version").stdout)


@pytest.mark.parametrize("arguments", [["--version"], ["run", "--pair", "3", "3"], ["no-such-command"]])
def test_the_console_script_exits_like_the_module(arguments):
    (script,) = entry_points(group="console_scripts", name="mfa-fast")
    # What installers write for it.
    wrapper = f"import sys; from {script.module} import {script.attr}; sys.exit({script.attr}())"
    done = subprocess.run([sys.executable, "-c", wrapper, *arguments], capture_output=True, text=True, check=False)
    expected = command(*arguments)
    assert (done.returncode, done.stdout, done.stderr) == (expected.returncode, expected.stdout, expected.stderr)
    assert done.returncode == (0 if arguments == ["--version"] else 2)
