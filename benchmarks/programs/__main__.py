"""Command of the program benchmark: python -m benchmarks.programs --help."""

from __future__ import annotations

import sys
import time
from functools import partial

import numpy as np

from benchmarks.artifacts import program, resnet18
from benchmarks.artifacts.images import request_images
from benchmarks.artifacts.program import COMPUTE_THREADS
from benchmarks.harness.case import ROUNDS, Benchmark, Case, Context, PreparedCase, Setting
from benchmarks.harness.command import main
from benchmarks.harness.goals import Goal, at_most
from benchmarks.harness.results import Medians, Reading, Run
from benchmarks.harness.rounds import Turn
from benchmarks.harness.table import report, table
from benchmarks.programs.loops import Loop, eager_loop, openvino_loop
from cluster.artifact.store import open_store

BATCHES = (1, 8)
LIMIT = 1.05
"""Largest ratio to OpenVINO's own loop."""

LOADED, OPENVINO, EAGER = "Headrace, loaded program", "OpenVINO's own loop", "PyTorch eager float32"
_WARM_UP_RUNS = 5


def prepare(batch: int, context: Context) -> PreparedCase:
    """Load the program and both peers for one batch size."""
    artifact_id = resnet18.build(context.store)
    loaded = program.load(artifact_id)
    images = request_images(batch)
    loops: dict[str, Loop] = {
        LOADED: lambda: loaded.run([images]),
        OPENVINO: openvino_loop(open_store(context.store).open(artifact_id), images),
        EAGER: eager_loop(images),
    }
    facts = {
        "artifact": artifact_id,
        "program": loaded.entry.key,
        "static_batches": [files.batch for files in loaded.entry.static_files],
    }
    turn: Turn = partial(in_turn, loops, int(context.settings["runs"]))
    return PreparedCase({"in turn": turn}, goals, facts)


def in_turn(loops: dict[str, Loop], runs: int) -> list[Reading]:
    """Time every loop ``runs`` times, one run of each in turn."""
    times_ms: dict[str, list[float]] = {name: [] for name in loops}
    for repeat in range(-_WARM_UP_RUNS, runs):
        for name, run in loops.items():
            started = time.perf_counter()
            run()
            if repeat >= 0:
                times_ms[name].append((time.perf_counter() - started) * 1e3)
    readings = []
    for name, times in times_ms.items():
        p50, p99 = (float(value) for value in np.percentile(times, [50, 99]))
        readings.append(Reading(subject=name, figures={"p50 ms": p50, "p99 ms": p99}))
    return readings


def goals(medians: Medians) -> tuple[Goal, ...]:
    """Return the goal beside OpenVINO's loop."""
    ratio = medians[LOADED]["p50 ms"] / medians[OPENVINO]["p50 ms"]
    return (at_most("p50 to OpenVINO's own loop", ratio, LIMIT),)


def markdown(run: Run) -> str:
    """Return the medians, a column per batch size."""
    facts = run.cases[0].facts
    conditions = (
        f"int8 ResNet-18 at 224×224, {COMPUTE_THREADS} thread, {run.settings['runs']} runs per "
        f"round, in turn. Loaded: {facts['program']}, static batches: "
        f"{facts['static_batches'] or 'none'}."
    )
    medians = [case.medians for case in run.cases]
    rows = [
        [name, *(f"{batch[name]['p50 ms']:.2f} / {batch[name]['p99 ms']:.2f}" for batch in medians)]
        for name in (LOADED, OPENVINO, EAGER)
    ]
    header = ["", *(f"{case.title}, p50 / p99 ms" for case in run.cases)]
    return report(run, conditions, [table(header, rows)])


BENCHMARK = Benchmark(
    name="programs",
    cases={f"batch-{batch}": Case(f"batch {batch}", partial(prepare, batch)) for batch in BATCHES},
    markdown=markdown,
    packages=("torch", "torchvision", "openvino", "numpy"),
    settings=(ROUNDS, Setting("runs", 50, "timed runs per round")),
)

if __name__ == "__main__":
    sys.exit(main(BENCHMARK))
