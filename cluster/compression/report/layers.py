"""Bytes of each layer before and after, the largest ones first."""

from __future__ import annotations

from dataclasses import dataclass

from cluster.compression.figures import size, times
from cluster.compression.record import BuildRecord, LayerSize
from cluster.compression.report import bars
from cluster.compression.report.parts import Facts, Section, Table
from cluster.compression.report.scale import Scale

LAYERS_SHOWN = 30
"""Layers with a bar each; the others are summed up."""


@dataclass(frozen=True)
class Layers:
    """Sums over all layers, and a row per layer."""

    sums: Facts
    table: Table


def layers(record: BuildRecord) -> Section | None:
    """Return the layers' sizes, or None if the record has none."""
    if not record.layers:
        return None
    ordered = sorted(record.layers, key=lambda layer: -max(layer.baseline_bytes, layer.bytes))
    shown, rest = ordered[:LAYERS_SHOWN], ordered[LAYERS_SHOWN:]
    if rest:
        shown = [*shown, _sum(f"{len(rest)} smaller layers", rest)]
    total = _sum("all", ordered)
    top = max(max(layer.baseline_bytes, layer.bytes) for layer in shown) or 1
    scale = Scale(0, top, 0, 100)
    rows = [
        (
            layer.name,
            bars.pair(layer.baseline_bytes, layer.bytes, scale),
            size(layer.baseline_bytes),
            size(layer.bytes),
            times(layer.baseline_bytes / layer.bytes)
            if layer.bytes and layer.baseline_bytes
            else "–",
        )
        for layer in shown
    ]
    view = Layers(
        sums=[("weights before", size(total.baseline_bytes)), ("weights after", size(total.bytes))],
        table=Table(
            "Bytes of each layer's tensors, the largest layers first",
            ("layer", "before above, after below", "before", "after", "smaller"),
            rows,
            text_columns=(0, 1),
        ),
    )
    return Section("layers", "Size, by layer", "Layers", view)


def _sum(name: str, layers: list[LayerSize]) -> LayerSize:
    return LayerSize(
        name=name,
        baseline_bytes=sum(layer.baseline_bytes for layer in layers),
        bytes=sum(layer.bytes for layer in layers),
    )
