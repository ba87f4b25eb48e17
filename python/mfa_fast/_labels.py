"""Class labels: what comes in, their places among the classes, and the way back."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from numbers import Real
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import column_or_1d

from mfa_fast._devices import to_host
from mfa_fast._diagnosis import naming
from mfa_fast._samples import Samples
from mfa_fast._typing import Array
from mfa_fast._validation import one_line, reject_masked


def check_labels(y: Any, n_samples: int) -> Array:
    """Return class labels (n_samples,)."""
    if y is None:
        msg = "MFAClassifier requires y to be passed, but the target y is None: pass the class labels."
        raise ValueError(msg)
    labels = as_labels("y", y)
    if len(labels) != n_samples:
        msg = f"y must have as many labels as X has samples, got {len(labels)} labels and {n_samples} samples."
        raise ValueError(msg)
    return labels


def check_classes(classes: Any) -> Array:
    """Return the distinct labels of a first call of partial_fit, sorted."""
    if classes is None:
        msg = "classes must be passed in the first call of partial_fit: all labels that y will ever hold."
        raise ValueError(msg)
    labels = np.unique(as_labels("classes", classes))
    if len(labels) < 2:
        msg = f"classes must hold at least two classes, got {labels.tolist()}."
        raise ValueError(msg)
    return labels


def as_labels(name: str, given: Any) -> Array:
    """Return class labels (n,) as they came, none of them missing: strings, or numbers that are whole."""
    if isinstance(given, (list, tuple)):
        _check_types(name, given)  # NumPy makes strings of numbers beside strings
    reject_masked(name, given, "leave such samples out")
    try:
        host = to_host(given, name)
        if type(host) is np.ndarray and host.ndim == 1 and host.dtype.kind in "iub" and host.dtype.isnative:
            return host  # scikit-learn would look at all of them, and find nothing
        labels = column_or_1d(host, warn=name == "y")
    except ValueError as error:
        msg = f"{name} must be a list or an array, of one dimension, of labels, got {one_line(repr(given))}."
        raise ValueError(msg) from error
    if labels.dtype.kind == "T":  # strings of any length
        labels = labels.astype(object)
    if labels.dtype.kind == "S" or (labels.dtype == object and any(isinstance(label, bytes) for label in labels)):
        # Not all of scikit-learn's versions that are admitted do so.
        msg = f"{name} must hold strings or whole numbers as labels, got bytes: decode them."
        raise TypeError(msg)
    if labels.dtype == object:
        _check_types(name, labels)
        if len(labels) and isinstance(labels[0], Real):
            labels = np.array(labels.tolist())
    if not labels.dtype.isnative:
        labels = labels.astype(labels.dtype.newbyteorder("="))  # predictions are to go to libraries that know no other
    if labels.dtype.kind == "f" and not np.isfinite(labels).all():
        place = int(np.argmin(np.isfinite(labels)))
        what = "NaN" if np.isnan(labels[place]) else "infinity"
        msg = f"Input {name} contains {what}, at index {place}, which is no label: leave it out, or give it one."
        raise ValueError(msg)
    try:
        # It tries floating-point labels as integers, which large ones are out of the range of; and warns of many
        # classes among few labels, of which a list of classes is nothing else.
        with np.errstate(invalid="ignore"), warnings.catch_warnings():
            warnings.filterwarnings("ignore", "The number of unique classes", UserWarning)
            check_classification_targets(labels)
    except (TypeError, ValueError) as error:
        msg = f"{name} must hold strings or whole numbers as labels: {error}"
        raise (TypeError if isinstance(error, TypeError) else ValueError)(msg) from error
    return labels


def _check_types(name: str, labels: Iterable[Any]) -> None:
    """Refuse labels of several types, which have no order."""
    types = {type(label) for label in labels}
    if len({next((t for t in (str, Real) if issubclass(own, t)), own) for own in types}) > 1:
        msg = (
            f"{name} must hold labels of one type, got {', '.join(sorted(own.__name__ for own in types))}; make all of "
            "them strings, or all of them numbers."
        )
        raise ValueError(msg)


def class_indices(classes: Array, y: Any, n_samples: int) -> NDArray[np.int64]:
    """Return the places (n_samples,) of labels among the classes, which may be in any order."""
    labels = check_labels(y, n_samples)
    order = np.argsort(classes)
    if labels.dtype == classes.dtype:  # others are compared as what both become side by side
        places = order[np.minimum(np.searchsorted(classes, labels, sorter=order), len(classes) - 1)]
        if np.array_equal(classes[places], labels):
            return places.astype(np.int64, copy=False)
    unknown = np.setdiff1d(labels, classes)
    if len(unknown):
        msg = f"y has labels that the model does not know: {unknown[:5].tolist()}; its classes are {classes.tolist()}."
        raise ValueError(msg)
    return order[np.searchsorted(classes, labels, sorter=order)].astype(np.int64)


def check_comparable(labels: Array, classes: Array) -> None:
    """Refuse labels that can be none of the classes, strings beside numbers."""
    kinds = ["numbers" if some.dtype.kind in "biuf" else "strings" for some in (labels, classes)]
    if kinds[0] != kinds[1]:
        msg = f"y must hold labels like the model's classes, which are {kinds[1]}, got {kinds[0]}."
        raise ValueError(msg)


def labels_at(samples: Samples, labels: Array, indices: Any) -> Any:
    """Return the labels that indices stand for: where the samples are if they are numbers, else as a NumPy array."""
    if labels.dtype.kind in "biuf":
        return samples.wrap(samples.arrays.pick(labels, indices))
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
