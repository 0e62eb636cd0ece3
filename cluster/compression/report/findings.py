"""Findings of a step as data for their drawings; a finding's name decides its drawing.

    losses → curve    sensitivity, pruned, sparsity, ranges → bars by layer    kept → names

A finding under another name, or in a form that its drawing cannot show, is shown as plain text.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from cluster.compression.figures import figure, percent, points
from cluster.compression.report import bars
from cluster.compression.report.charts import CurveChart, losses
from cluster.compression.report.parts import Cell, Code, Facts, Table
from cluster.compression.report.scale import Scale, around

ROWS_SHOWN = 20
"""Layers that are shown at once; the others unfold."""


@dataclass(frozen=True)
class ByLayer:
    """A row per layer: the first ones, and the others, which unfold below them."""

    first: Table
    others: Table | None


@dataclass(frozen=True)
class Findings:
    """One step's findings, in the order of the page."""

    losses: CurveChart | None
    by_layer: Sequence[ByLayer]
    facts: Sequence[Facts]


def findings(details: Mapping[str, Any], anchor: str) -> Findings:
    """Return one step's findings. ``anchor``: unique on the page, for the ids of its charts."""
    rest = {name: value for name, value in details.items() if value not in ([], {}, None, "")}
    curve, by_layer, facts = None, [], []
    if _is_list(rest.get("losses")) and _finite(rest["losses"]):
        curve = losses(rest.pop("losses"), f"{anchor}-losses")
    for name, (fits, table) in _BY_LAYER.items():
        if name in rest and fits(rest[name]):
            by_layer.append(_split(table(rest.pop(name))))
    if _is_list(rest.get("kept")):
        layers = rest.pop("kept")
        facts.append([_bfloat16_layers(layers)])
    if rest:
        facts.append([(name.replace("_", " "), text(value)) for name, value in rest.items()])
    return Findings(curve, by_layer, facts)


def text(value: Any) -> str:
    """Return a plain value as one line."""
    if isinstance(value, str):
        return value
    if isinstance(value, float):
        return f"{value:g}"
    return json.dumps(value, ensure_ascii=False, default=str)


def _bfloat16_layers(layers: Sequence[Any]) -> tuple[str, Cell]:
    return f"{len(layers)} layers kept in bfloat16", Code(tuple(map(str, layers)))


def _sensitivity(drops: Mapping[str, float]) -> Table:
    ordered = sorted(drops.items(), key=lambda item: -item[1])
    scale = Scale(min(0.0, *drops.values(), 0.0), max(1e-9, *drops.values(), 1e-9), 0, 100)
    return _table(
        "Sensitivity: change of the score when one layer alone is compressed, worst first",
        ("layer", "drop", "change, points"),
        [
            (name, bars.bar(drop, scale, "worse" if drop > 0 else "result"), points(-drop))
            for name, drop in ordered
        ],
    )


def _pruned(widths: Mapping[str, tuple[float, float]]) -> Table:
    scale = Scale(0, max(1.0, *(before for before, _ in widths.values()), 1.0), 0, 100)
    return _table(
        "Channels or features of each layer that became narrower",
        ("layer", "before above, after below", "before", "after"),
        [
            (name, bars.pair(before, after, scale), f"{before:g}", f"{after:g}")
            for name, (before, after) in widths.items()
        ],
    )


def _sparsity(shares: Mapping[str, float]) -> Table:
    scale = Scale(0, 1, 0, 100)
    return _table(
        "Weights that are zero",
        ("layer", "zeros", "share"),
        [(name, bars.bar(share, scale), percent(share)) for name, share in shares.items()],
    )


def _ranges(ranges: Mapping[str, tuple[float, float]]) -> Table:
    scale = around([0.0, *(end for ends in ranges.values() for end in ends)], 0, 100, margin=0.02)
    return _table(
        "Calibration of PyTorch's graph, which all programs but OpenVINO's are compiled from "
        "(OpenVINO's is calibrated separately, on the same samples): values that each activation's "
        "integers reach from and to",
        ("activation", "range", "from", "to"),
        [
            (name, bars.span(low, high, scale), figure(low), figure(high))
            for name, (low, high) in ranges.items()
        ],
    )


def _table(caption: str, header: Sequence[str], rows: Sequence[Sequence[Cell]]) -> Table:
    return Table(caption, header, rows, text_columns=(0, 1))


def _split(table: Table) -> ByLayer:
    """Return the first rows and the others."""
    first, others = table.rows[:ROWS_SHOWN], table.rows[ROWS_SHOWN:]
    continued = _table(f"{table.caption}, continued", table.header, others) if others else None
    return ByLayer(_table(table.caption, table.header, first), continued)


def _finite(values: Any) -> bool:
    return all(isinstance(number, int | float) and math.isfinite(number) for number in values)


def _is_list(value: Any) -> bool:
    return isinstance(value, list | tuple)


def _are_numbers(value: Any) -> bool:
    return isinstance(value, dict) and _finite(value.values())


def _are_spans(value: Any) -> bool:
    """Return whether the value maps names to [number, number]."""
    return isinstance(value, dict) and all(
        _is_list(ends) and len(ends) == 2 and _finite(ends) for ends in value.values()
    )


_BY_LAYER: dict[str, tuple[Callable[[Any], bool], Callable[[Any], Table]]] = {
    "sensitivity": (_are_numbers, _sensitivity),
    "pruned": (_are_spans, _pruned),
    "sparsity": (_are_numbers, _sparsity),
    "ranges": (_are_spans, _ranges),
}
"""Finding → its required form and its table, in the order of the page."""
