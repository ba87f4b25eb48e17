"""The command `mfa-fast` from the outside: models and their data, options, errors and exit codes."""

import gc
import os
import re
import subprocess
import sys
import warnings
import zipfile
from importlib.metadata import entry_points
from pathlib import Path

import numpy as np
import pytest
from safetensors import safe_open
from safetensors.numpy import load_file, save_file

pytest.importorskip("typer")
pytest.importorskip("matplotlib")

from command_line import QUICK, command, fails
from mfa_fast import MFAClassifier, _commands
from mfa_fast.attacks import ld_grad
from mfa_fast.cli import main

COMMANDS = ["run", "fit", "sample", "score", "attack", "reproduce", "bench", "info"]


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    path = tmp_path_factory.mktemp("model") / "digits.safetensors"
    assert main(["fit", str(path), "--max-iter", "20"]) == 0
    return str(path)


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


def test_what_is_read_is_not_written_over(model, tmp_path, capsys):
    own, data = tmp_path / "own.safetensors", tmp_path / "data"
    own.write_bytes(Path(model).read_bytes())
    (tmp_path / "link.npz").symlink_to(own)
    with data.open("wb") as file:
        np.savez(file, X=np.zeros((4, 64)))
    before = own.read_bytes(), data.read_bytes()
    for arguments in (
        ["sample", own, "--out", own],
        ["sample", own, "--out", tmp_path / "link.npz"],
        ["attack", own, "--data", data, "--out", own],
        ["attack", own, "--data", data, "--out", data],
        ["fit", data, "--data", data, "--components", "1", "--factors", "1"],
    ):
        assert "is to be read and would be lost" in fails(capsys, *arguments)
    assert (own.read_bytes(), data.read_bytes()) == before


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
    with zipfile.ZipFile(tmp_path / "text.npz", "w") as archive:
        archive.writestr("X.npy", "text")
    assert "text.npz is cut short or of another kind (X is no array)" in fails(
        capsys, "score", model, "--data", tmp_path / "text.npz"
    )
    np.savez(tmp_path / "unknown.npz", X=np.zeros((4, 64)))
    content = bytearray((tmp_path / "unknown.npz").read_bytes())
    content[content.index(b"PK\1\2") + 10] = 99  # a compression that Python does not have
    content[8] = 99
    (tmp_path / "unknown.npz").write_bytes(content)
    line = fails(capsys, "score", model, "--data", tmp_path / "unknown.npz")
    assert "unknown.npz is cut short or of another kind (That compression method is not supported)" in line


@pytest.mark.parametrize("arguments", [["run"], ["score"], ["score", "--pair", "0", "6"]])
def test_truncated_data(arguments, model, tmp_path, capsys):
    whole, cut = tmp_path / "whole.npz", tmp_path / "cut.npz"
    images = np.zeros((20, 28, 28), np.uint8)
    labels = np.arange(20, dtype=np.uint8) % 10
    np.savez(whole, x_train=images, y_train=labels, x_test=images, y_test=labels)
    cut.write_bytes(whole.read_bytes()[:-300])
    first, *rest = arguments
    gc.collect()  # what earlier tests have left open
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always", ResourceWarning)
        line = fails(capsys, first, *([model] if first == "score" else []), *rest, "--data", cut)
        gc.collect()
    assert "cut.npz" in line
    assert not [warning for warning in seen if issubclass(warning.category, ResourceWarning)]  # it was closed


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


def test_missing_package_names_the_extra(monkeypatch, capsys):
    for name in [name for name in sys.modules if name.startswith("mfa_fast._commands")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.delattr("mfa_fast._commands", raising=False)
    monkeypatch.setitem(sys.modules, "typer", None)
    assert 'pip install "mfa_fast[experiments]"' in fails(capsys, "info")


@pytest.mark.parametrize("name", ["fit", "sample", "attack"])
def test_a_folder_that_is_not_there_is_named_before_the_work(name, model, tmp_path, monkeypatch, capsys):
    for work in ("_read", "_load_model"):
        monkeypatch.setattr(f"mfa_fast._commands.{work}", None)
    target = tmp_path / "none" / "x.safetensors"
    line = fails(capsys, name, *([target] if name == "fit" else [model, "--out", target]))
    assert f"no folder {target.parent}" in line
    assert not any(tmp_path.iterdir())


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="this platform has no named pipes")
@pytest.mark.parametrize("name", ["fit", "sample", "attack"])
def test_a_pipe_is_refused_before_the_work(name, model, tmp_path, monkeypatch, capsys):
    for work in ("_read", "_load_model"):
        monkeypatch.setattr(f"mfa_fast._commands.{work}", None)
    os.mkfifo(tmp_path / "pipe")
    target = tmp_path / "pipe"
    assert "is a device, a pipe" in fails(capsys, name, *([target] if name == "fit" else [model, "--out", target]))
    assert target.is_fifo()


def test_a_link_that_leads_to_itself_is_replaced(model, tmp_path):
    out = tmp_path / "loop.npz"
    out.symlink_to(out)
    assert main(["sample", model, "-n", "3", "--out", str(out)]) == 0
    with np.load(out) as content:
        assert len(content["X"]) == 3


def test_more_samples_than_there_is_memory_for(model, tmp_path, capsys):
    line = fails(capsys, "sample", model, "-n", 10**13, "--out", tmp_path / "x.npz")
    assert "out of memory" in line
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


def test_labels_are_as_many_as_samples_whatever_is_attacked(model, tmp_path, capsys):
    np.savez(tmp_path / "data.npz", X=np.zeros((3, 64), np.float32), y=[0, 1])
    assert "2 labels" in fails(capsys, "attack", model, "--data", tmp_path / "data.npz", "--samples", "2")


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
        assert len(asked) > 5  # the rows of the report, and the attack
        assert set(asked) == {threads}
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


@pytest.mark.skipif(os.name == "nt", reason="Windows has no such file names")
@pytest.mark.parametrize("name", ["a[bold]:smile:.safetensors", f"{'digits-' * 12}.safetensors"])
@pytest.mark.parametrize("columns", ["80", "40"])
def test_a_table_is_whole_whatever_the_name_and_the_screen(name, columns, model, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("COLUMNS", columns)
    copy = tmp_path / name
    copy.write_bytes(Path(model).read_bytes())
    assert main(["attack", str(copy), "--samples", "20", "--method", "nearest"]) == 0
    rows = [line.split("│")[1:-1] for line in capsys.readouterr().out.splitlines() if line.startswith("│")]
    assert "".join(row[0].strip() for row in rows) == name
    assert all(any(digit in cell for digit in "0123456789") for cell in rows[0][1:])


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


def test_help_tells_of_the_noise_and_of_the_products(capsys):
    assert main(["run", "--help"]) == 0
    printed = " ".join(re.sub("[\u2500-\u257f|]", " ", capsys.readouterr().out).split())
    assert "the median is 0.07" in printed and "sqrt(2 d ln(0.5/sigma) + d)" in printed
    assert main(["info", "--help"]) == 0
    printed = capsys.readouterr().out
    assert "matrix products" in printed and "BLAS" not in printed


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere file systems take no such names")
@pytest.mark.parametrize(
    "arguments",
    [["reproduce", "fig2", "--smoke", "--out"], ["fit", "--max-iter", "5"]],
    ids=["reproduce", "fit"],
)
def test_names_of_files_need_not_be_text(arguments, tmp_path):
    out = os.fsencode(tmp_path) + b"/caf\xe9"
    done = subprocess.run(
        [sys.executable, "-m", "mfa_fast", *arguments, out],
        capture_output=True,
        timeout=120,
        check=False,
        env={**os.environ, "PYTHONIOENCODING": "utf-8:strict"},  # as it is in most languages
    )
    assert done.returncode == 0, done.stderr
    assert out in done.stdout


def test_output_that_has_no_character_for_a_name(tmp_path):
    """As where what is printed goes to a file in an encoding of one language."""
    out = tmp_path / "\u03c3.safetensors"
    done = subprocess.run(
        [sys.executable, "-m", "mfa_fast", "fit", "--max-iter", "5", out],
        capture_output=True,
        timeout=120,
        check=False,
        env={**os.environ, "PYTHONUTF8": "1", "PYTHONIOENCODING": "latin-1"},
    )
    assert done.returncode == 0, done.stderr
    assert out.exists() and b"/?.safetensors" in done.stdout


def test_the_package_runs_as_the_command():
    done = subprocess.run(
        [sys.executable, "-m", "mfa_fast", "--version"], capture_output=True, text=True, timeout=120, check=False
    )
    assert (done.returncode, done.stdout) == (0, command("--version").stdout)


@pytest.mark.parametrize("arguments", [["--version"], ["no-such-command"]])
def test_the_console_script_exits_like_the_module(arguments):
    (script,) = entry_points(group="console_scripts", name="mfa-fast")
    # What installers write for it.
    wrapper = f"import sys; from {script.module} import {script.attr}; sys.exit({script.attr}())"
    done = subprocess.run([sys.executable, "-c", wrapper, *arguments], capture_output=True, text=True, check=False)
    expected = command(*arguments)
    assert (done.returncode, done.stdout, done.stderr) == (expected.returncode, expected.stdout, expected.stderr)
    assert done.returncode == (0 if arguments == ["--version"] else 2)
