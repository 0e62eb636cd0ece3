"""The report of a build: ``report.json`` for programs, a table for people."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from typing import Any

from cluster.artifact.manifest import Measurement
from cluster.compression.evaluate import Evaluated
from cluster.compression.gate import Check
from cluster.config.recipe import Recipe
from cluster.program import node


def report(
    recipe: Recipe,
    found: Evaluated,
    checks: Sequence[Check],
    quantized_operators: int,
    seconds: dict[str, float],
) -> bytes:
    """``report.json``: what was asked, measured and decided, and on which machine."""
    content: dict[str, Any] = {
        "recipe": recipe.model_dump(mode="json"),
        "accepted": all(check.passed for check in checks),
        "gate": [asdict(check) for check in checks],
        "baseline": _figures(found.baseline),
        "artifact": _figures(found.artifact),
        "target": found.target,
        "quantized_operators": quantized_operators,
        "seconds": {name: round(taken, 2) for name, taken in seconds.items()},
        "machine": {
            "cpu": node.cpu_name(),
            "torch": node.torch_version(),
            "compute_threads": recipe.evaluation.compute_threads,
        },
        "measured_at": datetime.now(UTC).isoformat(timespec="seconds"),
    }
    return json.dumps(content, indent=1, sort_keys=True).encode() + b"\n"


def _figures(measured: Measurement) -> dict[str, Any]:
    figures = measured.model_dump()
    figures["latency"] = [
        {**entry.model_dump(), "items_per_s": round(entry.items_per_s, 1)}
        for entry in measured.latency
    ]
    return figures


HEADER = (
    "",
    "accuracy (95 % CI)",
    "batch 1 p50/p99",
    "batch 8 p50/p99",
    "items/s",
    "MB",
    "speed-up",
)


def row(name: str, measured: Measurement, baseline: Measurement) -> tuple[str, ...]:
    """One line of the table; the speed-up is the baseline's batch 1 median over this one's."""
    one, eight = measured.at_batch(1), measured.at_batch(8)
    return (
        name,
        f"{measured.accuracy:.4f} ({measured.accuracy_low:.3f}–{measured.accuracy_high:.3f})",
        f"{one.p50_ms:.2f} / {one.p99_ms:.2f} ms",
        f"{eight.p50_ms:.2f} / {eight.p99_ms:.2f} ms",
        f"{max(entry.items_per_s for entry in measured.latency):.0f}",
        f"{measured.size_bytes / 1e6:.1f}",
        f"{baseline.at_batch(1).p50_ms / one.p50_ms:.2f}×",
    )


def table(rows: Sequence[Sequence[str]], header: Sequence[str] = HEADER) -> str:
    """Rows under a header, columns aligned."""
    lines = [list(header), *map(list, rows)]
    widths = [max(len(line[column]) for line in lines) for column in range(len(header))]
    lines.insert(1, ["─" * width for width in widths])
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()
        for line in lines
    )


def gate_lines(checks: Sequence[Check]) -> list[str]:
    """One line per limit of the gate."""
    return [
        f"gate     {check.name}: {check.measured:.4g} (limit {check.limit:g}) "
        f"{'passed' if check.passed else 'FAILED'}"
        for check in checks
    ]
