"""Settings of every peer, and how it loads the model."""

from __future__ import annotations

import os

import numpy as np

from benchmarks.artifacts import program
from benchmarks.artifacts.images import SIZE
from cluster.program.program import Program

ARTIFACT_VARIABLE = "HEADRACE_BENCHMARK_ARTIFACT"
RUN_DIR_VARIABLE = "HEADRACE_BENCHMARK_RUN_DIR"

MAX_BATCH_SIZE = 8
"""Largest batch of the peers that let it be chosen, and of Headrace."""

MAX_WAIT_S = 0.001
"""Time for which a peer delays the first request of a batch.

It is the least that mosec takes; LitServe with 0 would spin on its queue. Batches fill all the
same, with the requests that arrive while one is computed."""


def load_program() -> Program:
    """Return the artifact's program, as Headrace's own replica loads it."""
    return program.load(os.environ[ARTIFACT_VARIABLE])


def image(body: bytes) -> np.ndarray:
    """Return a request's body as a view, float32 ``[3, 224, 224]``."""
    return np.frombuffer(body, np.float32).reshape(3, SIZE, SIZE)
