"""Parallelism benchmark as Markdown: the goals, then every case beside its peers."""

from __future__ import annotations

from typing import Any

from benchmarks.harness.results import ERRORS, CaseResult, Figures, Medians, Run
from benchmarks.harness.table import report, table
from benchmarks.parallelism.cases import ACCELERATE, CHAIN, TORCH
from benchmarks.parallelism.fed import (
    BATCHES,
    CONCURRENCIES,
    CUT,
    LATENCY,
    SERVED_BATCH,
    WHOLE,
    items_per_s,
)

_TITLES = {
    WHOLE: "Headrace, one replica, whole",
    CUT: "Headrace, cut",
    CHAIN: "Ray Serve, a chain of deployments",
    TORCH: "torch.distributed.pipelining, eager",
    ACCELERATE: "Accelerate, eager",
}


def markdown(run: Run) -> str:
    """Return the machine, the goals and a table per case."""
    return report(run, "One compute thread per shard.", map(_section, run.cases))


def _section(case: CaseResult) -> str:
    facts: dict[str, Any] = case.facts
    after, predicted = facts["after"], facts["predicted"]
    sizes = " + ".join(f"{ms:.2f}" for ms in predicted["built_stage_ms"])
    cut = f"cut behind `{'`, `'.join(after)}`" if after else "not cut into stages"
    text = (
        f"**{case.title}**: layout `{facts['layout']}`, {cut}; stages of {sizes} ms at "
        f"batch 1 when built. Predicted {predicted['latency_ms']:.2f} ms and "
        f"{predicted['items_per_s']:.2f} items/s."
    )
    one, many = CONCURRENCIES
    header = [
        "",
        LATENCY,
        "to Headrace",
        *(items_per_s(items) for items in BATCHES),
        "to Headrace",
        f"HTTP c={one}, p50 ms",
        f"HTTP c={many}, req/s",
        "to Headrace",
        "errors",
    ]
    medians = case.medians
    rows = [_row(subject, medians) for subject in _TITLES if subject in medians]
    return f"{text}\n\n{table(header, rows)}"


def _row(subject: str, medians: Medians) -> list[str]:
    figures, cut = medians[subject], medians.get(CUT)
    # Compared at the micro-batch over HTTP, or at the only one that a peer has.
    rates = [items_per_s(items) for items in BATCHES]
    served = items_per_s(SERVED_BATCH)
    compared = served if served in figures else next(rate for rate in rates if rate in figures)
    one, many = CONCURRENCIES
    latency, throughput = f"p50 ms at c={one}", f"req/s at c={many}"
    return [
        _TITLES[subject],
        f"{figures[LATENCY]:.2f}",
        _ratio(figures, cut, LATENCY),
        *(_value(figures, rate) for rate in rates),
        _ratio(figures, cut, compared),
        _value(figures, latency),
        _value(figures, throughput),
        _ratio(figures, cut, throughput),
        f"{figures[ERRORS]:.0f}" if ERRORS in figures else "",
    ]


def _value(figures: Figures, name: str) -> str:
    return f"{figures[name]:.2f}" if name in figures else ""


def _ratio(figures: Figures, cut: Figures | None, name: str) -> str:
    if cut is None or name not in figures:
        return ""
    return f"{figures[name] / cut[name]:.2f}×"
