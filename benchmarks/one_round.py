"""One contender in one round.

start → first answer → verify → warm up → load at each concurrency → memory → stop
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from benchmarks import load, proc
from benchmarks.contender import Contender, Server
from benchmarks.errors import BenchmarkError
from benchmarks.results import CONCURRENCIES, Footprint, Round, Start
from benchmarks.startup import StartupWatch, now_s
from benchmarks.verify import verify
from deployments.local.ports import free_ports

_WARM_UP_S = 2

_SETTLE_S = 1.0
"""wrk leaves its last requests unanswered; the server computes them after it has gone."""


def measure(
    contender: Contender,
    number: int,
    artifact_id: str,
    bodies: Sequence[Path],
    expected: np.ndarray,
    seconds: int,
) -> Round:
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
        difference = verify(endpoint, contents, expected)
        load.post(endpoint, bodies[0], max(CONCURRENCIES), min(seconds, _WARM_UP_S))
        loads = {}
        for concurrency in CONCURRENCIES:
            time.sleep(_SETTLE_S)
            loads[concurrency] = load.post(endpoint, bodies[0], concurrency, seconds)
        footprint = _footprint(server)
        start = Start(
            launch_to_ready_s=ready_s - launched_s,
            process_to_ready_s=ready_s - proc.started_at_s(footprint.compute_pid),
            compilers=compilers,
        )
    return Round(contender.key, number, difference, start, loads, footprint)


def _footprint(server: Server) -> Footprint:
    """Memory of the server's processes; BenchmarkError if none of them computes."""
    alive: dict[int, float] = {}
    parents: dict[int, int] = {}
    computing: dict[int, float] = {}
    for process in server.find():
        try:
            alive[process.pid] = proc.pss_mib(process.pid)
            parents[process.pid] = proc.parent(process.pid)
            if proc.has_mapped(process.pid, "libtorch_cpu.so"):
                computing[process.pid] = proc.cpu_s(process.pid)
        except OSError:
            continue  # ended meanwhile
    if not computing:
        raise BenchmarkError("no process of the server has libtorch loaded: what computes there?")
    compute_pid = max(computing, key=lambda pid: computing[pid])
    family = [pid for pid in alive if compute_pid in _line(pid, parents)]
    return Footprint(
        compute_peak_mib=sum(proc.peak_rss_mib(pid) for pid in family),
        all_pss_mib=sum(alive.values()),
        processes=len(alive),
        compute_pid=compute_pid,
        torch_python_loaded=proc.has_mapped(compute_pid, "libtorch_python"),
    )


def _line(pid: int, parents: dict[int, int]) -> list[int]:
    """The process and its ancestors, as far as they belong to the server."""
    line = []
    while pid in parents:
        line.append(pid)
        pid = parents[pid]
    return line
