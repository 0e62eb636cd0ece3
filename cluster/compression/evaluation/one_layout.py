"""The evaluation's fresh process for a layout: its shards, loaded and run one stage at a time.

    task.json → each shard's program, hashes checked → the chain computes the model?
              → every stage at every batch size, in turn → found.json

The ranks of a stage run at once, as they will; between stages nothing is sent.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from pathlib import Path
from statistics import median

import numpy as np
from pydantic import BaseModel

from cluster.artifact.artifact import Artifact
from cluster.artifact.entries import Latency
from cluster.compression.evaluation import reference
from cluster.compression.evaluation.one_program import CANNOT_RUN, end_with_parent
from cluster.errors import HeadraceError
from cluster.program.stage_ranks import StageRanks
from cluster.progress import to_stdout

_WARM_UP_RUNS = 3


class LayoutTask(BaseModel):
    """What the process is to measure."""

    artifact: Path
    layout: str
    expected: Path
    limit: float
    """Of the difference from the model."""

    batches: tuple[int, ...]
    repeats: int
    compute_threads: int
    result: Path


class FoundLayout(BaseModel):
    """How far the chain is from the model, and what each stage takes."""

    difference: float
    stages: tuple[tuple[Latency, ...], ...]


def main(task_file: Path) -> None:
    """Read the task, measure, write the result."""
    task = LayoutTask.model_validate_json(task_file.read_text())
    artifact = Artifact.read(task.artifact)
    layout = next(each for each in artifact.manifest.layouts if each.key == task.layout)
    stages = [
        StageRanks.load(artifact, layout, stage, task.compute_threads)
        for stage in range(layout.pipeline)
    ]
    try:

        def chain(arrays: list[np.ndarray]) -> np.ndarray:
            ranks = [arrays] * layout.tensor
            for stage in stages:
                ranks = stage.run(ranks)
            return ranks[0][0]

        far = reference.check(chain, task.expected, limit=task.limit)
        to_stdout(f"measure  {layout.key} agrees with the model: {far:.3f} of the outputs' spread")
        timed = _timed(stages, layout.tensor, task, _inputs(task.expected))
        task.result.write_text(FoundLayout(difference=far, stages=timed).model_dump_json())
    finally:
        for stage in stages:
            stage.close()


def _inputs(expected: Path) -> list[np.ndarray]:
    with np.load(expected) as kept:
        return [kept[f"input{index}"] for index in range(len(kept.files) - 1)]


def _timed(
    stages: Sequence[StageRanks], ranks: int, task: LayoutTask, samples: list[np.ndarray]
) -> tuple[tuple[Latency, ...], ...]:
    found: list[list[Latency]] = [[] for _ in stages]
    for batch in task.batches:
        chosen = np.arange(batch) % len(samples[0])
        taken: list[list[float]] = [[] for _ in stages]
        for repeat in range(-_WARM_UP_RUNS, task.repeats):
            arrays = [[np.ascontiguousarray(each[chosen]) for each in samples]] * ranks
            for index, stage in enumerate(stages):
                started = time.perf_counter()
                arrays = stage.run(arrays)
                if repeat >= 0:
                    taken[index].append((time.perf_counter() - started) * 1e3)
        for times, entries in zip(taken, found, strict=True):
            p99 = float(np.percentile(times, 99))
            entries.append(Latency(batch=batch, p50_ms=median(times), p99_ms=p99))
        shown = " + ".join(f"{entries[-1].p50_ms:.2f}" for entries in found)
        to_stdout(f"measure  batch {batch}: {shown} ms")
    return tuple(tuple(entries) for entries in found)


if __name__ == "__main__":
    end_with_parent()
    try:
        main(Path(sys.argv[1]))
    except HeadraceError as error:
        print(error, flush=True)
        sys.exit(CANNOT_RUN)
