"""Fresh process that measures a layout: its shards, loaded and run one stage at a time.

    task.json → each shard's program, hashes checked → the chain computes the model?
              → every stage at every batch size, in turn → found.json

The ranks of a stage run concurrently, as in a replica; nothing is sent between stages.
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
    """Task of the process: the layout to measure, and the files it needs."""

    artifact: Path
    layout: str
    expected: Path
    """Outputs of the whole program, see :mod:`reference`."""

    batches: tuple[int, ...]
    repeats: int
    compute_threads: int
    result: Path


class LayoutResult(BaseModel):
    """Difference of the chain from the model, and latencies of each stage."""

    difference: float
    stages: tuple[tuple[Latency, ...], ...]


def main(task_file: Path) -> None:
    """Read the task, measure, write the result."""
    task = LayoutTask.model_validate_json(task_file.read_text())
    artifact = Artifact.read(task.artifact)
    layouts = artifact.manifest.layouts
    layout = next(layout for layout in layouts if layout.key == task.layout)
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

        difference = reference.check(chain, task.expected)
        to_stdout(
            f"measure  {layout.key} matches the model: {difference:.3f} of the outputs' spread"
        )
        timed = _time_stages(stages, layout.tensor, task, reference.inputs_of(task.expected))
        task.result.write_text(LayoutResult(difference=difference, stages=timed).model_dump_json())
    finally:
        for stage in stages:
            stage.close()


def _time_stages(
    stages: Sequence[StageRanks], ranks: int, task: LayoutTask, samples: list[np.ndarray]
) -> tuple[tuple[Latency, ...], ...]:
    measured: list[list[Latency]] = [[] for _ in stages]
    for batch in task.batches:
        chosen = np.arange(batch) % len(samples[0])
        times_ms: list[list[float]] = [[] for _ in stages]
        for repeat in range(-_WARM_UP_RUNS, task.repeats):
            arrays = [[np.ascontiguousarray(rows[chosen]) for rows in samples]] * ranks
            for index, stage in enumerate(stages):
                started = time.perf_counter()
                arrays = stage.run(arrays)
                if repeat >= 0:
                    times_ms[index].append((time.perf_counter() - started) * 1e3)
        for times, entries in zip(times_ms, measured, strict=True):
            p99 = float(np.percentile(times, 99))
            entries.append(Latency(batch=batch, p50_ms=median(times), p99_ms=p99))
        medians = " + ".join(f"{entries[-1].p50_ms:.2f}" for entries in measured)
        to_stdout(f"measure  batch {batch}: {medians} ms")
    return tuple(tuple(entries) for entries in measured)


if __name__ == "__main__":
    end_with_parent()
    try:
        main(Path(sys.argv[1]))
    except HeadraceError as error:
        print(error, flush=True)
        sys.exit(CANNOT_RUN)
