"""Fresh process that measures one program of an artifact beside the float32 baseline.

    task.json → program, hashes checked → computes the model? → in turn: baseline, program,
                                                                static shapes → scores → found.json

It loads the program as a replica does. Only the comparison imports PyTorch and the float model,
which a replica never does.
"""

from __future__ import annotations

import ctypes
import signal
import sys
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import BaseModel

from cluster import independence
from cluster.activation import OutputActivation
from cluster.artifact.artifact import TOKENIZER, Artifact
from cluster.artifact.entries import FileEntry, Latency, ProgramEntry
from cluster.artifact.manifest import Measurement
from cluster.compression.evaluation import loading, metrics
from cluster.compression.evaluation.agreement import agreement, measure_for
from cluster.compression.evaluation.limits import most_bytes
from cluster.compression.evaluation.loading import with_static
from cluster.compression.evaluation.measure import PROGRESS_INTERVAL_S, Run, latencies, outputs_of
from cluster.compression.evaluation.reference import Outputs
from cluster.config.recipe import Recipe
from cluster.data import PreparedSamples, load_data
from cluster.errors import HeadraceError, ProgramError
from cluster.program.program import Program
from cluster.progress import Bar, to_stdout

STATIC_GAIN = 1.03
"""Minimum speed-up of a program compiled for one batch size. It costs a replica memory, and a
smaller speed-up is within the variation of timings."""

CANNOT_RUN = 3
"""Exit status for a fault outside the program, such as in the data.

Other failures count as the program's, if the baseline alone can be measured."""

_SIGNAL_AT_PARENTS_DEATH = 1
"""PR_SET_PDEATHSIG of prctl(2)."""


class Task(BaseModel):
    """Task of the process: the program to measure, and the files it needs."""

    artifact: Path
    program: str | None
    """Key of the program; None only runs the baseline once."""

    recipe: Recipe
    baseline_weights: Path
    baseline_outputs: Path
    """File of the baseline's answers; the first process writes it."""

    outputs: Outputs | None = None
    """Outputs of what the program was made from, and of the program; None without a program."""

    mates: tuple[str, ...] = independence.SAFE_MATES
    """Items to put beside others, see :class:`cluster.independence.Inputs`."""

    result: Path


class ProgramResult(BaseModel):
    """Measurements of the process; of a program that does not work, only the reason.

    Empty if the task has no program: the evaluation itself works.
    """

    failed: str = ""
    died: bool = False
    """Whether the process ended without a result, by its own fault or the evaluation's."""

    baseline: Measurement | None = None
    program: Measurement | None = None
    difference: float | None = None
    """Difference of the program's outputs from those of what it was made from."""

    static: tuple[int, ...] = ()


def main(task_file: Path) -> None:
    """Read the task, measure, write the result."""
    task = Task.model_validate_json(task_file.read_text())
    try:
        result = _measure(task)
    except ProgramError as error:
        if task.program is None:
            raise
        result = ProgramResult(failed=str(error))
    task.result.write_text(result.model_dump_json())


def _measure(task: Task) -> ProgramResult:
    """Measure the program and the baseline; ProgramError if the program does not work."""
    artifact, settings = Artifact.read(task.artifact), task.recipe.evaluation
    files = artifact.manifest.files
    entry = next((e for e in artifact.manifest.programs if e.key == task.program), None)
    loaded = None
    if entry is not None:
        if task.outputs is None:
            raise ValueError(f"the task of {entry.key} lacks its files of outputs")
        loaded = loading.load(artifact, entry, task.outputs, task.recipe, task.mates)
    data = load_data(task.recipe.data, task.recipe.seed)
    samples = PreparedSamples(
        data.test,
        artifact.manifest.inputs,
        artifact.manifest.image or artifact.manifest.text,
        artifact.file(TOKENIZER).read_bytes() if TOKENIZER in files else None,
        skip_unreadable=True,
    )
    runs = {"baseline": _baseline(task, data.labels, entry)}
    if entry is None or loaded is None:
        runs["baseline"](samples.batch([0])[0])
        return ProgramResult()
    static = loaded.static
    runs |= {"program": _run(loaded.dynamic)}
    runs |= {"static": _run(static)} if static else {}
    timed = latencies(runs, samples, settings.batches, settings.repeats, to_stdout)
    judge = _Judge(
        task,
        samples,
        runs["baseline"],
        activation=artifact.manifest.activation,
        labelled=bool(data.labels),
    )
    weights_bytes = task.baseline_weights.stat().st_size
    baseline = judge.measurement(None, timed["baseline"], weights_bytes)
    batches = _static_batches(
        entry, static, timed, files, most_bytes(task.recipe.gate, weights_bytes)
    )
    curve = tuple(
        quick if quick.batch in batches else usual
        for usual, quick in zip(
            timed["program"], timed.get("static", timed["program"]), strict=True
        )
    )
    size = _size(with_static(entry, batches), files)
    return ProgramResult(
        baseline=baseline,
        program=judge.measurement(runs["program"], curve, size),
        difference=loaded.difference,
        static=batches,
    )


# ---------------------------------------------------------------------------- programs


def _run(program: Program) -> Run:
    return lambda arrays: program.run(arrays)[0]


def _static_batches(
    entry: ProgramEntry,
    static: Program | None,
    timed: dict[str, tuple[Latency, ...]],
    files: dict[str, FileEntry],
    limit_bytes: float,
) -> tuple[int, ...]:
    """Return batch sizes whose static shapes are faster and fit into ``limit_bytes``.

    The largest gains are chosen first.
    """
    if static is None:
        return ()
    candidates = {file.batch for file in static.entry.static_files}
    gains = {
        usual.batch: usual.p50_ms / quick.p50_ms
        for usual, quick in zip(timed["program"], timed["static"], strict=True)
        if usual.batch in candidates
    }
    for batch, gain in gains.items():
        to_stdout(f"measure  static shapes for batch {batch}: {gain:.2f}× as fast")
    chosen: tuple[int, ...] = ()
    for batch in sorted(gains, key=lambda batch: -gains[batch]):
        fits = _size(with_static(entry, (*chosen, batch)), files) <= limit_bytes
        # Static shapes loaded from the same files take no room in the artifact.
        free = with_static(entry, (batch,)).loaded_files == with_static(entry, ()).loaded_files
        if gains[batch] >= STATIC_GAIN and (fits or free):
            chosen = (*chosen, batch)
    return tuple(sorted(chosen))


def _size(entry: ProgramEntry, files: dict[str, FileEntry]) -> int:
    return sum(files[name].size_bytes for name in entry.loaded_files)


# ---------------------------------------------------------------------------- baseline, scores


def _baseline(task: Task, labels: tuple[str, ...], entry: ProgramEntry | None) -> Run:
    """Return the model before compression, in eager float32 on the program's device."""
    from cluster.models import checkpoints, load_model
    from cluster.program.pytorch import compute_with, device_of

    module = load_model(task.recipe.baseline_source, labels, checked=True).module
    checkpoints.fill(module, task.baseline_weights)
    target = entry.target if entry is not None else "cpu"
    module.to(device_of(target)).eval()
    compute = compute_with(module, task.recipe.evaluation.compute_threads, target)
    if task.recipe.baseline_source.max_batch_size == 1:
        compute = independence.one_by_one(compute)
    return lambda arrays: compute(arrays)[0]


class _Judge:
    """Judge of outputs by the recipe's metrics, beside the baseline's on the same samples."""

    def __init__(
        self,
        task: Task,
        samples: PreparedSamples,
        baseline: Run,
        *,
        activation: OutputActivation,
        labelled: bool,
    ) -> None:
        self._activation, self._labelled = activation, labelled
        self._settings, self._gate = task.recipe.evaluation, task.recipe.gate
        self._samples = samples
        file = task.baseline_outputs
        if not file.is_file():
            outputs, labels = self._outputs(baseline, "baseline")
            partial = file.with_suffix(".partial")
            with partial.open("wb") as stream:
                np.savez(stream, outputs=outputs, labels=labels)
            partial.replace(file)
        with np.load(file) as arrays:
            self._expected, self._labels = arrays["outputs"], arrays["labels"]

    def measurement(
        self, run: Run | None, latency: tuple[Latency, ...], size_bytes: int
    ) -> Measurement:
        """Return the measurement of ``run``; None stands for the baseline."""
        outputs = self._expected
        if run is not None:
            outputs, _ = self._outputs(run, "program")
        first, *others = self._settings.metrics
        scores = self._scores(first, outputs)
        mean = metrics.mean_score(scores)
        drop, alike = None, None
        if run is not None:
            baseline = self._scores(first, self._expected)
            drop = metrics.drop(baseline, scores, self._gate.confidence)
            measure = measure_for(first, self._activation, self._labelled, outputs, self._expected)
            alike = agreement(measure, outputs, self._expected, self._gate.confidence)
        return Measurement(
            accuracy=mean.value,
            accuracy_low=mean.low,
            accuracy_high=mean.high,
            samples=mean.samples,
            drop=drop,
            agreement=alike,
            others={name: metrics.mean_score(self._scores(name, outputs)) for name in others},
            latency=latency,
            size_bytes=size_bytes,
        )

    def _outputs(self, run: Run, name: str) -> tuple[np.ndarray, np.ndarray]:
        """Return outputs and labels, with lines of progress: a silent process counts as hung."""
        total, done = min(len(self._samples), self._settings.samples or len(self._samples)), 0
        bar = Bar(f"measure  scores of the {name}", total, to_stdout, PROGRESS_INTERVAL_S)

        def run_and_report(arrays: list[np.ndarray]) -> np.ndarray:
            nonlocal done
            outputs = run(arrays)
            done += len(outputs)
            bar.update(done)
            return outputs

        return outputs_of(run_and_report, self._samples, self._settings.samples)

    def _scores(self, name: str, outputs: np.ndarray) -> np.ndarray:
        scores: Any = metrics.metric(name)(outputs, self._labels, self._expected)
        return np.asarray(scores, np.float64)


def end_with_parent() -> None:
    """Let the kernel kill this process when the job dies; a hung process would not notice."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_SIGNAL_AT_PARENTS_DEATH, signal.SIGKILL)


if __name__ == "__main__":
    end_with_parent()
    try:
        main(Path(sys.argv[1]))
    except HeadraceError as error:
        print(error, flush=True)
        sys.exit(CANNOT_RUN)
