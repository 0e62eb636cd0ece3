"""What a step put down for the report, drawn the way its name asks for.

    losses → curve    sensitivity, pruned, sparsity, ranges → bars by layer    kept → list

A finding under another name, or in a form that its drawing cannot show, is written as it is.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from cluster.compression.figures import figure, percent, points
from cluster.compression.report import bars, charts
from cluster.compression.report.markup import Markup, Value, facts, folded, joined, table, tag
from cluster.compression.report.scale import Scale, around

ROWS_SHOWN = 20
"""Layers that are shown at once; the others unfold."""


def drawn(details: Mapping[str, Any], anchor: str) -> Markup:
    """All findings of one step. ``anchor``: unique on the page, for the ids of its charts."""
    left = {name: value for name, value in details.items() if value not in ([], {}, None, "")}
    parts: list[Markup] = []
    for name, (fits, draw) in _DRAWINGS.items():
        if name in left and fits(left[name]):
            parts.append(draw(left.pop(name), anchor))
    if left:
        parts.append(facts((name.replace("_", " "), text(value)) for name, value in left.items()))
    return joined(parts)


def text(value: Any) -> str:
    """A plain value as one line."""
    if isinstance(value, str):
        return value
    if isinstance(value, float):
        return f"{value:g}"
    return json.dumps(value, ensure_ascii=False, default=str)


def _losses(values: Sequence[float], anchor: str) -> Markup:
    title = tag("h4", "Training loss, by epoch")
    return joined([title, charts.losses(values, f"{anchor}-losses")])


def _sensitivity(drops: Mapping[str, float], anchor: str) -> Markup:
    ordered = sorted(drops.items(), key=lambda item: -item[1])
    scale = Scale(min(0.0, *drops.values(), 0.0), max(1e-9, *drops.values(), 1e-9), 0, 100)
    rows = [
        (name, bars.bar(drop, scale, "worse" if drop > 0 else "result"), points(-drop))
        for name, drop in ordered
    ]
    return _by_layer(
        "Sensitivity: change of the score when one layer alone is compressed, worst first",
        ("layer", "drop", "change, points"),
        rows,
    )


def _pruned(widths: Mapping[str, tuple[float, float]], anchor: str) -> Markup:
    scale = Scale(0, max(1.0, *(before for before, _ in widths.values()), 1.0), 0, 100)
    rows = [
        (name, bars.pair(before, after, scale), f"{before:g}", f"{after:g}")
        for name, (before, after) in widths.items()
    ]
    return _by_layer(
        "Channels or features of each layer that became narrower",
        ("layer", "before above, after below", "before", "after"),
        rows,
    )


def _sparsity(shares: Mapping[str, float], anchor: str) -> Markup:
    scale = Scale(0, 1, 0, 100)
    rows = [(name, bars.bar(share, scale), percent(share)) for name, share in shares.items()]
    return _by_layer("Weights that are zero", ("layer", "zeros", "share"), rows)


def _ranges(ranges: Mapping[str, tuple[float, float]], anchor: str) -> Markup:
    scale = around([0.0, *(end for ends in ranges.values() for end in ends)], 0, 100, margin=0.02)
    rows = [
        (name, bars.span(low, high, scale, zero=True), figure(low), figure(high))
        for name, (low, high) in ranges.items()
    ]
    return _by_layer(
        "Calibration of PyTorch's graph, which all programs but OpenVINO's are compiled from "
        "(OpenVINO's is calibrated anew on the same samples): values that each activation's "
        "integers reach from and to",
        ("activation", "range", "from", "to"),
        rows,
    )


def _kept(layers: Sequence[str], anchor: str) -> Markup:
    names = joined((tag("code", each) for each in layers), ", ")
    return facts([(f"{len(layers)} layers kept in bfloat16", names)])


def _by_layer(caption: str, header: Sequence[Value], rows: Sequence[Sequence[Value]]) -> Markup:
    """The first rows as they are, the others folded below them."""
    first, others = rows[:ROWS_SHOWN], rows[ROWS_SHOWN:]
    shown = table(caption, header, first, text_columns=(0, 1))
    if not others:
        return shown
    more = table(f"{caption}, continued", header, others, text_columns=(0, 1))
    return joined([shown, folded(f"{len(others)} more", more)])


def _finite(values: Any) -> bool:
    return all(isinstance(each, int | float) and math.isfinite(each) for each in values)


def _is_list(value: Any) -> bool:
    return isinstance(value, list | tuple)


def _are_numbers(value: Any) -> bool:
    return isinstance(value, dict) and _finite(value.values())


def _are_spans(value: Any) -> bool:
    """Whether it reads name → [number, number]."""
    return isinstance(value, dict) and all(
        _is_list(ends) and len(ends) == 2 and _finite(ends) for ends in value.values()
    )


_Draw = Callable[[Any, str], Markup]

_DRAWINGS: dict[str, tuple[Callable[[Any], bool], _Draw]] = {
    "losses": (lambda value: _is_list(value) and _finite(value), _losses),
    "sensitivity": (_are_numbers, _sensitivity),
    "pruned": (_are_spans, _pruned),
    "sparsity": (_are_numbers, _sparsity),
    "ranges": (_are_spans, _ranges),
    "kept": (_is_list, _kept),
}
"""Finding → the form it must have, and how it is drawn; in the order of the page."""
