"""Files that are written whole or not at all."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory


@contextmanager
def whole_file(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Give the path of an empty file to write to, which takes the place of `path` if there is no error inside.

    It is on the same file system, where a rename is whole. Its permissions will be those of the file in whose place it
    is put, or what ``open`` gives a new one, whatever it is written with. A link stays: what it leads to is written.
    """
    if is_no_file(path):
        msg = f"{os.fspath(path)!r} is a device, a pipe or a socket, and none of these can be replaced by a file"
        raise OSError(msg)
    target = Path(os.path.realpath(path))
    with TemporaryDirectory(prefix=".unfinished-", dir=target.parent) as folder:
        scratch = Path(folder, target.name)
        scratch.touch()
        ordinary = _permissions(scratch)
        yield scratch
        scratch.chmod(ordinary)
        put_in_place(scratch, target)


def is_no_file(path: str | os.PathLike[str]) -> bool:
    """Tell whether there is something that is to be written to as it is: who may replace /dev/null would do so."""
    return os.path.exists(path) and not (os.path.isfile(path) or os.path.isdir(path))


def put_in_place(scratch: Path, target: Path) -> None:
    """Move a file to where another may be, whose permissions it then has."""
    if target.exists():
        scratch.chmod(_permissions(target))
    scratch.replace(target)


def _permissions(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)
