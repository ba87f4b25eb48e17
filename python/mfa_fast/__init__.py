"""Mixtures of factor analyzers at full speed, and the robustness of the Bayes-optimal classifiers they make."""

import os as _os

from mfa_fast import _core, attacks, datasets
from mfa_fast._backend import CudaUnavailableError
from mfa_fast._config import show_config
from mfa_fast.classifier import MFAClassifier
from mfa_fast.mixture import MFA

if "MFA_FAST_ISA" in _os.environ:
    _core.set_isa(_os.environ["MFA_FAST_ISA"])

__version__ = "0.1.0"
__all__ = ["MFA", "CudaUnavailableError", "MFAClassifier", "attacks", "datasets", "show_config"]
