"""The in-process limit: the artifact's program run back to back, with no server around it.

python -m benchmarks.in_process ARTIFACT_ID SECONDS → JSON {"batch": [p50_ms, p99_ms], ...}
"""

from __future__ import annotations

import json
import subprocess
import sys
import time

import numpy as np

from benchmarks.errors import BenchmarkError
from benchmarks.images import request_images
from benchmarks.results import Limit
from cluster.artifact.store import default_store, open_store
from cluster.program import program as programs

BATCHES = (1, 2, 4, 6, 8, 12, 16)
COMPUTE_THREADS = 1
"""Of every contender, and of the limit."""

_WARM_UP_RUNS = 3


def measure(artifact_id: str, seconds: float) -> Limit:
    """Time batch 1 for ``seconds`` and the larger batches for a quarter of that each."""
    command = [sys.executable, "-m", "benchmarks.in_process", artifact_id, str(seconds)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise BenchmarkError(f"the in-process limit could not be measured:\n{done.stderr[-2000:]}")
    timed = {int(batch): times for batch, times in json.loads(done.stdout).items()}
    return Limit(
        batch_1_p50_ms=timed[1][0],
        batch_1_p99_ms=timed[1][1],
        images_per_s={batch: batch / p50 * 1e3 for batch, (p50, _) in timed.items()},
    )


def main(artifact_id: str, seconds: float) -> None:
    """The process that computes; it loads what a replica loads, and nothing else."""
    program = programs.load(open_store(default_store()).open(artifact_id), COMPUTE_THREADS)
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
