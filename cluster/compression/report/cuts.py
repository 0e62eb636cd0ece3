"""The page's part on cuts: every stage of each layout, what it takes and what it hands on."""

from __future__ import annotations

from cluster.artifact.layout import Layout
from cluster.compression.figures import size
from cluster.compression.record import BuildRecord
from cluster.compression.report import bars
from cluster.compression.report.markup import Markup, Value, section, table
from cluster.compression.report.scale import Scale


def cuts(record: BuildRecord) -> Markup | None:
    """A table per layout; None where the model is not cut."""
    if not record.layouts:
        return None
    return section("cuts", "Over several devices", *map(_layout, record.layouts))


def _layout(layout: Layout) -> Markup:
    sizes = sorted({each.batch for each in layout.shards[0].latency})
    smallest, largest = sizes[0], sizes[-1]
    first, last = layout.stage_ms(smallest), layout.stage_ms(largest)
    scale = Scale(0, max(first), 0, 100)
    rows: list[tuple[Value, ...]] = [
        (
            f"{stage}",
            layout.after[stage] if stage < len(layout.after) else "–",
            bars.bar(first[stage], scale),
            f"{first[stage]:.2f} ms",
            f"{last[stage]:.2f} ms",
            size(max(layout.shard(stage, r).weight_bytes for r in range(layout.tensor))),
            size(sum(spec.item_bytes for spec in layout.crossing[stage + 1])),
        )
        for stage in range(layout.pipeline)
    ]
    mean = sum(first) / len(first)
    ranks = f" × {layout.tensor} tensor ranks" if layout.tensor > 1 else ""
    return table(
        f"{layout.key}: {layout.pipeline} stages{ranks}, the slowest "
        f"{max(first) / mean - 1:.1%} over the mean at batch {smallest}",
        (
            "stage", "cut behind", "compute", f"batch {smallest}", f"batch {largest}",
            "weights of a rank", "hands on, per item",
        ),
        rows,
        text_columns=(0, 1, 2),
    )  # fmt: skip
