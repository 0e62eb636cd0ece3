"""Pareto front: exactly the nondominated points."""

from __future__ import annotations

import math
import random

from cluster.compression.search.result import Point, pareto_front


def test_front_contains_all_nondominated_points() -> None:
    points = [
        (0.90, 10.0, 100.0),  # the most accurate
        (0.85, 5.0, 50.0),
        (0.85, 6.0, 50.0),  # slower than the one before, and nothing better
        (0.80, 5.0, 20.0),  # the smallest
        (0.70, 5.0, 50.0),  # less accurate than the second
        (0.60, 1.0, 900.0),  # the fastest
    ]
    assert pareto_front(points) == {0, 1, 3, 5}


def test_equal_points_are_all_on_front() -> None:
    assert pareto_front([(0.9, 1.0, 1.0), (0.9, 1.0, 1.0), (0.8, 1.0, 1.0)]) == {0, 1}


def test_front_of_one_point_or_none() -> None:
    assert pareto_front([(0.1, 9.0, 9.0)]) == {0}
    assert pareto_front([]) == set()


def test_unmeasured_points_are_not_on_front() -> None:
    points = [(math.nan, 1.0, 1.0), (0.9, math.inf, 1.0), (0.5, 5.0, 5.0), (0.4, 5.0, 5.0)]
    assert pareto_front(points) == {2}


def test_front_dominates_all_other_points() -> None:
    drawn = random.Random(0)
    points: list[Point] = [
        (drawn.randint(0, 9) / 10, drawn.randint(1, 9), drawn.randint(1, 9)) for _ in range(300)
    ]
    front = pareto_front(points)

    def beats(one: Point, other: Point) -> bool:
        better = (one[0] - other[0], other[1] - one[1], other[2] - one[2])
        return min(better) >= 0 and max(better) > 0

    assert 1 < len(front) < 100
    for i, point in enumerate(points):
        assert any(beats(points[j], point) for j in front) == (i not in front)
