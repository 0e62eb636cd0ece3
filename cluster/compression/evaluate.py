"""Measuring the artifact as a replica would load it, in a process that built nothing.

    run(...) in the job → python -m cluster.compression.evaluate → result.json → Evaluated

The process reads the artifact's directory, loads its program through ``program.load`` with
every hash checked, rebuilds the float32 baseline beside it, and times both in turn.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
from pydantic import BaseModel, ConfigDict

from cluster.artifact.artifact import TOKENIZER, Artifact
from cluster.artifact.manifest import Measurement
from cluster.config.recipe import Recipe
from cluster.data import PreparedSamples, load_data
from cluster.errors import CompressionError, HeadraceError
from cluster.program import program as programs
from cluster.progress import Print, to_stdout

BATCHES = (1, 8)


class Evaluated(BaseModel):
    """What the evaluation process found."""

    model_config = ConfigDict(frozen=True)

    target: str
    baseline: Measurement
    artifact: Measurement


class _Task(BaseModel):
    artifact: Path
    recipe: Recipe
    baseline_weights: Path
    expected: Path
    result: Path


def run(
    artifact: Path, recipe: Recipe, baseline: Path, expected: Path, scratch: Path, out: Print
) -> Evaluated:
    """Measure the artifact in a fresh process; CompressionError with its last lines if it fails.

    ``baseline``: the float32 weights before compression. ``expected``: what the program must
    compute, see :mod:`reference`. ``scratch``: a directory for the task.
    """
    task = _Task(
        artifact=artifact,
        recipe=recipe,
        baseline_weights=baseline,
        expected=expected,
        result=scratch / "evaluated.json",
    )
    (scratch / "task.json").write_text(task.model_dump_json())
    process = subprocess.Popen(
        [sys.executable, "-m", "cluster.compression.evaluate", scratch / "task.json"],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    tail: list[str] = []
    with process:
        for line in process.stdout or ():
            if line.startswith("measure"):
                out(line.rstrip())
            else:
                tail = [*tail[-20:], line]
    if process.returncode != 0:
        raise CompressionError(
            f"the artifact could not be evaluated (exit status {process.returncode}):\n"
            + "".join(tail)
        )
    return Evaluated.model_validate_json(task.result.read_text())


def main(task_file: str) -> None:
    """The fresh process: read the task, measure, write the result."""
    # Only this process compares with the float model; a replica never imports these.
    import torch

    from cluster.compression import reference
    from cluster.compression.measure import accuracy, latencies
    from cluster.models import checkpoints, load_model

    task = _Task.model_validate_json(Path(task_file).read_text())
    recipe = task.recipe
    artifact = Artifact.read(task.artifact)
    program = programs.load(artifact, recipe.evaluation.compute_threads)
    found = reference.check(lambda arrays: program.run(arrays)[0], task.expected)
    to_stdout(f"measure  the program agrees with the model: {found:.3f} of the logits' spread")

    data = load_data(recipe.data, recipe.seed)
    model = load_model(recipe.model, data.labels)
    checkpoints.fill(model.module, task.baseline_weights)
    torch.set_num_threads(recipe.evaluation.compute_threads)

    def baseline_run(arrays: list[np.ndarray]) -> np.ndarray:
        with torch.inference_mode():
            logits: np.ndarray = model.module(*map(torch.from_numpy, arrays)).numpy()
        return logits

    runs = {"baseline": baseline_run, "artifact": lambda arrays: program.run(arrays)[0]}
    samples = PreparedSamples(data.test, model.inputs, model.preprocess, model.files.get(TOKENIZER))
    timed = latencies(runs, samples, BATCHES, recipe.evaluation.repeats, to_stdout)
    sizes = {
        "baseline": task.baseline_weights.stat().st_size,
        "artifact": artifact.manifest.files[program.entry.file].size_bytes,
    }
    measured = {}
    for name, run_model in runs.items():
        right = accuracy(run_model, samples, recipe.evaluation.samples)
        measured[name] = Measurement(
            accuracy=right.share,
            accuracy_low=right.low,
            accuracy_high=right.high,
            samples=right.samples,
            latency=timed[name],
            size_bytes=sizes[name],
        )
        to_stdout(f"measure  accuracy of the {name}")
    task.result.write_text(Evaluated(target=program.entry.target, **measured).model_dump_json())


if __name__ == "__main__":
    try:
        main(sys.argv[1])
    except HeadraceError as error:
        sys.exit(str(error))
