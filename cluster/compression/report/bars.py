"""Bars inside table cells: they shrink with the page, and the row repeats their figures as text.

Places and widths are percent of the cell's width.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from cluster.compression.report.scale import Scale


@dataclass(frozen=True)
class Mark:
    """One shape on a track; ``look`` is its classes in the style sheet."""

    look: str
    left: float
    width: float | None = None


@dataclass(frozen=True)
class Bars:
    """Tracks above one another in one cell."""

    tracks: tuple[tuple[Mark, ...], ...]


def bar(value: float, scale: Scale, look: str = "result") -> Bars:
    """Return a bar from 0 to ``value``, to the left if negative; an empty track if not finite.

    ``look``: result, baseline, or worse.
    """
    return Bars((_bar(value, scale, look),))


def span(low: float, high: float, scale: Scale) -> Bars:
    """Return a bar from ``low`` to ``high`` with a line at 0."""
    return Bars((_span(low, high, scale, "result", zero=True),))


def interval(value: float, low: float, high: float, scale: Scale, look: str = "result") -> Bars:
    """Return a confidence interval with its estimate inside."""
    start, end = scale(low), scale(high)
    width = round(end - start, 1)
    return Bars(((Mark(f"range {look}", start, width), Mark(f"dot {look}", scale(value))),))


def pair(before: float, after: float, scale: Scale) -> Bars:
    """Return two bars, the baseline's above the result's."""
    return Bars((_bar(before, scale, "baseline"), _bar(after, scale, "result")))


def _bar(value: float, scale: Scale, look: str) -> tuple[Mark, ...]:
    if not math.isfinite(value):
        return ()
    return _span(min(0.0, value), max(0.0, value), scale, look, zero=scale.low < 0)


def _span(low: float, high: float, scale: Scale, look: str, *, zero: bool) -> tuple[Mark, ...]:
    start, end = scale(low), scale(high)
    drawn = Mark(f"bar {look}", start, round(end - start, 1))
    return (Mark("zero", scale(0)), drawn) if zero else (drawn,)
