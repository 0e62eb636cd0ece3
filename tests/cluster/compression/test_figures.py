"""Figures: numbers of three digits with a unit; scales that contain their values."""

from __future__ import annotations

import math

import pytest

from cluster.compression import figures
from cluster.compression.report.scale import Scale, around


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0, "0"),
        (-0.0, "0"),
        (0.0123456, "0.0123"),
        (1.5, "1.50"),
        (12.345, "12.3"),
        (123.45, "123"),
        (98765.4, "98765"),
        (-3.14159, "−3.14"),
        (math.inf, "inf"),
        (1e-12, "0.000000000"),
    ],
)
def test_numbers_have_three_digits_without_exponent(value: float, text: str) -> None:
    assert figures.figure(value) == text


def test_unit_changes_at_rounding_boundary() -> None:
    assert figures.size(999) == "999 B"
    assert figures.size(999_960) == "1.00 MB"
    assert figures.size(13_812_000) == "13.8 MB"
    assert figures.size(5.2e9) == "5.20 GB"
    assert figures.amount(960) == "960"
    assert figures.amount(1_814_073_344) == "1.81 G"


def test_durations_are_printed_as_clock_time() -> None:
    assert [figures.duration(s) for s in (0.456, 9.999, 41.4, 59.6, 200, 7500)] == [
        "0.46 s",
        "10.00 s",
        "41 s",
        "1 min 00 s",
        "3 min 20 s",
        "2 h 05 min",
    ]


def test_points_have_sign_unless_rounded_to_zero() -> None:
    assert [figures.points(p) for p in (0.011, -0.0042, 0.00001, 0)] == [
        "+1.10",
        "−0.42",
        "0.00",
        "0.00",
    ]


def test_scale_maps_values_between_its_ends() -> None:
    scale = Scale(0, 10, 100, 200)
    assert [scale(v) for v in (0, 5, 10, 99, -1)] == [100, 150, 200, 200, 100]
    log = Scale(1, 100, 0, 10, log=True)
    assert [log(v) for v in (1, 10, 100)] == [0, 5, 10]


@pytest.mark.parametrize(("low", "high"), [(0, 1), (-3.7, 8.9), (0.8, 0.86), (1e5, 3e6)])
def test_ticks_are_round_and_within_range(low: float, high: float) -> None:
    ticks = Scale(low, high, 0, 1).ticks()
    assert 3 <= len(ticks) <= 11
    assert low <= ticks[0] < ticks[-1] <= high
    step = ticks[1] - ticks[0]
    assert f"{step:.1e}"[0] in "125"


@pytest.mark.parametrize(("low", "high"), [(1.2, 210), (0.9, 1.1), (3, 3.5), (1e-3, 1e5)])
def test_logarithmic_scale_has_at_least_two_ticks(low: float, high: float) -> None:
    ticks = Scale(low, high, 0, 1, log=True).ticks()
    assert 2 <= len(ticks) <= 12
    assert low <= ticks[0] < ticks[-1] <= high


def test_scale_of_one_value_or_none_has_extent() -> None:
    for values in ([3.0, 3.0], [0.0], [], [math.nan]):
        scale = around(values, 0, 100)
        assert scale.low < scale.high
    assert around([2.0], 0, 100)(2.0) == 50
    assert around([2.0], 0, 100, log=True)(2.0) == 50
