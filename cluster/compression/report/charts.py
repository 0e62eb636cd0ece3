"""Curves as data: latency by batch size, training loss by epoch.

Series differ by marker and dash as well as colour; every mark has a title as its tooltip.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from cluster.compression.figures import figure, milliseconds
from cluster.compression.report.axes import BOTTOM, HEIGHT, LEFT, TOP, WIDTH, Chart, axes
from cluster.compression.report.scale import Scale, around

RIGHT = 150
"""Margin for the names at the ends of the curves, in pixels."""

LABEL_DISTANCE = 16
LOSSES_HEIGHT = 200

SHAPES = {
    "diamond": ((0, -6), (6, 0), (0, 6), (-6, 0)),
    "square": ((-4, -4), (4, -4), (4, 4), (-4, 4)),
    "up": ((0, -5), (5, 4), (-5, 4)),
}
"""Markers other than the circle → their corners around the point, in pixels."""


@dataclass(frozen=True)
class Series:
    """One program's latency; ``points`` are batch, median and 99th percentile in ms."""

    name: str
    points: tuple[tuple[int, float, float], ...]
    role: str
    """Look of the curve: baseline, winner, or other-0 to other-3."""


@dataclass(frozen=True)
class Point:
    """A marker at (x, y); a thin bar reaches up to ``top`` unless it is None."""

    x: float
    y: float
    title: str
    top: float | None = None
    corners: str | None = None
    """Corners of the marker, "x,y x,y ..."; None is a circle."""


@dataclass(frozen=True)
class Curve:
    """Markers joined by a line, with a name at its end unless it is empty."""

    role: str
    points: Sequence[Point]
    radius: float
    name: str = ""
    label_x: float = 0
    label_y: float = 0

    @property
    def line(self) -> str:
        """The points of the SVG polyline."""
        return " ".join(f"{point.x},{point.y}" for point in self.points)


@dataclass(frozen=True)
class CurveChart(Chart):
    """Curves over common axes."""

    curves: Sequence[Curve] = ()


def latency(series: Sequence[Series]) -> CurveChart:
    """Return the chart of median latency by batch size; both axes are logarithmic.

    Thin bars reach the 99th percentile.
    """
    points = [point for program in series for point in program.points]
    batches = sorted({batch for batch, _, _ in points})
    x = around(batches, LEFT, WIDTH - RIGHT, log=True, margin=0.04)
    y = around([ms for _, *both in points for ms in both], HEIGHT - BOTTOM, TOP, log=True)
    labels = _apart([y(program.points[-1][1]) for program in series])
    return CurveChart(
        name="latency-chart",
        title="Median latency by batch size",
        about="Both axes are logarithmic. The table below holds the same figures.",
        axes=axes(x, y, batches, "batch size", "ms per batch"),
        curves=[_curve(program, x, y, at) for program, at in zip(series, labels, strict=True)],
    )


def _curve(series: Series, x: Scale, y: Scale, label: float) -> Curve:
    points = [
        Point(
            x=x(batch),
            y=y(p50),
            top=y(p99),
            title=f"{series.name}, batch {batch}: median {milliseconds(p50)}, "
            f"99th percentile {milliseconds(p99)}",
            corners=_corners(series.role, x(batch), y(p50)),
        )
        for batch, p50, p99 in series.points
    ]
    return Curve(series.role, points, 4.5, series.name, WIDTH - RIGHT + 12, label + 4)


def _corners(role: str, x: float, y: float) -> str | None:
    shape = "diamond" if role == "baseline" else {"1": "square", "2": "up"}.get(role[-1], "")
    if shape not in SHAPES:
        return None
    return " ".join(f"{x + dx:g},{y + dy:g}" for dx, dy in SHAPES[shape])


def losses(values: Sequence[float], name: str) -> CurveChart:
    """Return the chart of training loss per epoch. ``name``: unique on the page."""
    x = Scale(1, max(2, len(values)), LEFT, WIDTH - 20)
    y = around(values, LOSSES_HEIGHT - BOTTOM, TOP, margin=0.08)
    epochs = [tick for tick in x.ticks(8) if tick == int(tick)]
    points = [
        Point(x(epoch), y(loss), f"epoch {epoch}: {figure(loss)}")
        for epoch, loss in enumerate(values, 1)
    ]
    return CurveChart(
        name=name,
        title="Training loss by epoch",
        about=f"From {figure(values[0])} to {figure(values[-1])} in {len(values)} epochs.",
        axes=axes(x, y, epochs, "epoch", "loss"),
        height=LOSSES_HEIGHT,
        curves=[Curve("winner", points, 3)],
    )


def _apart(places: Sequence[float]) -> list[float]:
    """Return the places in order, moved down where two labels would overlap."""
    moved = list(places)
    order = sorted(range(len(places)), key=lambda i: places[i])
    for before, after in pairwise(order):
        moved[after] = max(moved[after], moved[before] + LABEL_DISTANCE)
    return moved
