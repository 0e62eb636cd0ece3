"""Runs of synthetic benchmarks, for the tests of their tables."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from benchmarks.harness.results import CaseResult, Figures, Measurement, Run

MACHINE = {
    "cpu": "A CPU",
    "cores": 2,
    "date": "2026-01-02T03:04:05+00:00",
    "versions": {"torch": "2.14.1", "mosec": None},
}


def measurements(subject: str, *rounds: Figures) -> tuple[Measurement, ...]:
    """Return one measurement per round."""
    return tuple(
        Measurement(subject=subject, number=number, figures=figures)
        for number, figures in enumerate(rounds, 1)
    )


def run(benchmark: str, *cases: CaseResult, **settings: Any) -> Run:
    """Return a run of these cases; three rounds of 8 s unless ``settings`` say otherwise."""
    return Run(
        benchmark=benchmark,
        machine=MACHINE,
        settings={"rounds": 3, "seconds": 8} | settings,
        cases=cases,
    )


def row(text: str, title: str, table: int = 0) -> list[str]:
    """Return the cells of the row with that title, in the table of that number."""
    rows: Sequence[str] = [line for line in text.splitlines() if line.startswith(f"| {title}")]
    return [cell.strip() for cell in rows[table].strip("|").split("|")]
