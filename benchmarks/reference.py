"""The answers that every contender must give, computed in-process.

python -m benchmarks.reference ARTIFACT_ID WEIGHTS FILE → logits [IMAGES, 1000] in FILE
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np

from benchmarks.contender import Weights
from benchmarks.errors import BenchmarkError
from benchmarks.images import request_images
from benchmarks.in_process import COMPUTE_THREADS
from cluster.artifact.store import default_store, open_store
from cluster.program import program as programs

IMAGES = 4
"""How many different images a contender is verified with."""


def logits(artifact_id: str, weights: Weights, scratch: Path) -> np.ndarray:
    """Logits float32 ``[IMAGES, 1000]`` of the artifact, or of the eager float32 model."""
    file = scratch / f"{weights}.npy"
    command = [sys.executable, "-m", "benchmarks.reference", artifact_id, weights, str(file)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise BenchmarkError(f"no reference answers for {weights}:\n{done.stderr[-2000:]}")
    answers: np.ndarray = np.load(file)
    return answers


def main(artifact_id: str, weights: str, file: Path) -> None:
    """The process that computes, one image at a time."""
    images = np.split(request_images(IMAGES), IMAGES)
    if weights == "int8":
        program = programs.load(open_store(default_store()).open(artifact_id), COMPUTE_THREADS)
        answers = [program.run([image])[0] for image in images]
    else:
        from benchmarks.servers.eager import EagerResNet18  # imports PyTorch

        model = EagerResNet18()
        answers = [model.run(image) for image in images]
    np.save(file, np.concatenate(answers))


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], Path(sys.argv[3]))
