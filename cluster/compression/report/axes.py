"""Common parts of all charts as data: drawing area, axes and their ticks.

Colours are classes of the style sheet, so dark mode and print need no second drawing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from cluster.compression.report.scale import Scale

WIDTH, HEIGHT = 640, 340
LEFT, TOP, BOTTOM = 62, 14, 50
"""Margins for the axes, in pixels."""


@dataclass(frozen=True)
class Tick:
    """A number on an axis and its place in pixels."""

    at: float
    text: str


@dataclass(frozen=True)
class Axes:
    """Thin lines at the ticks of y, numbers at both axes, and their names."""

    left: float
    right: float
    floor: float
    ceiling: float
    x_ticks: Sequence[Tick]
    y_ticks: Sequence[Tick]
    x_name: str
    y_name: str


@dataclass(frozen=True)
class Chart:
    """A drawing with a title and a description for screen readers."""

    name: str
    """Unique on the page: its title and description are referred to by id."""
    title: str
    about: str
    axes: Axes
    height: int = HEIGHT
    width: int = WIDTH


def axes(x: Scale, y: Scale, x_ticks: Sequence[float], x_name: str, y_name: str) -> Axes:
    """Return the axes of two scales. A ``y_name`` that ends in % shows shares as percent."""
    factor = 100 if y_name.endswith("%") else 1
    y_ticks = y.ticks()
    digits = max((_digits(tick * factor) for tick in y_ticks), default=0)
    return Axes(
        left=x.start,
        right=x.end,
        floor=y.start,
        ceiling=y.end,
        x_ticks=[Tick(x(tick), _plain(tick)) for tick in x_ticks],
        y_ticks=[
            Tick(y(tick), _plain(tick) if y.log else f"{tick * factor:.{digits}f}")
            for tick in y_ticks
        ],
        x_name=x_name,
        y_name=y_name,
    )


def _plain(tick: float) -> str:
    return f"{tick:.10g}"


def _digits(tick: float) -> int:
    return len(_plain(tick).partition(".")[2])
