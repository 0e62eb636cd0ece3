"""The Pareto front of a search: what no other combination beats in everything. Pure."""

from __future__ import annotations

import math
from collections.abc import Sequence

Point = tuple[float, float, float]
"""Score (more is better), latency in ms and bytes (less is better)."""


def front(points: Sequence[Point]) -> set[int]:
    """Positions of the points that no other point dominates.

    One point dominates another if it is at least as good in score, latency and bytes, and better
    in one of them (Pareto, "Manuale di economia politica", 1906). Equal points do not dominate
    each other. A point with a value that is not finite was not measured, and is never on the
    front.
    """
    measured = {i: point for i, point in enumerate(points) if all(map(math.isfinite, point))}
    return {
        i
        for i, point in measured.items()
        if not any(_dominates(other, point) for other in measured.values())
    }


def _dominates(one: Point, other: Point) -> bool:
    as_good = one[0] >= other[0] and one[1] <= other[1] and one[2] <= other[2]
    return as_good and one != other
