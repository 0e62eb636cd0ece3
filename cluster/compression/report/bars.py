"""Bars inside table cells: they shrink with the page, and the figure stands beside them.

All are drawn on a scale of percent of the cell's width; what they show is in the row's text.
"""

from __future__ import annotations

import math

from cluster.compression.report.markup import Markup, tag
from cluster.compression.report.scale import Scale


def bar(value: float, scale: Scale, look: str = "result") -> Markup:
    """From 0 to the value, to the left where it is negative; nothing if it is not finite.

    ``look``: result, baseline, or worse.
    """
    if not math.isfinite(value):
        return tag("div", class_="track")
    return span(min(0.0, value), max(0.0, value), scale, look, zero=scale.low < 0)


def span(
    low: float, high: float, scale: Scale, look: str = "result", *, zero: bool = False
) -> Markup:
    """From ``low`` to ``high``. ``zero``: with a line where 0 stands."""
    start, end = scale(low), scale(high)
    return tag(
        "div",
        tag("div", class_="zero", style=f"left:{scale(0)}%") if zero else None,
        tag("div", class_=f"bar {look}", style=f"left:{start}%;width:{round(end - start, 1)}%"),
        class_="track",
    )


def interval(value: float, low: float, high: float, scale: Scale, look: str = "result") -> Markup:
    """A confidence interval with its estimate inside."""
    start, end = scale(low), scale(high)
    return tag(
        "div",
        tag("div", class_=f"range {look}", style=f"left:{start}%;width:{round(end - start, 1)}%"),
        tag("div", class_=f"dot {look}", style=f"left:{scale(value)}%"),
        class_="track",
    )


def pair(before: float, after: float, scale: Scale) -> Markup:
    """Two bars, one above the other: the baseline's and the result's."""
    return tag("div", bar(before, scale, "baseline"), bar(after, scale), class_="pair")
