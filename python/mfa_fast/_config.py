"""What this build is and what it runs on."""

from __future__ import annotations

import platform
from importlib.metadata import version

import numpy as np

from mfa_fast import _core
from mfa_fast._devices import cuda_state
from mfa_fast._validation import check_threads


def show_config() -> None:
    """Print version, instruction sets, matrix products, threads, and whether CUDA is on and why.

    Examples
    --------
    >>> import mfa_fast
    >>> mfa_fast.show_config()  # doctest: +ELLIPSIS
    mfa_fast          ...
    """
    lines = {
        "mfa_fast": version("mfa_fast"),
        "Python": f"{platform.python_version()}, NumPy {np.__version__}, scikit-learn {version('scikit-learn')}",
        "instruction set": f"{_core.isa()} (this machine has {', '.join(_core.available_isas())})",
        "matrix products": "own kernels (bit-identical for any number of threads)",
        "threads": str(check_threads(None)),
        "CUDA": cuda_state(),
    }
    for name, value in lines.items():
        print(f"{name:<17} {value}")
