"""One contender, measured once.

start → first answer → verify → warm up → load at each concurrency → footprint → stop
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from benchmarks.contenders import process_facts
from benchmarks.contenders.contender import Contender
from benchmarks.contenders.footprint import footprint
from benchmarks.harness.results import Reading
from benchmarks.load import wrk
from benchmarks.load.startup import StartupWatch, now_s
from benchmarks.load.verify import verify
from benchmarks.serving.table import (
    COMPILERS,
    COMPUTE_PEAK,
    CONCURRENCIES,
    LAUNCH_TO_READY,
    PROCESS_TO_READY,
    PSS,
    TORCH_PYTHON,
)
from deployments.local.ports import free_ports

_WARM_UP_S = 2

_SETTLE_S = 1.0
"""Time in which the server computes the last requests of a wrk that has already ended."""


def measure(
    contender: Contender,
    artifact_id: str,
    bodies: Sequence[Path],
    expected: np.ndarray,
    seconds: int,
) -> list[Reading]:
    """Start the contender, measure it for ``seconds`` per concurrency, and stop it.

    ``bodies``: one file per image; ``expected``: their logits ``[len(bodies), 1000]``.
    """
    port = free_ports(1)[0]
    endpoint = contender.endpoint(port)
    contents = [body.read_bytes() for body in bodies]
    launched_s = now_s()
    with StartupWatch(endpoint, contents[0]) as watch, contender.start(artifact_id, port) as server:
        ready_s = watch.wait_ready(server.require_alive)
        compilers = watch.compilers(server.mark)
        largest_difference = verify(endpoint, contents, expected)
        wrk.post(endpoint, bodies[0], max(CONCURRENCIES), min(seconds, _WARM_UP_S))
        loads = {}
        for concurrency in CONCURRENCIES:
            time.sleep(_SETTLE_S)
            loads[concurrency] = wrk.post(endpoint, bodies[0], concurrency, seconds)
        memory = footprint(server)
        process_to_ready_s = ready_s - process_facts.started_at_s(memory.compute_pid)
    figures = wrk.figures(loads) | {
        PROCESS_TO_READY: process_to_ready_s,
        LAUNCH_TO_READY: ready_s - launched_s,
        COMPUTE_PEAK: memory.compute_peak_mib,
        PSS: memory.all_pss_mib,
        "processes": memory.processes,
        "largest difference": largest_difference,
    }
    texts = {
        TORCH_PYTHON: "yes" if memory.torch_python_loaded else "no",
        COMPILERS: ", ".join(compilers) or "none",
    }
    return [Reading(subject=contender.key, figures=figures, texts=texts)]
