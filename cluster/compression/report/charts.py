"""Curves as SVG: latency by batch size, training loss by epoch.

Series differ by marker and dash too, not by colour alone; every mark has a title to point at.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from cluster.compression.figures import figure, milliseconds
from cluster.compression.report.axes import BOTTOM, HEIGHT, LEFT, TOP, WIDTH, chart, grid
from cluster.compression.report.markup import Markup, tag
from cluster.compression.report.scale import Scale, around

RIGHT = 150
"""Room for the names at the ends of the curves."""

LABEL_DISTANCE = 16
LOSSES_HEIGHT = 200


@dataclass(frozen=True)
class Series:
    """One program's curve: ``points`` are batch, median and 99th percentile in ms."""

    name: str
    points: tuple[tuple[int, float, float], ...]
    role: str
    """How it is drawn: baseline, winner, or other-0 to other-3."""


def latency(series: Sequence[Series]) -> Markup:
    """Median latency by batch size, both axes logarithmic; thin bars reach the 99th percentile."""
    points = [point for each in series for point in each.points]
    batches = sorted({batch for batch, _, _ in points})
    x = around(batches, LEFT, WIDTH - RIGHT, log=True, margin=0.04)
    y = around([ms for _, *both in points for ms in both], HEIGHT - BOTTOM, TOP, log=True)
    labels = _apart([y(each.points[-1][1]) for each in series])
    drawn = [_curve(each, x, y, at) for each, at in zip(series, labels, strict=True)]
    return chart(
        "latency-chart",
        "Median latency by batch size",
        "Both axes are logarithmic. The table below holds the same figures.",
        grid(x, y, batches, "batch size", "ms per batch"),
        *drawn,
    )


def _curve(series: Series, x: Scale, y: Scale, label: float) -> Markup:
    line = " ".join(f"{x(batch)},{y(p50)}" for batch, p50, _ in series.points)
    marks = []
    for batch, p50, p99 in series.points:
        title = (
            f"{series.name}, batch {batch}: median {milliseconds(p50)}, "
            f"99th percentile {milliseconds(p99)}"
        )
        marks += [
            tag("line", x1=x(batch), x2=x(batch), y1=y(p50), y2=y(p99), class_="whisker"),
            _mark(series.role, x(batch), y(p50), title),
        ]
    return tag(
        "g",
        tag("polyline", points=line, class_="curve"),
        *marks,
        tag("text", series.name, x=WIDTH - RIGHT + 12, y=label + 4, class_="series"),
        class_=f"role-{series.role}",
    )


def _mark(role: str, x: float, y: float, title: str) -> Markup:
    """A marker of the role's own shape."""
    about = tag("title", title)
    shape = "diamond" if role == "baseline" else {"1": "square", "2": "up"}.get(role[-1], "circle")
    if shape == "circle":
        return tag("circle", about, cx=x, cy=y, r=4.5, class_="mark")
    corners = {
        "diamond": ((0, -6), (6, 0), (0, 6), (-6, 0)),
        "square": ((-4, -4), (4, -4), (4, 4), (-4, 4)),
        "up": ((0, -5), (5, 4), (-5, 4)),
    }[shape]
    points = " ".join(f"{x + dx:g},{y + dy:g}" for dx, dy in corners)
    return tag("polygon", about, points=points, class_="mark")


def losses(values: Sequence[float], name: str) -> Markup:
    """Training loss per epoch. ``name``: unique on the page, for its title's id."""
    x = Scale(1, max(2, len(values)), LEFT, WIDTH - 20)
    y = around(values, LOSSES_HEIGHT - BOTTOM, TOP, margin=0.08)
    epochs = [tick for tick in x.ticks(8) if tick == int(tick)]
    points = " ".join(f"{x(epoch)},{y(loss)}" for epoch, loss in enumerate(values, 1))
    marks = [
        tag(
            "circle",
            tag("title", f"epoch {epoch}: {figure(loss)}"),
            cx=x(epoch), cy=y(loss), r=3, class_="mark",
        )
        for epoch, loss in enumerate(values, 1)
    ]  # fmt: skip
    return chart(
        name,
        "Training loss by epoch",
        f"From {figure(values[0])} to {figure(values[-1])} in {len(values)} epochs.",
        grid(x, y, epochs, "epoch", "loss"),
        tag("g", tag("polyline", points=points, class_="curve"), *marks, class_="role-winner"),
        height=LOSSES_HEIGHT,
    )


def _apart(places: Sequence[float]) -> list[float]:
    """The places in order, moved down where two labels would overlap."""
    moved = list(places)
    order = sorted(range(len(places)), key=lambda i: places[i])
    for before, after in pairwise(order):
        moved[after] = max(moved[after], moved[before] + LABEL_DISTANCE)
    return moved
