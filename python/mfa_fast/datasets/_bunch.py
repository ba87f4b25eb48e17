"""The common form in which every loader returns its images."""

import numpy as np
import numpy.typing as npt
from sklearn.utils import Bunch

from mfa_fast._typing import Array


def unit_interval(images: Array, maximum: int) -> npt.NDArray[np.float32]:
    """Return images (n, ...) with values 0 to `maximum` as rows (n, d) of values in [0, 1]."""
    scaled = np.empty((len(images), int(np.prod(images.shape[1:]))), np.float32)
    np.divide(images.reshape(scaled.shape), np.float32(maximum), out=scaled, casting="same_kind")
    return scaled


def image_bunch(
    *,
    name: str,
    source: str,
    image_shape: tuple[int, ...],
    classes: dict[int, str],
    train: tuple[Array, Array],
    test: tuple[Array, Array],
) -> Bunch:
    """Put the two parts, each (X, y), together; `classes`: labels, in rising order, to names."""
    X_train, y_train = train
    X_test, y_test = test
    for label, class_name in classes.items():
        if not np.any(y_train == label):
            msg = (
                f"data for {name} must hold training images of both classes; "
                f"got none of class '{class_name}'; check that the files are complete"
            )
            raise ValueError(msg)
    counts = ", ".join(
        f"'{class_name}' (label {label}): {np.sum(y_train == label)} + {np.sum(y_test == label)}"
        for label, class_name in classes.items()
    )
    description = (
        f"{name}\n\n{source}\n\n"
        f"{len(X_train)} training and {len(X_test)} test images of shape {image_shape}, "
        f"one per row, float32 in [0, 1].\nClasses, training + test images: {counts}.\n"
    )
    return Bunch(
        X_train=X_train,
        y_train=y_train.astype(np.int64),
        X_test=X_test,
        y_test=y_test.astype(np.int64),
        image_shape=image_shape,
        target_names=list(classes.values()),
        name=name,
        DESCR=description,
    )


def digit_pair_bunch(
    name: str,
    source: str,
    pair: tuple[int, int],
    train: tuple[Array, Array],
    test: tuple[Array, Array],
    maximum: int,
) -> Bunch:
    """Keep two digits of ten; each part: images (n, height, width) up to `maximum`, labels (n,)."""

    def select(images: Array, labels: Array) -> tuple[Array, Array]:
        kept = np.isin(labels, pair)  # before the conversion, which takes four times the memory
        return unit_interval(images[kept], maximum), labels[kept]

    return image_bunch(
        name=f"{name} {pair[0]}-{pair[1]}",
        source=source,
        image_shape=train[0].shape[1:],
        classes={digit: str(digit) for digit in pair},
        train=select(*train),
        test=select(*test),
    )
