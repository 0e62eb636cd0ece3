"""Compression benchmark as Markdown: the table of builds below that of the goals."""

from __future__ import annotations

from benchmarks.compression.builds import Build
from benchmarks.harness.results import Run
from benchmarks.harness.table import report, table

_RANDOM = "¹ Random weights: outputs before and after are compared, no answer is right."


def markdown(run: Run) -> str:
    """Return the machine, the goals and the builds."""
    builds = [(case.title, Build.read(reading)) for case in run.cases for reading in case.rounds]
    header = [
        "case",
        "build",
        "score (95 % interval)",
        "drop (bound)",
        "program",
        "M MACs",
        "MB",
        "batch 1, ms",
        "to eager",
        "largest batch, ms",
        "to eager",
    ]
    sections = [table(header, [[title, *_row(build)] for title, build in builds], left=2)]
    if any(build.random_weights for _, build in builds):
        sections.append(_RANDOM)
    return report(run, "", sections)


def _row(build: Build) -> list[str]:
    largest = max(build.latency_ms)
    times = [
        cell
        for batch in (1, largest)
        for cell in (f"{build.latency_ms[batch]:.2f}", f"{build.speedup(batch):.2f}×")
    ]
    times[2] += f" ({largest})"
    return [
        build.title + (" ¹" if build.random_weights else ""),
        f"{build.metric} {build.score:.4f} ({build.low:.4f} to {build.high:.4f})",
        f"{build.drop * 100:.2f} ({build.drop_upper * 100:.2f})",
        build.program,
        "" if build.macs is None else f"{build.macs / 1e6:.1f}",
        f"{build.size_bytes / 1e6:.2f} of {build.float_bytes / 1e6:.2f}",
        *times,
    ]
