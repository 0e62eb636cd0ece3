"""Measuring the artifact as a replica would load it, each program in a process that built nothing.

run(...) in the job ─ each program ─→ fresh_process → Found: the program beside the baseline
                                    ↘ the fastest of each target → Evaluated
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field

from cluster.artifact.artifact import Artifact
from cluster.artifact.manifest import Measurement
from cluster.compression.evaluation.fresh_process import measured_in_process
from cluster.compression.evaluation.one_program import Found, Task
from cluster.config.recipe import Recipe
from cluster.errors import CompressionError
from cluster.progress import Print


class Evaluated(BaseModel):
    """What the evaluation processes found."""

    model_config = ConfigDict(frozen=True)

    baseline: Measurement = Field(description="Measured beside the first target's winner.")
    programs: dict[str, Measurement] = Field(description="Those that work, by target/kind.")
    failed: dict[str, str] = Field(default={}, description="target/kind → why it does not work.")
    fastest: dict[str, str] = Field(default={}, description="Target → kind of its fastest.")
    static: dict[str, tuple[int, ...]] = Field(
        default={}, description="target/kind → batch sizes whose static shapes are worth keeping."
    )


def run(
    workspace: Path, recipe: Recipe, baseline: Path, expected: Path, scratch: Path, out: Print
) -> Evaluated:
    """Measure every program of the artifact in ``workspace``, one fresh process after the other.

    ``baseline``: the float32 weights before compression. ``expected``: what the programs must
    compute, see :mod:`cluster.compression.evaluation.reference`. ``scratch``: a directory, where
    the baseline's answers are kept between the programs, and between artifacts of one recipe.

    A program that does not load, dies, hangs, raises or computes another model is reported as
    failed. CompressionError, with the process's last lines, if the evaluation itself cannot run.
    """
    found: dict[str, Found] = {}
    failed: dict[str, str] = {}
    entries = Artifact.read(workspace).manifest.programs

    def task(key: str | None) -> Found:
        return measured_in_process(
            Task(
                artifact=workspace,
                program=key,
                recipe=recipe,
                baseline_weights=baseline,
                baseline_outputs=scratch / "baseline_outputs.npz",
                expected=expected,
                result=scratch / "found.json",
            ),
            scratch,
            out,
        )

    for entry in entries:
        out(f"measure  {entry.kind} for {entry.target}")
        answer = task(entry.key)
        if answer.program is not None:
            found[entry.key] = answer
        else:
            failed[entry.key] = answer.failed
            out(f"measure  {entry.key} does not work: {answer.failed}")
    programs = {key: each.program for key, each in found.items() if each.program is not None}
    fastest = {
        target: winner
        for target in dict.fromkeys(entry.target for entry in entries)
        if (winner := _fastest(programs, target)) is not None
    }
    beside = next((f"{target}/{kind}" for target, kind in fastest.items()), None)
    baseline_found = (found[beside] if beside is not None else task(None)).baseline
    if baseline_found is None:
        raise CompressionError("the process that measured the baseline died")
    return Evaluated(
        baseline=baseline_found,
        programs=programs,
        failed=failed,
        fastest=fastest,
        static={key: each.static for key, each in found.items() if each.static},
    )


def _fastest(programs: Mapping[str, Measurement], target: str) -> str | None:
    """The target's kind with the smallest geometric mean of its medians over batch sizes."""
    means = {
        kind: math.fsum(math.log(entry.p50_ms) for entry in measured.latency)
        for key, measured in programs.items()
        for of, _, kind in [key.partition("/")]
        if of == target
    }
    return min(means, key=lambda kind: means[kind], default=None)
