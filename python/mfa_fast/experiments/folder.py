"""Folders of reports: told from any other folder, and replaced file by file."""

import json
import os
import tempfile
from collections.abc import Mapping
from pathlib import Path

from mfa_fast._files import put_in_place

# The file that tells a report from any other folder: only what it lists may be replaced.
_MANIFEST = "manifest.json"


def check_folder(out: Path, made_by: str) -> None:
    """Raise ValueError if a report cannot be written to `out`, or it holds something other than an earlier one.

    To be called before minutes of work, not after.

    Parameters
    ----------
    out : Path
        The folder.
    made_by : str
        The command whose earlier report may be replaced.
    """
    if out.exists() and not out.is_dir():
        msg = f"out must be a folder, and {out} is a file"
        raise ValueError(msg)
    others = _not_of_a_report(out, made_by) if out.is_dir() else []
    if others:
        msg = f"out is a folder that holds other files, {out} ({others[0]}): name a new or an empty one"
        raise ValueError(msg)
    check_can_be_made(out)


def check_can_be_made(out: Path) -> None:
    """Raise ValueError if a folder does not exist and cannot be made, or cannot be written."""
    ancestor = next(folder for folder in (out.absolute(), *out.absolute().parents) if os.path.lexists(folder))
    if not ancestor.is_dir():
        msg = f"out cannot be made: {ancestor} is not a folder"
        raise ValueError(msg)
    if not os.access(ancestor, os.W_OK | os.X_OK):
        msg = f"out cannot be written: no permission in {ancestor}"
        raise ValueError(msg)


def _not_of_a_report(out: Path, made_by: str) -> list[str]:
    """Return the names in a folder that no run has written."""
    try:
        manifest = json.loads((out / _MANIFEST).read_text(encoding="utf-8"))
        written = set(manifest["files"]) if manifest["made_by"] == made_by else set()
    except (OSError, ValueError, KeyError, TypeError):
        written = set()
    return sorted(entry.name for entry in out.iterdir() if entry.name not in written or not entry.is_file())


def write_files(contents: Mapping[str, bytes], out: Path, made_by: str) -> None:
    """Write the files of a report to `out`, in place of an earlier one's.

    Parameters
    ----------
    contents : mapping of str to bytes
        File names and what is in them.
    out : Path
        A new or an empty folder, or that of an earlier report of the same command.
    made_by : str
        That command.

    Raises
    ------
    ValueError
        If `out` holds something else.
    """
    check_folder(out, made_by)
    manifest = {"made_by": made_by, "files": [_MANIFEST, *contents]}
    everything = {**contents, _MANIFEST: json.dumps(manifest, indent=2).encode() + b"\n"}
    out.mkdir(parents=True, exist_ok=True)
    # All is written before the first file takes its place: a full disk leaves the earlier report whole. File by file,
    # so that nothing else is ever removed, and in `out` itself, which may be a file system of its own.
    with tempfile.TemporaryDirectory(prefix=".unfinished-", dir=out) as scratch:
        for name, content in everything.items():
            Path(scratch, name).write_bytes(content)
        for name in everything:
            put_in_place(Path(scratch, name), out / name)
