"""Faces of CelebA with and without an attribute."""

import os
from concurrent.futures import ThreadPoolExecutor
from difflib import get_close_matches
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from sklearn.utils import Bunch

from mfa_fast._typing import Array
from mfa_fast._validation import check_integer
from mfa_fast.datasets._bunch import image_bunch, unit_interval
from mfa_fast.datasets._checks import check_existing_path
from mfa_fast.datasets._files import read_lines, reject

IMAGES = "img_align_celeba"
ATTRIBUTES = "list_attr_celeba.txt"
PARTITION = "list_eval_partition.txt"
# torchvision's `root` holds `celeba`; the authors' own download comes in Anno, Eval and Img.
FOLDERS = ("", "celeba", "Anno", "Eval", "Img")
EXPECTED = (
    f"a folder with {IMAGES}, {ATTRIBUTES} and {PARTITION}, from https://mmlab.ie.cuhk.edu.hk/projects/CelebA.html"
)

TRAIN, TEST = "0", "2"  # "1" is the validation part
CHUNK = 32  # images decoded per task: well under 0.1 s, after which Ctrl-C is heard


class _Layout(NamedTuple):
    images: Path
    attributes: Path
    partition: Path


def load_celeba(data: str | os.PathLike[str], attribute: str, size: int = 64) -> Bunch:
    """Load the aligned faces of CelebA as two classes, with and without an attribute.

    Images are cropped to the largest square in their middle (178 x 218 pixels to 178 x 178) and
    resized with antialiased bilinear interpolation. The official training and test parts are
    kept; the validation part is left out, so that results compare with those of others.

    All of CelebA with ``size=64`` takes 9 GB of memory.

    Parameters
    ----------
    data : path
        The folder that holds the folder ``img_align_celeba`` and, beside it, the files
        ``list_attr_celeba.txt`` and ``list_eval_partition.txt``; or the folder that holds all
        this in a folder ``celeba`` (torchvision) or in ``Anno``, ``Eval`` and ``Img`` (the
        authors' download); or ``img_align_celeba`` itself.
    attribute : str
        One of the 40 names in ``list_attr_celeba.txt``, such as "Smiling" or "Heavy_Makeup".
    size : int, default=64
        Height and width of the resized images, in pixels.

    Returns
    -------
    sklearn.utils.Bunch
        X_train : ndarray of shape (n_train, size * size * 3), float32
            Training images, one per row, from 0 to 1, in the order height, width, colour (RGB).
        y_train : ndarray of shape (n_train,), int64
            1 where the attribute is present, 0 where it is not.
        X_test, y_test
            The same for the test part.
        image_shape : tuple of int
            ``(size, size, 3)``: ``X_train[i].reshape(image_shape)`` is an image.
        target_names : list of str
            Such as ``["not Smiling", "Smiling"]``.
        name : str
            Such as "CelebA Smiling".
        DESCR : str
            Where the images come from, and how many there are.

    Raises
    ------
    ImportError
        If Pillow is not installed.
    FileNotFoundError
        If `data`, one of the two lists or an image that they name does not exist.
    TypeError, ValueError
        If an argument is of a wrong type, `attribute` is unknown, `size` is below 1, or a file
        is damaged or of another format.

    References
    ----------
    Z. Liu, P. Luo, X. Wang and X. Tang, "Deep Learning Face Attributes in the Wild", ICCV 2015.

    Examples
    --------
    >>> from mfa_fast.datasets import load_celeba
    >>> faces = load_celeba("celeba", "Smiling")  # doctest: +SKIP
    >>> faces.X_train.shape, faces.target_names  # doctest: +SKIP
    ((162770, 12288), ['not Smiling', 'Smiling'])
    """
    if find_spec("PIL") is None:
        msg = "load_celeba needs Pillow to read JPEG files; install it with: pip install pillow"
        raise ImportError(msg)
    size = check_integer("size", size, 1)
    layout = _find(check_existing_path(data, EXPECTED))
    labels = _read_attribute(layout.attributes, attribute)
    parts = _read_partition(layout.partition, labels)
    names = {part: [name for name in labels if parts[name] == part] for part in (TRAIN, TEST)}
    _check_images_exist(layout.images, names[TRAIN] + names[TEST])

    def load(part: str) -> tuple[Array, Array]:
        X = _read_images(layout.images, names[part], size)
        return X, np.array([labels[name] for name in names[part]], np.int64)

    return image_bunch(
        name=f"CelebA {attribute}",
        source=f"Aligned faces of CelebA (Liu et al., 2015), read from '{layout.images}'.",
        image_shape=(size, size, 3),
        classes={0: f"not {attribute}", 1: attribute},
        train=load(TRAIN),
        test=load(TEST),
    )


def _find(folder: Path) -> _Layout:
    root = folder.parent if folder.name == IMAGES else folder

    def find(name: str) -> Path:
        for path in (root / subfolder / name for subfolder in FOLDERS):
            if path.exists():
                return path
        msg = f"data must be the path of {EXPECTED}; got '{folder}' without {name}"
        raise FileNotFoundError(msg)

    return _Layout(find(IMAGES), find(ATTRIBUTES), find(PARTITION))


def _read_attribute(path: Path, attribute: str) -> dict[str, bool]:
    """Return for each file name whether its image has the attribute.

    The format: the number of images; the names of the attributes; then for each image its file
    name and for each attribute 1 or -1, apart by one or more blanks.
    """
    expected = "the list of attributes of CelebA"
    lines = read_lines(path)
    if len(lines) < 2 or not lines[0].strip().isdecimal():
        first = lines[0][:80] if lines else ""
        reject(path, f"{expected}, which starts with the number of images", repr(first))
    attributes = lines[1].split()
    column = 1 + _index_of(attribute, attributes)
    labels = {}
    for number, line in enumerate(lines[2:], start=3):
        fields = line.split()
        if len(fields) != 1 + len(attributes) or fields[column] not in ("1", "-1"):
            wanted = f"{expected}, with a file name and {len(attributes)} times 1 or -1 per line"
            reject(path, wanted, f"{line[:80]!r} in line {number}")
        labels[fields[0]] = fields[column] == "1"
    if len(labels) != int(lines[0]):
        reject(path, f"{expected}, of {int(lines[0])} images as line 1 says", f"{len(labels)}")
    return labels


def _index_of(attribute: str, attributes: list[str]) -> int:
    if not isinstance(attribute, str):
        msg = f"attribute must be a string; got an object of type {type(attribute).__name__}"
        raise TypeError(msg)
    if attribute in attributes:
        return attributes.index(attribute)
    plain = {name.lower(): name for name in attributes}
    close = get_close_matches(attribute.lower().replace(" ", "_"), plain, cutoff=0.5)
    advice = "close matches" if close else "the names"
    listed = ", ".join(plain[name] for name in close or plain)
    msg = f"attribute must be one of the {len(attributes)} names in {ATTRIBUTES}; got {attribute!r}; {advice}: {listed}"
    raise ValueError(msg)


def _read_partition(path: Path, names: dict[str, bool]) -> dict[str, str]:
    """Return for each file name the part that it belongs to."""
    expected = "the list of parts of CelebA, with a file name and 0, 1 or 2 per line"
    parts = {}
    for number, line in enumerate(read_lines(path), start=1):
        fields = line.split()
        if len(fields) != 2 or fields[1] not in ("0", "1", "2"):
            reject(path, expected, f"{line[:80]!r} in line {number}")
        parts[fields[0]] = fields[1]
    # A list that was cut short would else go unnoticed: its end is the test part.
    missing = [name for name in names if name not in parts]
    if missing:
        wanted = f"{expected}, for every image in {ATTRIBUTES}"
        reject(path, wanted, f"none for {len(missing)} of them, the first {missing[0]}")
    return parts


def _check_images_exist(folder: Path, names: list[str]) -> None:
    """Report missing images before minutes are spent on decoding the others."""
    present = set(os.listdir(folder))
    missing = [name for name in names if name not in present]
    if missing:
        msg = (
            f"'{folder}' must hold the {len(names)} images of the training and test parts; "
            f"got a folder without {len(missing)} of them, the first {missing[0]}; "
            f"unpack {IMAGES}.zip again"
        )
        raise FileNotFoundError(msg)


def _read_images(folder: Path, names: list[str], size: int) -> npt.NDArray[np.float32]:
    """Return cropped and resized images as rows (n, size * size * 3) in [0, 1]."""
    X = np.empty((len(names), size * size * 3), np.float32)

    def read_chunk(start: int) -> None:
        rows = slice(start, start + CHUNK)
        images = np.stack([_read_image(folder / name, size) for name in names[rows]])
        X[rows] = unit_interval(images, 255)

    # Pillow decodes and resizes without the interpreter lock, so threads do.
    with ThreadPoolExecutor() as pool:
        # Consumed for the exceptions; the first one cancels the tasks that have not begun.
        for _ in pool.map(read_chunk, range(0, len(names), CHUNK)):
            pass
    return X


def _read_image(path: Path, size: int) -> npt.NDArray[np.uint8]:
    from PIL import Image  # optional, so not at the top

    try:
        with Image.open(path) as image:
            mode = image.mode
            side = min(image.size)
            left, top = (image.width - side) // 2, (image.height - side) // 2
            face = image.convert("RGB").crop((left, top, left + side, top + side))
            pixels = np.asarray(face.resize((size, size), Image.Resampling.BILINEAR))
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        reject(path, "a readable image", f"a damaged one ({error})")
    if mode.startswith(("I", "F")):  # Pillow cuts off what is above 255
        reject(path, "an image of 8 bits per colour", f"one of Pillow's mode {mode}")
    return pixels
