"""Two classes of CIFAR-10."""

import os
import pickle
from pathlib import Path
from typing import Any

import numpy as np
from sklearn.utils import Bunch

from mfa_fast._typing import Array
from mfa_fast.datasets._bunch import image_bunch, unit_interval
from mfa_fast.datasets._checks import check_existing_path
from mfa_fast.datasets._files import reject

FOLDER = "cifar-10-batches-py"
TRAIN_FILES = tuple(f"data_batch_{number}" for number in range(1, 6))
TEST_FILES = ("test_batch",)
EXPECTED = (
    f"the folder {FOLDER} of CIFAR-10's python version, from https://www.cs.toronto.edu/~kriz/cifar.html, or of one "
    "that holds it"
)
CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
CHANNELS, SIDE = 3, 32
BRIGHTEST = 255


def load_cifar10_pair(a: str, b: str, data: str | os.PathLike[str]) -> Bunch:
    """Load two classes of CIFAR-10, in its official training and test parts.

    Parameters
    ----------
    a, b : str
        Two different ones of "airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship" and
        "truck".
    data : path
        The folder ``cifar-10-batches-py`` that the python version of the data set unpacks to, or one that holds it, as
        torchvision lays it out.

    Returns
    -------
    sklearn.utils.Bunch
        With the entries of `load_digits_pair`: images of ``image_shape`` (32, 32, 3) as float32 rows of 3,072 numbers
        from 0 to 1, in the order height, width, colour (RGB); labels 0 for `a` and 1 for `b`; and a ``name`` such as
        "CIFAR-10 cat-dog".

    Raises
    ------
    TypeError, ValueError
        If `a` and `b` are not two different classes, or a file is damaged or of another format.
    FileNotFoundError
        If `data` or one of its files does not exist.

    Notes
    -----
    The files are pickles. They are read without running anything that they might contain.

    References
    ----------
    A. Krizhevsky, "Learning Multiple Layers of Features from Tiny Images", 2009.

    Examples
    --------
    >>> from mfa_fast.datasets import load_cifar10_pair
    >>> cifar = load_cifar10_pair("cat", "dog", "cifar-10-batches-py")  # doctest: +SKIP
    >>> cifar.X_train.shape, cifar.target_names  # doctest: +SKIP
    ((10000, 3072), ['cat', 'dog'])
    """
    labels = tuple(_check_class(name, value) for name, value in (("a", a), ("b", b)))
    if labels[0] == labels[1]:
        msg = f"a and b must be two different classes; got {a!r} twice"
        raise ValueError(msg)
    folder = find_cifar10(check_existing_path(data, EXPECTED))

    def load(names: tuple[str, ...]) -> tuple[Array, Array]:
        parts = [_select(*_read_batch(folder / name), labels) for name in names]
        return np.concatenate([X for X, _ in parts]), np.concatenate([y for _, y in parts])

    return image_bunch(
        name=f"CIFAR-10 {a}-{b}",
        source=f"CIFAR-10 (Krizhevsky, 2009), read from '{folder}'.",
        image_shape=(SIDE, SIDE, CHANNELS),
        classes={0: a, 1: b},
        train=load(TRAIN_FILES),
        test=load(TEST_FILES),
    )


def find_cifar10(path: Path) -> Path:
    """Return the folder with the batches: `path` itself, or one in it; FileNotFoundError if there is none."""
    for folder in (path, path / FOLDER):
        if all((folder / name).is_file() for name in (*TRAIN_FILES, *TEST_FILES)):
            return folder
    msg = f"data must be the path of {EXPECTED}; got '{path}' without {TRAIN_FILES[0]} to {TEST_FILES[-1]}"
    raise FileNotFoundError(msg)


def _check_class(name: str, value: object) -> int:
    if not isinstance(value, str):
        msg = f"{name} must be a string; got an object of type {type(value).__name__}"
        raise TypeError(msg)
    if value not in CLASSES:
        msg = f"{name} must be one of {', '.join(CLASSES)}; got {value!r}"
        raise ValueError(msg)
    return CLASSES.index(value)


def _select(images: Array, labels: Array, wanted: tuple[int, ...]) -> tuple[Array, Array]:
    kept = np.isin(labels, wanted)  # before the conversion, which takes four times the memory
    # Stored as all red pixels, then green, then blue: colours go last, as in every other loader.
    planes = images[kept].reshape(-1, CHANNELS, SIDE, SIDE)
    return unit_interval(planes.transpose(0, 2, 3, 1), BRIGHTEST), (labels[kept] == wanted[1]).astype(np.int64)


def _read_batch(path: Path) -> tuple[Array, Array]:
    """Return images (n, 3072) as uint8 and labels (n,) of a pickled batch."""
    expected = "a batch of CIFAR-10: a pickled dictionary with data, uint8 of 3072 columns, and as many labels, 0 to 9"
    with path.open("rb") as file:
        try:
            batch = _ArraysOnly(file, encoding="bytes").load()
        except Exception as error:  # a damaged pickle may raise anything
            reject(path, expected, f"a damaged one, or another file ({type(error).__name__}: {error})")
    if not (isinstance(batch, dict) and b"data" in batch and b"labels" in batch):
        reject(path, expected, f"{type(batch).__name__} without them")
    try:
        data, labels = batch[b"data"], np.asarray(batch[b"labels"])
    except ValueError:  # lists of several lengths are no array
        reject(path, expected, "labels that are lists")
    good_data = isinstance(data, np.ndarray) and data.dtype == np.uint8 and data.shape[1:] == (CHANNELS * SIDE**2,)
    if not good_data:
        reject(path, expected, f"data of {getattr(data, 'dtype', type(data).__name__)} {getattr(data, 'shape', '')}")
    if labels.shape != data.shape[:1] or not np.isin(labels, np.arange(len(CLASSES))).all():
        reject(path, expected, f"labels {labels.shape} for {len(data)} images, or others than 0 to 9")
    return data, labels


class _ArraysOnly(pickle.Unpickler):
    """Reads pickles of containers and NumPy arrays, and refuses all that would import or run anything else."""

    # The names under which NumPy has pickled arrays, its first versions and its latest.
    _ALLOWED = frozenset(
        (module, name)
        for core in ("numpy.core", "numpy._core")
        for module, name in ((f"{core}.multiarray", "_reconstruct"), (f"{core}.multiarray", "scalar"))
    ) | {("numpy", "ndarray"), ("numpy", "dtype"), ("_codecs", "encode")}

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in self._ALLOWED:
            msg = f"it asks for {module}.{name}, which no batch does"
            raise pickle.UnpicklingError(msg)
        # NumPy's core has moved since the files were made, and warns of its former name.
        return super().find_class(module.replace("numpy.core", "numpy._core"), name)
