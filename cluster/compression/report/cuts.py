"""Cuts over several devices as data: the compute and the payload of every stage of each layout."""

from __future__ import annotations

from cluster.artifact.layout import Layout
from cluster.compression.figures import size
from cluster.compression.record import BuildRecord
from cluster.compression.report import bars
from cluster.compression.report.parts import Cell, Section, Table
from cluster.compression.report.scale import Scale


def cuts(record: BuildRecord) -> Section | None:
    """Return a table per layout, or None if the model is not cut."""
    if not record.layouts:
        return None
    tables = [_layout(layout) for layout in record.layouts]
    return Section("cuts", "Over several devices", "Cuts", tables)


def _layout(layout: Layout) -> Table:
    batches = sorted({entry.batch for entry in layout.shards[0].latency})
    smallest, largest = batches[0], batches[-1]
    first, last = layout.stage_ms(smallest), layout.stage_ms(largest)
    scale = Scale(0, max(first), 0, 100)
    rows: list[tuple[Cell, ...]] = [
        (
            f"{stage}",
            layout.after[stage] if stage < len(layout.after) else "–",
            bars.bar(first[stage], scale),
            f"{first[stage]:.2f} ms",
            f"{last[stage]:.2f} ms",
            size(max(layout.shard(stage, rank).weight_bytes for rank in range(layout.tensor))),
            size(sum(spec.item_bytes for spec in layout.crossing[stage + 1])),
        )
        for stage in range(layout.pipeline)
    ]
    mean = sum(first) / len(first)
    ranks = f" × {layout.tensor} tensor ranks" if layout.tensor > 1 else ""
    header = [
        "stage",
        "cut behind",
        "compute",
        f"batch {smallest}",
        f"batch {largest}",
        "weights of a rank",
        "hands on, per item",
    ]
    return Table(
        f"{layout.key}: {layout.pipeline} stages{ranks}, the slowest "
        f"{max(first) / mean - 1:.1%} over the mean at batch {smallest}",
        header,
        rows,
        text_columns=(0, 1, 2),
    )
