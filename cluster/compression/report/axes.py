"""What all charts stand on: the drawing area, axes with their ticks, and the frame. SVG.

Colours are classes of the style sheet, so dark mode and print need no second drawing.
"""

from __future__ import annotations

from collections.abc import Sequence

from cluster.compression.report.markup import Markup, joined, tag
from cluster.compression.report.scale import Scale

WIDTH, HEIGHT = 640, 340
LEFT, TOP, BOTTOM = 62, 14, 50
"""Room for the axes, in pixels."""


def grid(x: Scale, y: Scale, x_ticks: Sequence[float], x_name: str, y_name: str) -> Markup:
    """Axes: thin lines at the ticks of ``y``, numbers at both, and what they count.

    A ``y_name`` that ends in % shows shares as percent.
    """
    floor = y.start
    share = y_name.endswith("%")
    drawn = []
    ticks = y.ticks()
    digits = _digits([tick * 100 if share else tick for tick in ticks])
    for tick in ticks:
        at = y(tick)
        shown = tick * 100 if share else tick
        text = _plain(tick) if y.log else f"{shown:.{digits}f}"
        drawn.append(tag("line", x1=x.start, x2=x.end, y1=at, y2=at, class_="grid"))
        drawn.append(tag("text", text, x=x.start - 8, y=at + 4, text_anchor="end"))
    for tick in x_ticks:
        at = x(tick)
        drawn.append(tag("line", x1=at, x2=at, y1=floor, y2=floor + 5, class_="tick"))
        drawn.append(tag("text", _plain(tick), x=at, y=floor + 19, text_anchor="middle"))
    middle = (x.start + x.end) / 2
    upright = (y.start + y.end) / 2
    drawn += [
        tag("line", x1=x.start, x2=x.end, y1=floor, y2=floor, class_="axis"),
        tag("text", x_name, x=middle, y=floor + 40, text_anchor="middle", class_="name"),
        tag(
            "text", y_name, x=16, y=upright, text_anchor="middle", class_="name",
            transform=f"rotate(-90 16 {upright:g})",
        ),
    ]  # fmt: skip
    return tag("g", *drawn, class_="axes")


def _plain(tick: float) -> str:
    return f"{tick:.10g}"


def _digits(ticks: Sequence[float]) -> int:
    return max((len(_plain(tick).partition(".")[2]) for tick in ticks), default=0)


def chart(name: str, title: str, about: str, *drawn: Markup | None, height: int = HEIGHT) -> Markup:
    return tag(
        "div",
        tag(
            "svg",
            tag("title", title, id=f"{name}-title"),
            tag("desc", about, id=f"{name}-about"),
            joined(drawn),
            viewBox=f"0 0 {WIDTH} {height}",
            role="img",
            aria_labelledby=f"{name}-title {name}-about",
        ),
        class_="chart",
    )
