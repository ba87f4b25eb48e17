"""The commands of `mfa-fast`: from arguments to estimators, from results to screen and files."""

import os
import sys
import zipfile
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TaskID, TextColumn, TimeElapsedColumn
from scipy.special import logsumexp

import mfa_fast
from mfa_fast import MFA, MFAClassifier
from mfa_fast._files import is_no_file, whole_file
from mfa_fast._labels import check_labels, class_indices
from mfa_fast._options import (
    AsymmetricNoiseStd,
    Attribute,
    Components,
    ComponentsToFit,
    Data,
    DataOrArray,
    Factors,
    FactorsToFit,
    MaxIter,
    Method,
    MinNoiseVariance,
    Model,
    NoiseType,
    Pair,
    PairOrNone,
    Seed,
    Size,
    Steps,
    Threads,
)
from mfa_fast._persistence import kind_of
from mfa_fast._reproduce import reproduce
from mfa_fast._typing import Array
from mfa_fast._validation import check_real
from mfa_fast.attacks import ld_grad, nearest
from mfa_fast.experiments import RunConfig, check_destination, tables, write_report
from mfa_fast.experiments import run as run_main_job
from mfa_fast.experiments.config import check_images
from mfa_fast.experiments.main_job import load_images

DEFAULTS = RunConfig()

app = typer.Typer(
    name="mfa-fast",
    help="Mixtures of factor analyzers and the robustness of their Bayes-optimal classifiers.",
    epilog="Begin with: mfa-fast run",
    add_completion=False,
    pretty_exceptions_enable=False,
)
# What typer raises for wrong arguments. The class has moved between its versions; what inherits
# from it has not.
_UsageError: Any = typer.BadParameter.__bases__[0].__bases__[0]


def invoke(arguments: Sequence[str] | None) -> int:
    """Run a command and return its exit code.

    Raises
    ------
    ValueError
        Also for wrong options.
    KeyboardInterrupt
    """
    try:
        code = app(args=arguments, prog_name="mfa-fast", standalone_mode=False)
    except _UsageError as error:
        context = getattr(error, "ctx", None)
        first = (sys.argv[1:] if arguments is None else arguments)[:1]
        named = [name for name in first if name in typer.main.get_group(app).commands]
        command = context.command_path if context else " ".join(["mfa-fast", *named])
        msg = f"{error.format_message()} (see {command} --help)"
        raise ValueError(msg) from error
    except typer.Abort as error:
        raise KeyboardInterrupt from error
    return code if isinstance(code, int) else 0


@app.callback(invoke_without_command=True)
def _help(
    context: typer.Context,
    version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False,
) -> None:
    if version:
        typer.echo(f"mfa-fast {mfa_fast.__version__}")
    elif context.invoked_subcommand is None:
        typer.echo(context.get_help())


@app.command()
def run(
    data: Data = DEFAULTS.data,
    pair: Pair = DEFAULTS.pair,
    attribute: Attribute = DEFAULTS.attribute,
    size: Size = DEFAULTS.size,
    components: Components = None,
    factors: Factors = DEFAULTS.factors,
    noise_std: Annotated[
        float, typer.Option(metavar="STD", help="Noise standard deviation of the symmetric data set.")
    ] = DEFAULTS.noise_std,
    asymmetric_noise_std: AsymmetricNoiseStd = DEFAULTS.asymmetric_noise_std,
    max_iter: MaxIter = DEFAULTS.max_iter,
    train_samples: Annotated[
        int, typer.Option(min=1, metavar="N", help="Samples of the symmetric data set that the SVMs learn from.")
    ] = DEFAULTS.train_samples,
    attack_samples: Annotated[
        int, typer.Option(min=1, metavar="N", help="Fresh samples on which each classifier is attacked.")
    ] = DEFAULTS.attack_samples,
    steps: Steps = DEFAULTS.steps,
    svm_steps: Annotated[int, typer.Option(min=1, metavar="N", help="The same, on the SVMs.")] = DEFAULTS.svm_steps,
    gamma: Annotated[
        float | None,
        typer.Option(metavar="GAMMA", help="Of the RBF SVM. Left out: the highest that keeps the accuracy."),
    ] = DEFAULTS.gamma,
    seed: Seed = DEFAULTS.seed,
    threads: Threads = DEFAULTS.n_threads,
    out: Annotated[Path, typer.Option(help="Folder for the report, tables and pictures.")] = Path("mfa-fast-run"),
) -> None:
    """Measure how robust the Bayes-optimal classifier is, and what learns from its data."""
    config = RunConfig(
        data=data,
        pair=pair,
        attribute=attribute,
        size=size,
        components=components,
        factors=factors,
        noise_std=noise_std,
        asymmetric_noise_std=asymmetric_noise_std,
        max_iter=max_iter,
        train_samples=train_samples,
        attack_samples=attack_samples,
        steps=steps,
        svm_steps=svm_steps,
        gamma=gamma,
        seed=seed,
        n_threads=threads,
    )
    check_destination(out)
    with _ProgressBars() as bars:
        result = run_main_job(config, bars.update)
        bars.update("draw the pictures", 0, 1)
        page = write_report(result, out)
        bars.update("draw the pictures", 1, 1)
    tables.print_table(tables.result_table(result), Console())
    tables.print_table(tables.radius_table(result), Console())
    typer.echo(f"Report: {page}")


@app.command()
def fit(
    out: Annotated[Path, typer.Argument(help="Model file to write, .safetensors.", show_default=False)],
    data: DataOrArray = None,
    pair: PairOrNone = None,
    attribute: Attribute = None,
    size: Size = DEFAULTS.size,
    components: ComponentsToFit = None,
    factors: FactorsToFit = None,
    noise_type: NoiseType = "spherical",
    min_noise_variance: MinNoiseVariance = 1e-6,
    max_iter: MaxIter = DEFAULTS.max_iter,
    n_init: Annotated[int, typer.Option(min=1, metavar="N", help="Fits to choose the best of.")] = 1,
    symmetric: Annotated[
        float | None,
        typer.Option(
            metavar="STD",
            help="Give all components of all classes noise of this standard deviation: a classifier that is the best"
            " one for the samples it draws. Left out: the noise that was fitted.",
        ),
    ] = None,
    seed: Seed = DEFAULTS.seed,
    threads: Threads = None,
) -> None:
    """Fit one mixture per class, or a single mixture where there are no labels, and save it."""
    _check_file(out, data)
    if out.suffix in (".npy", ".npz"):
        msg = f"out is the model file to write, and {out.name} is one of arrays; name a .safetensors file"
        raise ValueError(msg)
    if symmetric is not None:
        check_real("--symmetric", symmetric, above=0.0)
    X, y = _read(data, pair, attribute, size, part="train")
    if y is None or _is_array_file(data, pair, attribute):
        if components is None or factors is None:
            msg = "--components and --factors must be given where --data is an array file"
            raise ValueError(msg)
        shape: tuple[Any, int] = (components, factors)  # of classes, components may be a number for each
    else:
        asked = RunConfig(data=data, attribute=attribute, components=components, factors=factors)
        shape = asked.mixture_size(y)
    settings: dict[str, Any] = {
        "noise_type": noise_type,
        "min_noise_variance": min_noise_variance,
        "max_iter": max_iter,
        "n_init": n_init,
        "random_state": seed,
        "n_threads": threads,
    }
    if y is None and symmetric is not None:
        msg = "--symmetric is for classifiers, and the data have no labels"
        raise ValueError(msg)
    with _ProgressBars() as bars:
        bars.update("fit", 0, 1)
        model = MFA(*shape, **settings).fit(X) if y is None else MFAClassifier(*shape, **settings).fit(X, y)
        bars.update("fit", 1, 1)
    if symmetric is not None:
        model = model.symmetric(symmetric)
    model.save(out)
    typer.echo(f"{type(model).__name__}, {tables.numbers(shape[0])} components x {shape[1]} factors: {out}")


@app.command()
def sample(
    model: Model,
    out: Annotated[
        Path, typer.Option(help="File to write: .npz with X and y, or X and component for a mixture.")
    ] = Path("samples.npz"),
    n: Annotated[int, typer.Option("-n", "--n", min=1, metavar="N", help="Number of samples.")] = 1000,
    noise: Annotated[bool, typer.Option(help="With the noise, or without it.")] = True,
    seed: Seed = DEFAULTS.seed,
    threads: Threads = None,
) -> None:
    """Draw samples from a model."""
    _check_file(out, model)
    loaded = _threaded(_load_model(model), threads)
    X, labels = loaded.sample(n, noise=noise, random_state=seed)
    name = "y" if isinstance(loaded, MFAClassifier) else "component"
    _write_npz(out, {"X": X, name: labels})
    typer.echo(f"{len(X)} samples with {X.shape[1]} features: {out}")


@app.command()
def score(
    model: Model,
    data: DataOrArray = None,
    pair: PairOrNone = None,
    attribute: Attribute = None,
    size: Size = DEFAULTS.size,
    threads: Threads = None,
) -> None:
    """Print the mean log-likelihood of data (of image sets: the test part) and the accuracy."""
    loaded = _threaded(_load_model(model), threads)
    X, y = _read(data, pair, attribute, size, part="test")
    if not isinstance(loaded, MFAClassifier):
        lines = [f"mean log-likelihood: {loaded.score(X):.6g} nats per sample"]
    else:
        predicted = loaded.predict(X)
        # By the rule "max" the best component would be taken for the whole mixture.
        joint = loaded.set_params(rule="sum").class_log_likelihood(X) + loaded.log_priors()
        lines = [f"mean log-likelihood: {np.mean(logsumexp(joint, axis=1)):.6g} nats per sample"]
        if y is not None:
            # As places among the classes: a column of labels would spread over all predictions.
            right = loaded.classes_[class_indices(loaded.classes_, y, len(X))] == predicted
            lines.append(f"accuracy: {np.mean(right):.4f}")
    # Only now: an error is to leave its one line and nothing else.
    typer.echo("\n".join([f"samples: {len(X)}", *lines]))


@app.command()
def attack(
    model: Model,
    data: DataOrArray = None,
    pair: PairOrNone = None,
    attribute: Attribute = None,
    size: Size = DEFAULTS.size,
    samples: Annotated[
        int | None, typer.Option(min=1, metavar="N", help="Attack only the first so many samples.")
    ] = None,
    method: Method = "ld-grad",
    steps: Steps = DEFAULTS.steps,
    out: Annotated[Path | None, typer.Option(help="Write the adversarial samples to this .npz file.")] = None,
    threads: Threads = None,
) -> None:
    """Attack a classifier (test part of image sets) and print how far the attack had to go."""
    if out is not None:
        _check_file(out, model, data)
    loaded = _threaded(_load_model(model), threads)
    if not isinstance(loaded, MFAClassifier):
        msg = f"{model.name} holds a single mixture, which has no classes to attack; fit data with labels"
        raise ValueError(msg)
    X, y = _read(data, pair, attribute, size, part="test")
    if y is not None:
        y = check_labels(y, len(X))  # before samples are taken away, which might leave as many of both
    rows = slice(samples)
    exact = method == "nearest"
    result = (nearest if exact else ld_grad)(loaded, X[rows], None if y is None else y[rows], steps=steps)
    summary = result.summary()
    columns, cells = list(tables.COLUMNS), tables.attack_cells(model.name, summary, result)
    if exact:
        # Instead of the steps, which are no figure of merit of a search.
        columns[-1:] = ["Bound", "Proved"]
        cells[-1:] = [tables.distance(summary["mean_lower_bound"]), tables.percent(summary["certified_rate"])]
    if y is None:
        # It would be that of the model's own predictions.
        del cells[columns.index("Accuracy")], columns[columns.index("Accuracy")]
    tables.print_table(tables.screen_table("Nearest" if exact else "LD-Grad", [cells], columns), Console())
    if out is not None:
        names: tuple[str, ...] = ("X_adv", "l2", "success", "n_steps", "source", "target")
        if exact:
            names = (*names, "lower_bound", "certified")
        _write_npz(out, {name: getattr(result, name) for name in names})
        typer.echo(f"Adversarial samples: {out}")


app.command()(reproduce)


@app.command()
def bench(
    data: Annotated[
        Path | None,
        typer.Option(help="MNIST to measure on. Left out: its like, made of scikit-learn's bundled digits."),
    ] = None,
    full: Annotated[bool, typer.Option("--full", help="Five times the samples, in some two minutes.")] = False,
) -> None:
    """Measure this machine: time, ratio to the dense matrix product of the same run, and error.

    The documentation's page on performance says what the words of its table mean.
    """
    # Only here, because it needs all that can be measured.
    from mfa_fast.experiments.throughput import text_table, throughput_table

    console = Console(stderr=True)
    with console.status("settling") as status:
        rows = throughput_table(
            quick=not full,
            data=data,
            progress=lambda row: status.update(f"{row['task']}, {row['shape']}, {row['dtype']}"),
        )
    typer.echo(text_table(rows), nl=False)


@app.command()
def info() -> None:
    """Print version, instruction sets, matrix products, threads, and whether CUDA is on."""
    mfa_fast.show_config()


class _ProgressBars:
    """One line per stage: a bar that moves while the stage runs, and the time it took."""

    def __init__(self) -> None:
        self._display = Progress(
            SpinnerColumn(finished_text="✓"),
            TextColumn("{task.description}"),
            BarColumn(),
            TimeElapsedColumn(),
            console=Console(stderr=True),
        )
        self._tasks: dict[str, TaskID] = {}

    def __enter__(self) -> "_ProgressBars":
        self._display.start()
        return self

    def __exit__(self, error: type[BaseException] | None, *_: object) -> None:
        # After an error the bars vanish: what remains to be read is the message.
        self._display.live.transient = error is not None
        self._display.stop()

    def update(self, stage: str, done: int, total: int) -> None:
        if stage not in self._tasks:
            self._tasks[stage] = self._display.add_task(stage, total=None)
        # Of a stage in one piece nothing is known until it ends: the bar pulses.
        known = total if total > 1 or done == total else None
        self._display.update(self._tasks[stage], completed=done, total=known)


def _load_model(path: Path) -> MFA | MFAClassifier:
    """Load a mixture or a classifier, whichever the file holds."""
    return (MFA if kind_of(path) == "mfa_fast.MFA" else MFAClassifier).load(path)


def _check_file(out: Path, *sources: Path | None) -> None:
    """Raise ValueError if a file cannot or must not be written there: to be called before the work, not after."""
    folder = Path(os.path.realpath(out)).parent  # behind links, where it will be written
    if is_no_file(out):
        msg = f"out must be a file, and {out} is a device, a pipe or a socket"
        raise ValueError(msg)
    if not folder.is_dir():
        msg = f"out lies in a folder that does not exist: there is no folder {folder}; make it first"
        raise ValueError(msg)
    if out.is_dir():
        msg = f"out must be a file, and {out} is a folder"
        raise ValueError(msg)
    if out.exists() and any(source.exists() and out.samefile(source) for source in sources if source is not None):
        msg = f"out is {out}, which is to be read and would be lost; name another file"
        raise ValueError(msg)
    if not os.access(folder, os.W_OK | os.X_OK):
        msg = f"out cannot be written: no permission in {folder}"
        raise ValueError(msg)


def _threaded(model: MFA | MFAClassifier, threads: int | None) -> MFA | MFAClassifier:
    """Return the model, to be run on so many threads; not on as many as it was fitted on, which files keep."""
    return model.set_params(n_threads=threads)


def _read(
    data: Path | None,
    pair: tuple[int, int] | None,
    attribute: str | None,
    size: int,
    part: str,
) -> tuple[Array, Array | None]:
    """Return samples, and labels if there are any, of an array file or part of an image set."""
    check_images(pair or DEFAULTS.pair, attribute, size)
    if data is not None and _is_array_file(data, pair, attribute):
        return _read_arrays(data)
    images = load_images(data, pair or DEFAULTS.pair, attribute, size)
    return images[f"X_{part}"], images[f"y_{part}"]


def _is_array_file(data: Path | None, pair: tuple[int, int] | None, attribute: str | None) -> bool:
    return data is not None and pair is None and attribute is None


def _read_arrays(path: Path) -> tuple[Array, Array | None]:
    remedy = "expected a .npy file or an .npz file with X and perhaps y; for MNIST add --pair, for CelebA --attribute"
    if not path.exists():
        msg = f"--data must name a file that exists; got '{path}', which does not"
        raise FileNotFoundError(msg)
    if path.is_dir():
        msg = f"--data is a folder, {path}: {remedy}"
        raise ValueError(msg)
    try:
        with path.open("rb") as file:  # NumPy leaves one that it opened open where there is an error
            content = np.load(file, allow_pickle=False)
            if isinstance(content, np.ndarray):
                return content, None
            with content:
                arrays = {name: content[name] for name in ("X", "y") if name in content.files}
                found = ", ".join(content.files)
                for name, array in arrays.items():
                    if not isinstance(array, np.ndarray):  # NumPy gives any other content as bytes
                        msg = f"{name} is no array"
                        raise ValueError(msg)
    except (zipfile.BadZipFile, zlib.error, EOFError, RuntimeError, ValueError) as error:
        # NumPy takes all that it does not know for a pickle, and says how to read one.
        reason = "no array of numbers" if "allow_pickle" in str(error) else error
        msg = f"--data cannot be read, {path} is cut short or of another kind ({reason}): {remedy}"
        raise ValueError(msg) from error
    if "X" not in arrays:
        msg = f"--data holds no array named X, {path} holds {found}: {remedy}"
        raise ValueError(msg)
    return arrays["X"], arrays.get("y")


def _write_npz(path: Path, arrays: dict[str, Any]) -> None:
    with whole_file(path) as scratch, scratch.open("wb") as file:
        np.savez(file, **arrays)
