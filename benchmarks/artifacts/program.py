"""Program of an artifact as a replica loads it, on the compute threads of all benchmarks."""

from __future__ import annotations

from cluster.artifact.store import default_store, open_store
from cluster.program import program as programs
from cluster.program.program import Program

COMPUTE_THREADS = 1
"""Threads of every program, server and peer."""


def load(artifact_id: str) -> Program:
    """Return the program of an artifact in the store of ``HEADRACE_STORE``."""
    return programs.load(open_store(default_store()).open(artifact_id), COMPUTE_THREADS)
