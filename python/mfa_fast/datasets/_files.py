"""Reading of data files: whatever is wrong with one becomes a message of one line."""

import gzip
import math
import zipfile
import zlib
from pathlib import Path
from typing import NoReturn

import numpy as np
import numpy.typing as npt

from mfa_fast._typing import Array
from mfa_fast._validation import one_line

# What the readers of NumPy and of the standard library raise on a damaged file.
DAMAGE = (OSError, EOFError, ValueError, RuntimeError, KeyError, zipfile.BadZipFile, zlib.error)
GZIP_MAGIC = b"\x1f\x8b"
IDX_UNSIGNED_BYTE = 0x08


def reject(path: Path, expected: str, got: str) -> NoReturn:
    """Raise the ValueError for a file that exists but does not hold what it should."""
    msg = f"'{path}' must be {expected}; got {one_line(got)}; download or copy the file again"
    raise ValueError(msg) from None


def read_npz(path: Path, names: tuple[str, ...]) -> list[Array]:
    """Return the arrays `names` of a NumPy archive."""
    expected = f"a NumPy .npz archive with the arrays {', '.join(names)}"
    with path.open("rb") as file:  # outside the try: "permission denied" is no damage
        # Without this, NumPy takes any other file for a pickle and says so.
        if not zipfile.is_zipfile(file):
            reject(path, expected, "a file that is no zip archive, or one cut short")
        file.seek(0)
        try:
            with np.load(file, allow_pickle=False) as archive:
                present = archive.files
                arrays = [archive[name] for name in names if name in present]
        except DAMAGE as error:
            reject(path, expected, f"a damaged one ({error})")
    if len(arrays) < len(names):
        reject(path, expected, f"only {', '.join(present) or 'an empty archive'}")
    for name, array in zip(names, arrays, strict=True):
        if not isinstance(array, np.ndarray):  # NumPy gives any other content as bytes
            reject(path, expected, f"{name} that is no array")
    return arrays


def read_idx(path: Path, n_dimensions: int) -> npt.NDArray[np.uint8]:
    """Return the array of an IDX file of bytes, plain or gzipped.

    The format: two zero bytes, the type (8: unsigned byte), the number of dimensions, the extents
    as big-endian 32-bit integers, then the bytes in C order.
    """
    expected = f"an IDX file of unsigned bytes in {n_dimensions} dimension(s)"
    content = path.read_bytes()
    # By content, not by name: browsers like to unpack a .gz and to keep its name.
    if content.startswith(GZIP_MAGIC):
        try:
            content = gzip.decompress(content)
        except DAMAGE as error:
            reject(path, expected, f"a damaged gzip file ({error})")
    magic = bytes([0, 0, IDX_UNSIGNED_BYTE, n_dimensions])
    header = len(magic) + 4 * n_dimensions
    if not content.startswith(magic):
        start = content[: len(magic)].hex(" ") or "nothing"
        reject(path, f"{expected}, which starts with {magic.hex(' ')}", f"{start} at the start")
    if len(content) < header:
        reject(path, expected, "a header cut short")
    shape = [int(extent) for extent in np.frombuffer(content[len(magic) : header], ">u4")]
    payload = len(content) - header
    if payload != math.prod(shape):
        wanted = " x ".join(map(str, shape))
        reject(path, f"{expected}, with {wanted} bytes after its header", f"{payload} bytes")
    return np.frombuffer(content, np.uint8, offset=header).reshape(shape)


def read_lines(path: Path) -> list[str]:
    """Return the lines of a text file."""
    try:
        return path.read_text(encoding="utf-8").splitlines()
    except UnicodeDecodeError as error:
        reject(path, "a text file", f"bytes that are no text ({error})")
