"""In-process limit: the artifact's program in a loop, without a server.

python -m benchmarks.serving.in_process ARTIFACT_ID SECONDS → JSON {"batch": [p50_ms, p99_ms], …}
"""

from __future__ import annotations

import json
import subprocess
import sys
import time

import numpy as np

from benchmarks.artifacts.images import request_images
from benchmarks.artifacts.program import load
from benchmarks.harness.errors import BenchmarkError
from benchmarks.harness.results import Figures, Reading
from benchmarks.serving.table import LIMIT, LIMIT_P50, LIMIT_P99, images_per_s

BATCHES = (1, 2, 4, 6, 8, 12, 16)

_WARM_UP_RUNS = 3


def measure(artifact_id: str, seconds: float) -> list[Reading]:
    """Time batch 1 for ``seconds`` and each larger batch for a quarter of that."""
    command = [sys.executable, "-m", "benchmarks.serving.in_process", artifact_id, str(seconds)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise BenchmarkError(f"the in-process limit could not be measured:\n{done.stderr[-2000:]}")
    timed = {int(batch): times for batch, times in json.loads(done.stdout).items()}
    figures: Figures = {LIMIT_P50: timed[1][0], LIMIT_P99: timed[1][1]}
    figures |= {images_per_s(batch): batch / p50 * 1e3 for batch, (p50, _) in timed.items()}
    return [Reading(subject=LIMIT, figures=figures)]


def main(artifact_id: str, seconds: float) -> None:
    """Load what a replica loads, and print the times of its program."""
    program = load(artifact_id)
    images = request_images(max(BATCHES))
    timed = {}
    for batch in BATCHES:
        inputs = [images[:batch]]
        for _ in range(_WARM_UP_RUNS):
            program.run(inputs)
        times_ms = []
        end = time.perf_counter() + (seconds if batch == 1 else seconds / 4)
        while (started := time.perf_counter()) < end:
            program.run(inputs)
            times_ms.append((time.perf_counter() - started) * 1e3)
        timed[batch] = [float(value) for value in np.percentile(times_ms, [50, 99])]
    print(json.dumps(timed))


if __name__ == "__main__":
    main(sys.argv[1], float(sys.argv[2]))
