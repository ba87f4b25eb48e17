"""Mixtures of factor analyzers at full speed, and the robustness of the Bayes-optimal classifiers they make.

`MFA` is a density estimator, `MFAClassifier` one mixture per class. `attacks` has ld_grad, nearest, cw_l2 and ddn, and
`datasets` images and distributions to try them on. `mfa_fast.torch` and `mfa_fast.dask` are imported on their own.
"""

import os as _os
from importlib.metadata import version as _version

from mfa_fast import _core, attacks, datasets
from mfa_fast._config import show_config
from mfa_fast._cuda_extension import CudaUnavailableError
from mfa_fast._late_errors import synchronize
from mfa_fast._statistics import Statistics
from mfa_fast.classifier import MFAClassifier
from mfa_fast.mixture import MFA

if "MFA_FAST_ISA" in _os.environ:
    try:
        _core.set_isa(_os.environ["MFA_FAST_ISA"])
    except ValueError as _error:
        _message = f"the environment variable MFA_FAST_ISA is wrong: {_error}"
        raise ValueError(_message) from None

__version__ = _version("mfa_fast")
__all__ = [
    "MFA",
    "CudaUnavailableError",
    "MFAClassifier",
    "Statistics",
    "attacks",
    "datasets",
    "show_config",
    "synchronize",
]
