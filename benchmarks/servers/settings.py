"""What every peer is told, and how it loads the model."""

from __future__ import annotations

import os

import numpy as np

from benchmarks.images import SIZE
from benchmarks.in_process import COMPUTE_THREADS
from cluster.artifact.store import default_store, open_store
from cluster.program import program as programs
from cluster.program.program import Program

ARTIFACT_VARIABLE = "HEADRACE_BENCHMARK_ARTIFACT"
RUN_DIR_VARIABLE = "HEADRACE_BENCHMARK_RUN_DIR"

MAX_BATCH_SIZE = 8
"""Of the peers that let it be chosen, and of Headrace."""

MAX_WAIT_S = 0.001
"""How long they hold the first request of a batch back.

The least mosec takes; LitServe, told 0, would spin on its queue. Batches fill all the same, with
the requests that arrive while one is computed."""


def load_program() -> Program:
    """The artifact's program, as Headrace's own replica loads it."""
    artifact = open_store(default_store()).open(os.environ[ARTIFACT_VARIABLE])
    return programs.load(artifact, COMPUTE_THREADS)


def image(body: bytes) -> np.ndarray:
    """A request's body as a view, float32 ``[3, 224, 224]``."""
    return np.frombuffer(body, np.float32).reshape(3, SIZE, SIZE)
