"""MNIST in the forms in which people have it: Keras' archive, IDX files, or OpenML."""

import os
from importlib.util import find_spec
from itertools import product
from pathlib import Path

import numpy as np
from sklearn.datasets import fetch_openml
from sklearn.utils import Bunch

from mfa_fast._typing import Array
from mfa_fast._validation import one_line
from mfa_fast.datasets._bunch import digit_pair_bunch
from mfa_fast.datasets._checks import check_digit_pair, check_existing_path
from mfa_fast.datasets._files import read_idx, read_npz

Arrays = list[Array]  # training images and labels, test images and labels

NPZ_NAMES = ("x_train", "y_train", "x_test", "y_test")
# File names up to their ending; the number of dimensions is part of the name.
IDX_FILES = (("train-images", 3), ("train-labels", 1), ("t10k-images", 3), ("t10k-labels", 1))
IDX_FOLDERS = ("", "raw", "MNIST/raw")  # torchvision's `root` holds MNIST/raw
FILES = "Keras' mnist.npz or a folder of MNIST's IDX files"

OPENML_SHAPE = (70_000, 784)
OPENML_TRAIN = 60_000  # the official training part comes first
BRIGHTEST = 255


def load_mnist_pair(a: int, b: int, data: str | os.PathLike[str] | None = None) -> Bunch:
    """Load two digits of MNIST, in its official training and test parts.

    Parameters
    ----------
    a, b : int
        Two different digits from 0 to 9, in any order.
    data : path or None
        One of

        - the file ``mnist.npz`` of Keras, or a folder with it;
        - a folder with the four IDX files, plain or gzipped, named ``train-images-idx3-ubyte``
          or ``train-images.idx3-ubyte`` and so on, or with ``MNIST/raw``, where torchvision puts
          them;
        - None: downloaded from OpenML by scikit-learn, which keeps a copy in its data folder.

    Returns
    -------
    sklearn.utils.Bunch
        With the entries of `load_digits_pair`: images of ``image_shape`` (28, 28) as float32 rows
        of 784 pixels from 0 (background) to 1, labels the digits themselves, and a ``name`` such
        as "MNIST 0-6".

    Raises
    ------
    TypeError, ValueError
        If `a` and `b` are not two different integers from 0 to 9, or a file is damaged or of
        another format.
    FileNotFoundError
        If `data` or one of its files does not exist.
    OSError
        If OpenML cannot be reached.

    References
    ----------
    Y. LeCun, L. Bottou, Y. Bengio and P. Haffner, "Gradient-based learning applied to document
    recognition", Proceedings of the IEEE 86(11), 1998.

    Examples
    --------
    >>> from mfa_fast.datasets import load_mnist_pair
    >>> mnist = load_mnist_pair(0, 6, data="mnist.npz")  # doctest: +SKIP
    >>> mnist.name, mnist.X_train.shape, mnist.X_test.shape  # doctest: +SKIP
    ('MNIST 0-6', (11841, 784), (1938, 784))
    """
    pair = check_digit_pair(a, b)
    if data is None:
        origin = "OpenML"
        images, labels, test_images, test_labels = _fetch_openml()
    else:
        path = check_existing_path(data, FILES)
        origin = f"'{path}'"
        images, labels, test_images, test_labels = _read_path(path)
        _check_part(f"the training part of {origin}", images, labels)
        _check_part(f"the test part of {origin}", test_images, test_labels)
        sizes = [" x ".join(map(str, part.shape[1:])) for part in (images, test_images)]
        if sizes[0] != sizes[1]:
            msg = (
                f"{origin} must hold training and test images of one size; got {sizes[0]} and {sizes[1]}; download or "
                "copy the files again"
            )
            raise ValueError(msg)
    return digit_pair_bunch(
        "MNIST",
        f"The MNIST database of handwritten digits (LeCun et al., 1998), read from {origin}.",
        pair,
        train=(images, labels),
        test=(test_images, test_labels),
        maximum=BRIGHTEST,
    )


def _read_path(path: Path) -> Arrays:
    if path.is_dir():
        archive = path / "mnist.npz"
        if not archive.is_file():
            return [read_idx(_find_idx(path, *file), file[1]) for file in IDX_FILES]
        path = archive
    return read_npz(path, NPZ_NAMES)


def _find_idx(folder: Path, part: str, n_dimensions: int) -> Path:
    name = f"{part}-idx{n_dimensions}-ubyte"
    spellings = (name, f"{part}.idx{n_dimensions}-ubyte")
    for subfolder, spelling, ending in product(IDX_FOLDERS, spellings, ("", ".gz")):
        path = folder / subfolder / (spelling + ending)
        if path.is_file():  # some archives unpack to folders of these names
            return path
    msg = f"data must be the path of {FILES}; got the folder '{folder}' without {name}[.gz]"
    raise FileNotFoundError(msg)


def _check_part(where: str, images: Array, labels: Array) -> None:
    """Refuse arrays that are readable but are not images of digits with their labels."""
    good_images = images.ndim == 3 and images.dtype == np.uint8 and 0 not in images.shape[1:]
    good_labels = labels.shape == images.shape[:1] and np.issubdtype(labels.dtype, np.integer)
    if not (good_images and good_labels):
        msg = (
            f"{where} must hold uint8 images (n, height, width) and integer labels (n,); "
            f"got {images.dtype} {images.shape} and {labels.dtype} {labels.shape}"
        )
        raise ValueError(msg)
    strange = labels[~np.isin(labels, np.arange(10))]
    if strange.size:
        msg = f"{where} must hold labels from 0 to 9; got {strange[0]} among them"
        raise ValueError(msg)


def _fetch_openml() -> Arrays:
    # pandas reads the file much faster, but is not among our requirements.
    parser = "pandas" if find_spec("pandas") else "liac-arff"
    remedy = f"check the network, or pass as data the path of {FILES}"
    try:
        mnist = fetch_openml("mnist_784", version=1, as_frame=False, parser=parser)
    except (OSError, ValueError) as error:  # no network; a bad answer or a bad check sum
        msg = f"data=None fetches MNIST from OpenML, which failed ({one_line(error)}); {remedy}"
        raise OSError(msg) from None
    images, labels = mnist.data, mnist.target.astype(np.int64)
    if images.shape != OPENML_SHAPE:
        msg = f"OpenML must give MNIST in shape {OPENML_SHAPE}; got {images.shape}; {remedy}"
        raise ValueError(msg)
    images = images.reshape(-1, 28, 28)
    return [
        images[:OPENML_TRAIN],
        labels[:OPENML_TRAIN],
        images[OPENML_TRAIN:],
        labels[OPENML_TRAIN:],
    ]
