"""The settings of `mfa-fast reproduce`: dataclasses, whose defaults are the paper's sizes, and TOML for changes."""

from __future__ import annotations

import tomllib
import types
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, is_dataclass, replace
from importlib.resources import files
from pathlib import Path
from typing import Any, Union, get_args, get_origin, get_type_hints

from mfa_fast.datasets.cifar import CLASSES
from mfa_fast.experiments.config import FACE_SIZE, PAPER_ASYMMETRIC_NOISE_STD, check_pair

SMOKE = "smoke.toml"
CLASSIFIERS = ("bayes", "cnn", "linear_svm", "rbf_svm")
# Of fewer samples, whose classes are drawn too, a class may get none, and a plane on the helix; a curve has two ends.
LEAST = {"toy.samples": 10, "toy.levels": 2}


@dataclass(frozen=True, kw_only=True)
class NetworkSettings:
    """A convolutional network and its training on a fixed set of images.

    Parameters
    ----------
    width : int
        Filters of the first layer. The paper takes the smallest that makes no error. The default makes up to seven in a
        thousand on symmetric samples of MNIST; faces take more.
    images : int
        Shown in all: as many passes over the training images as that takes.
    batch_size : int
    learning_rate : float
        Of Adam.
    stop_early : bool
        Whether to stop as soon as all held-out samples are classified correctly. Off for the comparison, in which all
        networks see equally many images.
    """

    width: int = 4
    images: int = 40_000
    batch_size: int = 128
    learning_rate: float = 1e-3
    stop_early: bool = False


@dataclass(frozen=True, kw_only=True)
class CarliniWagnerSettings:
    """The paper's settings of the CW-L2 attack, and the number of images attacked with it.

    Parameters
    ----------
    samples : int
        Images attacked. Each takes thousands of gradients, so fewer than LD-Grad's.
    iterations, binary_search_steps : int
    learning_rate : float
    """

    samples: int = 200
    iterations: int = 500
    binary_search_steps: int = 3
    learning_rate: float = 0.01


@dataclass(frozen=True, kw_only=True)
class Figure9Settings:
    """Networks that see more images, or are wider, or deeper.

    Parameters
    ----------
    images : tuple of int
        Numbers of images, drawn on the fly, after which a network is attacked. All at `width`.
    width, depth : int
        Of the network that sees all of them.
    widths, depths : tuple of int
        What is tried otherwise, each with `sweep_images` images.
    sweep_images : int
    batch_size : int
    """

    images: tuple[int, ...] = (10_000, 100_000, 300_000, 1_000_000)
    width: int = 16
    depth: int = 8
    widths: tuple[int, ...] = (4, 8, 16, 32)
    depths: tuple[int, ...] = (8, 16, 24)
    sweep_images: int = 1_000_000
    batch_size: int = 50


@dataclass(frozen=True, kw_only=True)
class Figure10Settings:
    """Noise levels of the symmetric data sets."""

    noise_stds: tuple[float, ...] = (0.001, 0.01, 0.025, 0.05)


@dataclass(frozen=True, kw_only=True)
class Figure11Settings:
    """Training against an adversary, TRADES.

    Parameters
    ----------
    betas : tuple of float
        Weights of robustness against accuracy; 0 is ordinary training.
    radius : float
        L2 distance that the adversary may go while the network is trained.
    steps : int
        Gradient steps that it takes.
    images : int
        Shown in all.
    """

    betas: tuple[float, ...] = (0.0, 2.0, 5.0, 10.0)
    radius: float = 3.0
    steps: int = 10
    images: int = 100_000


@dataclass(frozen=True, kw_only=True)
class ToySettings:
    """Two- and three-dimensional figures and the observations.

    Parameters
    ----------
    samples : int
        Per class, at least 10.
    levels : int
        Points of a curve, at least 2.
    """

    samples: int = 1000
    levels: int = 13


@dataclass(frozen=True, kw_only=True)
class Settings:
    """All settings of a reproduction.

    Parameters
    ----------
    seed : int
        Of everything random.
    pairs : tuple of (int, int)
        Pairs of digits.
    attributes : tuple of str
        Attributes of CelebA.
    cifar_pairs : tuple of (str, str)
        Pairs of classes of CIFAR-10.
    size : int
        Side to which faces are resized.
    components, factors : int or None
        Size of the mixture of each class; None as in `mfa_fast.experiments.RunConfig`.
    max_iter : int
        Most EM iterations.
    noise_std, asymmetric_noise_std : float
        Noise of the symmetric data sets, and of the asymmetric ones but for their outliers.
    classifiers : tuple of str
        Those compared, of "bayes", "cnn", "linear_svm" and "rbf_svm".
    train_samples : int
        Samples that classifiers learn from; of real images networks see all.
    attack_samples : int
        Images attacked with LD-Grad.
    steps, svm_steps : int
        Most LD-Grad steps on mixtures and on SVMs.
    gamma : float or None
        Of the RBF SVM; None: searched.
    subspace_samples : int
        Samples whose distance to the other class's subspaces is measured.
    network, cw, fig9, fig10, fig11, toy
        Settings of their own.
    """

    seed: int = 0
    pairs: tuple[tuple[int, int], ...] = ((0, 6), (2, 7), (4, 5))
    attributes: tuple[str, ...] = (
        *("Bangs", "Black_Hair", "Brown_Hair", "Heavy_Makeup", "High_Cheekbones", "Male"),
        *("Mouth_Slightly_Open", "No_Beard", "Smiling", "Wearing_Earrings", "Wearing_Lipstick", "Eyeglasses"),
    )
    cifar_pairs: tuple[tuple[str, str], ...] = (
        *(("airplane", "automobile"), ("automobile", "bird"), ("bird", "cat"), ("cat", "deer"), ("deer", "dog")),
        *(("dog", "frog"), ("frog", "horse"), ("horse", "ship"), ("ship", "truck"), ("truck", "airplane")),
    )
    size: int = FACE_SIZE
    components: int | None = None
    factors: int | None = None
    max_iter: int = 100
    noise_std: float = 1e-3
    asymmetric_noise_std: float = PAPER_ASYMMETRIC_NOISE_STD
    classifiers: tuple[str, ...] = CLASSIFIERS
    train_samples: int = 10_000
    attack_samples: int = 1000
    steps: int = 10
    svm_steps: int = 50
    gamma: float | None = None
    subspace_samples: int = 1000
    network: NetworkSettings = field(default_factory=NetworkSettings)
    cw: CarliniWagnerSettings = field(default_factory=CarliniWagnerSettings)
    fig9: Figure9Settings = field(default_factory=Figure9Settings)
    fig10: Figure10Settings = field(default_factory=Figure10Settings)
    fig11: Figure11Settings = field(default_factory=Figure11Settings)
    toy: ToySettings = field(default_factory=ToySettings)

    def __post_init__(self) -> None:
        """Reject what would only fail after minutes of work."""
        for name, value in _numbers(self):
            if name in ("seed", "factors", "fig11.betas"):
                if value < 0:
                    msg = f"{name} must not be negative, got {value}"
                    raise ValueError(msg)
            elif not (0 < value < float("inf")) or (isinstance(value, int) and value < 1):
                msg = f"{name} must be positive, got {value}"
                raise ValueError(msg)
            elif value < LEAST.get(name, 0):
                msg = f"{name} must be {LEAST[name]} or more, got {value}"
                raise ValueError(msg)
        for pair in self.pairs:
            check_pair("pairs", pair)
        for first, second in self.cifar_pairs:
            for name in (first, second):
                if name not in CLASSES:
                    msg = f"cifar_pairs must name some of {', '.join(CLASSES)}; got {name!r}"
                    raise ValueError(msg)
            if first == second:
                msg = f"cifar_pairs must name two different classes, got {first} twice"
                raise ValueError(msg)
        unknown = set(self.classifiers) - set(CLASSIFIERS)
        if unknown or not self.classifiers:
            got = ", ".join(sorted(unknown)) or "none"
            msg = f"classifiers must be some of {', '.join(CLASSIFIERS)}; got {got}"
            raise ValueError(msg)
        if not self.pairs:
            msg = "pairs must hold at least one pair of digits, got none"
            raise ValueError(msg)
        _check_sweeps(self)


def _check_sweeps(settings: Settings) -> None:
    """Refuse sweeps over nothing, and networks that cannot be built."""
    nine = settings.fig9
    sweeps = {
        **{f"fig9.{name}": getattr(nine, name) for name in ("images", "widths", "depths")},
        "fig10.noise_stds": settings.fig10.noise_stds,
        "fig11.betas": settings.fig11.betas,
    }
    for name, values in sweeps.items():
        if not values:
            msg = f"{name} must hold at least one number, got none"
            raise ValueError(msg)
    for name, depths in {"fig9.depth": (nine.depth,), "fig9.depths": nine.depths}.items():
        for depth in depths:
            if depth < 8 or depth % 4:
                msg = f"{name} must be 8 or a larger multiple of 4, so that 4 layers of stride 2 fit in; got {depth}"
                raise ValueError(msg)


def _numbers(settings: Any, prefix: str = "") -> list[tuple[str, float]]:
    """Return every number among settings that has to be positive, by name."""
    found = []
    for entry in fields(settings):
        value = getattr(settings, entry.name)
        if is_dataclass(value):
            found += _numbers(value, f"{prefix}{entry.name}.")
        elif entry.name != "pairs":
            items = value if isinstance(value, tuple) else (value,)
            numbers = [item for item in items if isinstance(item, int | float) and not isinstance(item, bool)]
            found += [(prefix + entry.name, item) for item in numbers]
    return found


def read_settings(*, smoke: bool = False, file: Path | None = None, changes: Sequence[str] = ()) -> Settings:
    """Return the settings of a reproduction.

    Parameters
    ----------
    smoke : bool
        Start from budgets so small that everything runs in minutes; results say little.
    file : Path or None
        TOML with any of the fields of `Settings`, those of its parts in tables: ``[fig9]``.
    changes : sequence of str
        Single settings as ``"name=value"`` or ``"fig9.width=8"``, the value in TOML; later ones win.

    Returns
    -------
    Settings

    Raises
    ------
    ValueError
        If a name is unknown, or a value is of a wrong type or out of range.
    OSError
        If `file` cannot be read.

    Examples
    --------
    >>> from mfa_fast.experiments.reproduce.settings import read_settings
    >>> read_settings(changes=["attack_samples=50", "fig9.widths=[4, 8]"]).fig9.widths
    (4, 8)
    """
    settings = Settings()
    if smoke:
        text = files(__package__).joinpath(SMOKE).read_text("utf-8")
        settings = _changed(settings, tomllib.loads(text), SMOKE)
    if file is not None:
        try:
            content = tomllib.loads(file.read_text("utf-8"))
        except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
            msg = f"config must be a TOML file, and {file} is none ({error})"
            raise ValueError(msg) from error
        settings = _changed(settings, content, str(file))
    for change in changes:
        settings = _changed(settings, _parse(change), f"--set {change}")
    return settings


def _parse(change: str) -> dict[str, Any]:
    name, equals, value = change.partition("=")
    if not equals:
        msg = f"--set must be given as NAME=VALUE, got {change!r}"
        raise ValueError(msg)
    for text in (f"{name} = {value}", f'{name} = "{value}"'):  # names of files and classes need no quotes
        try:
            return tomllib.loads(text)
        except tomllib.TOMLDecodeError:
            continue
    msg = f"--set must be given as NAME=VALUE with the value in TOML, got {change!r}"
    raise ValueError(msg)


def _changed(settings: Any, changes: Mapping[str, Any], where: str, prefix: str = "") -> Any:
    hints = get_type_hints(type(settings))
    new = {}
    for name, value in changes.items():
        if name not in hints:
            known = ", ".join(hints)
            msg = f"{where}: there is no setting {prefix}{name}; known are {known}"
            raise ValueError(msg)
        old = getattr(settings, name)
        if is_dataclass(old):
            if not isinstance(value, Mapping):
                msg = (
                    f"{where}: {prefix}{name} is a table; set one of its entries, such as {name}.{fields(old)[0].name}"
                )
                raise ValueError(msg)
            new[name] = _changed(old, value, where, f"{prefix}{name}.")
        else:
            new[name] = _converted(value, hints[name], f"{where}: {prefix}{name}")
    try:
        return replace(settings, **new)
    except ValueError as error:
        msg = f"{where}: {error}"
        raise ValueError(msg) from error


def _converted(value: Any, hint: Any, name: str) -> Any:
    """Return a value of TOML as the type of its field."""
    origin, arguments = get_origin(hint), get_args(hint)
    if origin in (Union, types.UnionType):
        kinds = [kind for kind in arguments if kind is not type(None)]
        return _converted(value, kinds[0], name)
    if origin is tuple:
        if isinstance(value, list):
            kinds = [arguments[0]] * len(value) if arguments[-1] is Ellipsis else list(arguments)
            if len(kinds) == len(value):
                return tuple(_converted(item, kind, name) for item, kind in zip(value, kinds, strict=True))
    elif hint is float and isinstance(value, int | float) and not isinstance(value, bool):
        return float(value)
    elif type(value) is hint:
        return value
    expected = "a list" if origin is tuple else f"of type {hint.__name__}"
    msg = f"{name} must be {expected}, got {value!r}"
    raise ValueError(msg)
