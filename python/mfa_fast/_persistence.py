"""Models as safetensors files: named arrays and a header of plain text, no pickle."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from mfa_fast._backend import Array

_FORMAT = "1"


def write(path: str | os.PathLike[str], kind: str, arrays: Mapping[str, Array], header: Mapping[str, Any]) -> None:
    """Write a model whole or not at all: into a temporary file beside the target, which is then renamed."""
    target = os.fspath(path)
    partial = f"{target}.{os.getpid()}.partial"
    metadata = {"format": _FORMAT, "kind": kind, "header": json.dumps(dict(header))}
    try:
        save_file({name: np.ascontiguousarray(a) for name, a in arrays.items()}, partial, metadata)
        os.replace(partial, target)
    except BaseException:
        if os.path.exists(partial):
            os.remove(partial)
        raise


def plain_parameters(estimator: Any) -> dict[str, Any]:
    """Return the constructor's parameters that are numbers, strings or None; arrays and generators are left out."""
    plain = (bool, int, float, str, type(None))
    return {k: v for k, v in estimator.get_params(deep=False).items() if isinstance(v, plain)}


def read(path: str | os.PathLike[str], kind: str) -> tuple[dict[str, Array], dict[str, Any]]:
    """Read what `write` wrote; anything else is a ValueError that names the file."""
    source = os.fspath(path)
    if not os.path.isfile(source):
        msg = f"there is no model file {source!r}."
        raise FileNotFoundError(msg)
    try:
        with safe_open(source, framework="numpy") as file:
            metadata = file.metadata() or {}
            found = metadata.get("kind"), metadata.get("format")
            if found == (kind, _FORMAT):
                header = json.loads(metadata["header"])
                return {name: file.get_tensor(name) for name in file.keys()}, header  # noqa: SIM118
    except (SafetensorError, OSError, ValueError, KeyError) as error:
        msg = f"{source!r} is not a model file, or it is cut short ({error}); save the model again."
        raise ValueError(msg) from error
    msg = f"{source!r} holds {found[0] or 'no model'} (format {found[1]}), expected {kind} (format {_FORMAT})."
    raise ValueError(msg)
