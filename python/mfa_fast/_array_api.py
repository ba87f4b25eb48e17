"""Arrays of any library that keeps to the array API standard (data-apis.org/array-api), in host memory."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray


def is_standard(array: Any) -> bool:
    """Tell whether it is an array of the standard, and not NumPy's."""
    follows = hasattr(array, "__array_namespace__") and hasattr(array, "__dlpack__")
    return follows and not isinstance(array, (np.ndarray, np.generic))


def borrow(array: Any, name: str = "X") -> tuple[NDArray[Any], Callable[[NDArray[Any]], Any]]:
    """Return NumPy's view of such an array, and the way back to its library and device; neither copies if it need not.

    Raises
    ------
    TypeError
        If its memory or its dtype is none that NumPy can read.
    """
    library, device = array.__array_namespace__(), array.device
    try:
        view = np.from_dlpack(array)
    except (BufferError, RuntimeError, TypeError, ValueError) as error:
        msg = (
            f"{name} must be in host memory and of a dtype that NumPy has, got an array of {library.__name__} of dtype "
            f"{array.dtype} on {device} ({error})."
        )
        raise TypeError(msg) from error
    return view, lambda result: library.asarray(result, device=device)


def as_numpy(array: Any, name: str = "X") -> Any:
    """Return NumPy's view of such an array; what is none as it is."""
    return borrow(array, name)[0] if is_standard(array) else array
