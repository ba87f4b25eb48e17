"""Experiments: one driver per file, a configuration in, a result out.

``main_job`` measures the robustness of the Bayes-optimal classifier of a pair of classes and of
support vector machines that learned from its samples. ``report`` writes what it found to a folder.
"""

from mfa_fast.experiments.config import RunConfig
from mfa_fast.experiments.main_job import ModelResult, RunResult, run
from mfa_fast.experiments.report import check_destination, write_report

__all__ = ["ModelResult", "RunConfig", "RunResult", "check_destination", "run", "write_report"]
