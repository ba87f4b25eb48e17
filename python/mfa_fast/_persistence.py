"""Models as safetensors files: named arrays and a header of plain text, no pickle."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from mfa_fast._files import whole_file
from mfa_fast._typing import Array

_FORMAT = "1"
_NAMES = ("weights", "means", "loadings", "noise_variance")
# What `fit` and `partial_fit` leave beside the parameters.
_FITTED = ("converged_", "n_iter_", "lower_bound_", "lower_bounds_", "n_steps_", "n_samples_seen_")


def _check_path(path: Any) -> Any:
    if not isinstance(path, (str, bytes, os.PathLike)):
        msg = f"path must be that of a file, got {path!r} of type {type(path).__name__}."
        raise TypeError(msg)
    return path


def write(path: str | os.PathLike[str], kind: str, arrays: Mapping[str, Array], header: Mapping[str, Any]) -> None:
    """Write a model whole or not at all."""
    target = os.fsdecode(_check_path(path))
    folder = os.path.dirname(target) or "."
    if not os.path.isdir(folder):
        msg = f"there is no folder {folder!r} to write {os.path.basename(target)!r} into; make it first."
        raise FileNotFoundError(msg)
    metadata = {"format": _FORMAT, "kind": kind, "header": json.dumps(dict(header))}
    try:
        with whole_file(target) as scratch:
            save_file({name: np.ascontiguousarray(a) for name, a in arrays.items()}, scratch, metadata)
    except (OSError, SafetensorError) as error:
        msg = f"{target!r} cannot be written: {error}"
        raise OSError(msg) from error


def plain_parameters(estimator: Any) -> dict[str, Any]:
    """Return the constructor's parameters that are numbers, strings or None; arrays and generators are left out."""
    parameters = estimator.get_params(deep=False).items()
    values = {k: v.item() if isinstance(v, np.generic) else v for k, v in parameters}
    return {k: v for k, v in values.items() if isinstance(v, (bool, int, float, str, type(None)))}


@contextmanager
def whole(path: str | os.PathLike[str]) -> Iterator[None]:
    """Turn what goes wrong with a file's contents into a ValueError that names the file."""
    try:
        yield
    except (AttributeError, KeyError, OverflowError, TypeError, ValueError) as error:
        msg = f"{os.fspath(path)!r} does not hold a whole model ({error}); save it again."
        raise ValueError(msg) from error


def kind_of(path: str | os.PathLike[str]) -> str:
    """Return which estimator a file holds; a ValueError or FileNotFoundError names a file that holds none."""
    source = os.fsdecode(_check_path(path))
    if os.path.isdir(source):
        msg = f"{source!r} is a folder; give the path of a model file."
        raise ValueError(msg)
    if not os.path.isfile(source):
        msg = f"there is no model file {source!r}."
        raise FileNotFoundError(msg)
    try:
        with safe_open(source, framework="numpy") as file:
            metadata = file.metadata() or {}
    except (SafetensorError, OSError) as error:
        msg = f"{source!r} is not a model file, or it is cut short ({error}); save the model again."
        raise ValueError(msg) from error
    kind, found = metadata.get("kind"), metadata.get("format")
    if kind is None or found != _FORMAT:
        msg = f"{source!r} holds {kind or 'no model'} (format {found}), expected a model of format {_FORMAT}."
        raise ValueError(msg)
    return kind


def read(path: str | os.PathLike[str], kind: str) -> tuple[dict[str, Array], dict[str, Any]]:
    """Read what `write` wrote; anything else is a ValueError that names the file."""
    found = kind_of(path)
    if found != kind:
        msg = f"{os.fspath(path)!r} holds {found}, expected {kind}; use {found.rpartition('.')[2]}.load."
        raise ValueError(msg)
    with whole(path):
        try:
            with safe_open(os.fsdecode(path), framework="numpy") as file:
                header = json.loads(file.metadata()["header"])
                return {name: file.get_tensor(name) for name in file.keys()}, header  # noqa: SIM118
        except SafetensorError as error:
            raise ValueError(str(error)) from error


def arrays_of(model: Any, prefix: str = "") -> dict[str, Array]:
    """Return a model's parameters by the names they have in a file."""
    return {prefix + name: getattr(model, f"{name}_") for name in _NAMES}


def header_of(model: Any) -> dict[str, Any]:
    """Return what else a file tells of a model, as plain Python."""
    fitted = {name: getattr(model, name) for name in _FITTED if hasattr(model, name)}
    names = {"feature_names_in_": list(model.feature_names_in_)} if hasattr(model, "feature_names_in_") else {}
    return {"parameters": plain_parameters(model), "fitted": fitted | names}


def restore(
    cls: Any, path: str | os.PathLike[str], arrays: dict[str, Array], header: dict[str, Any], prefix: str = ""
) -> Any:
    """Make a model of arrays and a header from a file."""
    with whole(path):
        model = cls.from_parameters(*(arrays[prefix + name] for name in _NAMES)).set_params(**header["parameters"])
        for name, value in header["fitted"].items():
            setattr(model, name, np.array(value, dtype=object) if name == "feature_names_in_" else value)
        return model
