"""The page's cards: the few figures that a reader quotes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from cluster.artifact.manifest import Measurement
from cluster.compression.figures import amount, figure, milliseconds, points, score, size, times
from cluster.compression.record import BuildRecord
from cluster.compression.report.parts import Section
from cluster.compression.report.programs import interval, winner


@dataclass(frozen=True)
class Card:
    """One figure, its name, and lines on how it came about."""

    name: str
    value: str
    lines: Sequence[str]


def headline(record: BuildRecord) -> Section | None:
    """Return the cards of the winning program, or None if no program works."""
    result, baseline = winner(record), record.baseline
    if result is None or baseline is None:
        return None
    cards = [*_cards(record, result, baseline)]
    return Section("headline", "At a glance", "At a glance", cards)


def _cards(record: BuildRecord, result: Measurement, baseline: Measurement) -> Iterator[Card]:
    quality = [
        f"95 % CI {interval(record.metric, result)}",
        f"baseline {score(record.metric, baseline.accuracy)}",
    ]
    if drop := result.drop:
        bound = points(drop.upper).lstrip("+")
        quality.append(f"drop at most {bound} points ({drop.confidence * 100:g} %)")
    yield Card(record.metric, score(record.metric, result.accuracy), quality)
    for entry in (result.latency[0], *result.latency[1:][-1:]):
        before = baseline.at_batch(entry.batch).p50_ms
        yield Card(
            f"speed-up, batch {entry.batch}",
            times(before / entry.p50_ms),
            [
                f"{milliseconds(before)} → {milliseconds(entry.p50_ms)}",
                f"{figure(entry.items_per_s)} items/s",
            ],
        )
    yield Card(
        "smaller to load",
        times(baseline.size_bytes / result.size_bytes),
        [
            f"{size(baseline.size_bytes)} → {size(result.size_bytes)}",
            f"{record.quantized_operators} operators in fewer bits",
        ],
    )
    if record.steps:
        start, end = record.steps[0].size_before, record.steps[-1].size_after
        if start.macs > end.macs > 0:
            yield Card(
                "fewer multiply-accumulates",
                times(start.macs / end.macs),
                [
                    f"{amount(start.macs)} → {amount(end.macs)} per item",
                    f"{amount(start.parameters)} → {amount(end.parameters)} parameters",
                ],
            )
