"""Attacks: small changes to samples that change their predicted class."""

from mfa_fast.attacks.carlini_wagner import cw_l2, ddn
from mfa_fast.attacks.ld_grad import ld_grad
from mfa_fast.attacks.nearest import nearest
from mfa_fast.attacks.result import AttackResult

__all__ = ["AttackResult", "cw_l2", "ddn", "ld_grad", "nearest"]
