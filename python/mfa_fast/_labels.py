"""Class labels: what comes in, their places among the classes, and the way back."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from numbers import Real
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import column_or_1d

from mfa_fast._backend import Array, Samples, raise_named
from mfa_fast._devices import to_host
from mfa_fast._diagnosis import naming


def check_labels(y: Any, n_samples: int) -> Array:
    """Return class labels (n_samples,)."""
    if y is None:
        msg = "MFAClassifier requires y to be passed, but the target y is None: pass the class labels."
        raise ValueError(msg)
    labels = column_or_1d(to_host(y, "y"), warn=True)
    _check_types("y", labels)
    try:
        check_classification_targets(labels)
    except ValueError as error:
        raise_named("y", error)
    if len(labels) != n_samples:
        msg = f"y must have as many labels as X has samples, got {len(labels)} labels and {n_samples} samples."
        raise ValueError(msg)
    return labels


def check_classes(classes: Any) -> Array:
    """Return the distinct labels of a first call of partial_fit, sorted."""
    if classes is None:
        msg = "classes must be passed in the first call of partial_fit: all labels that y will ever hold."
        raise ValueError(msg)
    labels = column_or_1d(classes)
    _check_types("classes", labels)
    labels = np.unique(labels)
    if len(labels) < 2:
        msg = f"classes must hold at least two classes, got {labels.tolist()}."
        raise ValueError(msg)
    return labels


def _check_types(name: str, labels: Array) -> None:
    """Refuse labels of several types, which have no order."""
    if labels.dtype != object:
        return
    types = {next((t for t in (str, Real) if isinstance(label, t)), type(label)) for label in labels}
    if len(types) > 1:
        msg = (
            f"{name} must hold labels of one type, got {', '.join(sorted({type(label).__name__ for label in labels}))};"
            " make all of them strings, or all of them numbers."
        )
        raise ValueError(msg)


def class_indices(classes: Array, y: Any, n_samples: int) -> NDArray[np.int64]:
    """Return the places (n_samples,) of labels among the classes, which may be in any order."""
    labels = check_labels(y, n_samples)
    order = np.argsort(classes)
    unknown = np.setdiff1d(labels, classes)
    if len(unknown):
        msg = f"y has labels that the model does not know: {unknown[:5].tolist()}; its classes are {classes.tolist()}."
        raise ValueError(msg)
    return order[np.searchsorted(classes, labels, sorter=order)].astype(np.int64)


def labels_at(samples: Samples, labels: Array, indices: Any) -> Any:
    """Return the labels that indices stand for: where the samples are if they are numbers, else as a NumPy array."""
    if labels.dtype.kind in "biuf":
        return samples.wrap(samples.arrays.from_host(labels)[indices])
    return labels[samples.fetch(indices)]


@contextmanager
def naming_class(label: Any, n_samples: int) -> Iterator[str]:
    """Say of a warning which class it is about, and of an error which could not be fitted; gives the class's name."""
    plain = label.item() if isinstance(label, np.generic) else label
    name = f"class {plain!r}"
    try:
        with naming(name):
            yield name
    except ValueError as error:
        advice = " Leave the class out, or give it more samples." if n_samples < 2 else ""
        msg = f"{name} ({n_samples} sample(s)) cannot be fitted: {error}{advice}"
        raise ValueError(msg) from error
