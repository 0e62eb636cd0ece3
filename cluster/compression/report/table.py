"""The terminal's table: the baseline and every program, side by side, and the gate's verdict."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from typing import Any

from cluster.artifact.entries import Latency
from cluster.artifact.manifest import Measurement
from cluster.compression.evaluation.evaluate import EvaluationResult
from cluster.compression.figures import size, times
from cluster.compression.record import CheckRecord
from cluster.compression.report.baseline import baseline_name
from cluster.config.gate import LIMIT_NAMES
from cluster.text_table import table

REASON_LENGTH = 200
"""Maximum length of a reason why a program failed or is left out."""


def table_of(name: str, evaluation: EvaluationResult, recipe: Mapping[str, Any]) -> str:
    """Return the table of one build: baseline, programs, and missing programs with the reasons.

    ``recipe``: the recipe as plain data. The fastest program of each target is marked. Programs
    are compared with the baseline on their own target; each target has a row of the baseline.
    """
    lines = _measured(name, evaluation, recipe)
    lines += [
        f"left out {key}, which works: {textwrap.shorten(reason, REASON_LENGTH)}"
        for key, reason in evaluation.left_out.items()
    ]
    lines += [
        f"no {key}: {textwrap.shorten(reason, REASON_LENGTH)}"
        for key, reason in evaluation.failed.items()
    ]
    return "\n".join(lines)


def _measured(name: str, evaluation: EvaluationResult, recipe: Mapping[str, Any]) -> list[str]:
    """Return the table's lines of measurements; none if no program works."""
    baseline, baselines = evaluation.baseline, evaluation.target_baselines
    if baseline is None:
        return []
    title = baseline_name(recipe)
    rows = [row(title, baseline, baseline)]
    for target, other in [*baselines.items()][1:]:
        rows.append(row(f"{title} on {target}", other, other))
    for key, measured in evaluation.programs.items():
        target, _, kind = key.rpartition("/")
        mark = " (fastest)" if evaluation.fastest[target] == kind else ""
        rows.append(row(f"{key}{mark}", measured, baselines[target]))
    return [table(rows, header(baseline, name))]


def header(measured: Measurement, name: str = "") -> tuple[str, ...]:
    """Return the headings of :func:`row`'s columns for measurements like this one."""
    return (
        name,
        "score (95 % CI)",
        "drop (bound)",
        "agreement (bound)",
        *(f"batch {entry.batch} p50/p99" for entry in _ends(measured)),
        "items/s",
        "size",
        "speed-up",
    )


def row(name: str, measured: Measurement, baseline: Measurement) -> tuple[str, ...]:
    """Return one line of the table.

    It has times at the smallest and the largest batch, the best throughput, the bytes that a
    replica loads, and the baseline's batch 1 median over this one's.
    """
    drop, alike = measured.drop, measured.agreement
    return (
        name,
        f"{measured.accuracy:.4f} ({measured.accuracy_low:.3f}–{measured.accuracy_high:.3f})",
        f"{drop.mean:.4f} ({drop.upper:.4f})" if drop else "",
        f"{alike.mean:.4f} ({alike.lower:.4f})" if alike else "",
        *(f"{entry.p50_ms:.2f} / {entry.p99_ms:.2f} ms" for entry in _ends(measured)),
        f"{max(entry.items_per_s for entry in measured.latency):.0f}",
        size(measured.size_bytes),
        times(baseline.at_batch(1).p50_ms / measured.at_batch(1).p50_ms),
    )


def gate_lines(checks: Sequence[CheckRecord]) -> list[str]:
    """Return one line per limit of the gate."""
    return [
        f"gate     {'passed' if check.passed else 'FAILED'}  {check.name}"
        f"{' (default)' if check.default else ''}: {check.reason}"
        for check in checks
    ]


def limits(gate: Mapping[str, Any]) -> str:
    """Return every limit of the gate's plain data on one line, the defaults marked.

    ``min_speedup 1.2, max_size_share 1 (default), max_bytes off``. Limits that an older manifest
    does not have are left out.
    """
    defaults = gate.get("defaults")
    defaults = defaults if isinstance(defaults, list | tuple) else ()
    return ", ".join(
        f"{name} off"
        if gate[name] is None
        else f"{name} {gate[name]}{' (default)' if name in defaults else ''}"
        for name in LIMIT_NAMES
        if name in gate
    )


def _ends(measured: Measurement) -> list[Latency]:
    """Return the latencies at the smallest and the largest batch; one entry if these are equal."""
    return [measured.latency[0], *measured.latency[1:][-1:]]
