"""What came out, set beside what the paper says: a ratio and a verdict for each figure and each statement."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from mfa_fast.experiments.tables import distance, percent


@dataclass(frozen=True)
class Comparison:
    """One line of the comparison: what is compared, both sides as text, and whether they agree.

    `ratio` is ours over the paper's, nan where numbers are not what is compared; `agrees` is None where the paper has
    nothing to hold beside ours.
    """

    what: str
    ours: str
    paper: str
    source: str
    ratio: float
    agrees: bool | None
    verdict: str

    def cells(self) -> list[str]:
        """Return the cells of `COLUMNS`."""
        ratio = "-" if math.isnan(self.ratio) else f"{self.ratio:.2f}"
        return [self.what, self.ours, self.paper, ratio, self.verdict]


COLUMNS = ("What", "Ours", "Paper", "Ratio", "Verdict")
TEXTS = ("What", "Ours", "Paper", "Verdict")  # to be read from the left


def compare_distance(what: str, ours: float, paper: float | None, source: str, tolerance: float) -> Comparison:
    """Hold a distance beside the paper's; `tolerance` is the relative difference within which they agree."""
    shown = distance(ours)
    if paper is None:
        return Comparison(what, shown, "-", "", math.nan, None, "no figure in the paper")
    ratio = ours / paper
    if not math.isfinite(ratio):
        return Comparison(what, shown, distance(paper), source, ratio, False, "no attack succeeded")
    off = abs(ratio - 1)
    agrees = bool(off <= tolerance)
    if agrees:
        verdict = f"within {_up(100 * off):g} %"
    elif 0.5 <= ratio <= 2:
        verdict = f"{100 * off:.0f} % {'larger' if ratio > 1 else 'smaller'}"
    else:
        verdict = f"{max(ratio, 1 / ratio):.1f} times {'larger' if ratio > 1 else 'smaller'}"
    return Comparison(what, shown, distance(paper), source, ratio, agrees, verdict)


def compare_share(what: str, ours: float, paper: float | None, source: str, tolerance: float) -> Comparison:
    """Hold a share, such as an accuracy, beside the paper's; `tolerance` is the difference within which they agree."""
    if paper is None:
        return Comparison(what, percent(ours), "-", "", math.nan, None, "no figure in the paper")
    points = 100 * (ours - paper)
    agrees = bool(abs(ours - paper) <= tolerance + 1e-9)
    off = _up(abs(points))
    verdict = "equal" if off == 0 else f"{'within' if agrees else 'off by'} {off:g} points"
    # A ratio of shares near 0 says nothing.
    ratio = ours / paper if paper >= 0.5 else math.nan
    return Comparison(what, percent(ours), percent(paper), source, ratio, agrees, verdict)


def _up(number: float) -> float:
    """Round up: a figure that is 6.2 % off is within 7 %, not within 6 %."""
    return float(math.ceil(number - 1e-9))


def compare_order(
    what: str, ours: Mapping[str, float], paper: Mapping[str, float], source: str, *, same_data: bool
) -> Comparison:
    """Ask whether figures stand in the paper's order, from the largest to the smallest.

    Where the paper's are of other data (`same_data` False), the order is shown but not judged.
    """
    shared = [name for name in paper if name in ours]
    expected = sorted(shared, key=lambda name: -paper[name])
    found = sorted(shared, key=lambda name: -ours[name] if math.isfinite(ours[name]) else math.inf)
    same = found == expected
    return Comparison(
        what,
        " > ".join(found),
        " > ".join(expected),
        source,
        math.nan,
        same if same_data else None,
        ("same order" if same else "another order") + ("" if same_data else ", of other data"),
    )


def claim(what: str, statement: str, source: str, evidence: str, holds: bool) -> Comparison:
    """Hold a statement of the paper beside what came out."""
    return Comparison(what, evidence, statement, source, math.nan, bool(holds), "holds" if holds else "does not hold")
