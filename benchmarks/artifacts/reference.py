"""Reference answers of the ResNet-18, computed in-process.

python -m benchmarks.artifacts.reference ARTIFACT_ID WEIGHTS FILE → logits [IMAGES, 1000] in FILE
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Literal

import numpy as np

from benchmarks.artifacts.images import request_images
from benchmarks.artifacts.program import load
from benchmarks.harness.errors import BenchmarkError

Weights = Literal["int8", "fp32"]
"""The artifact, or the eager float32 model."""

IMAGES = 4
"""Different images that a server is verified with."""


def logits(artifact_id: str, weights: Weights, scratch: Path) -> np.ndarray:
    """Return logits float32 ``[IMAGES, 1000]``, computed in a process of their own."""
    file = scratch / f"{weights}.npy"
    command = [sys.executable, "-m", "benchmarks.artifacts.reference"]
    done = subprocess.run(
        [*command, artifact_id, weights, str(file)], capture_output=True, text=True, check=False
    )
    if done.returncode != 0:
        raise BenchmarkError(f"no reference answers for {weights}:\n{done.stderr[-2000:]}")
    answers: np.ndarray = np.load(file)
    return answers


def write_bodies(scratch: Path) -> list[Path]:
    """Write one file per image, the body of its request; return their paths."""
    bodies = [scratch / f"image-{number}" for number in range(IMAGES)]
    for body, image in zip(bodies, request_images(IMAGES), strict=True):
        body.write_bytes(np.ascontiguousarray(image).tobytes())
    return bodies


def main(artifact_id: str, weights: str, file: Path) -> None:
    """Compute the answers one image at a time and write them to ``file``."""
    images = np.split(request_images(IMAGES), IMAGES)
    if weights == "int8":
        program = load(artifact_id)
        answers = [program.run([image])[0] for image in images]
    else:
        from benchmarks.artifacts.eager import EagerResNet18  # imports PyTorch

        model = EagerResNet18()
        answers = [model.run(image) for image in images]
    np.save(file, np.concatenate(answers))


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], Path(sys.argv[3]))
