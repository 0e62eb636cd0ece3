"""What takes turns in ``benchmarks.parallelism``: each started, measured once, and stopped.

whole, cut         a local cluster → fed in-process → deployed → answers checked → load
ray-chain          its own cluster → answers checked → fed in-process → load
torch-pipelining,
accelerate         two processes → fed in-process
"""

from __future__ import annotations

import json
import multiprocessing
import urllib.request
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import load
from benchmarks.contender import Endpoint
from benchmarks.contenders import headrace
from benchmarks.contenders.script import scripted
from benchmarks.in_process import COMPUTE_THREADS
from benchmarks.parallelism import feed, peers
from benchmarks.parallelism.cases import CHAIN, Case
from benchmarks.parallelism.inputs import items
from benchmarks.parallelism.results import (
    BATCHES,
    CONCURRENCIES,
    CUT,
    SERVED_BATCH,
    WHOLE,
    Fed,
    Round,
)
from benchmarks.results import Load
from benchmarks.startup import StartupWatch
from benchmarks.verify import verify
from cluster.artifact.store import default_store, open_store
from cluster.program import program as programs
from deployments.local.ports import free_ports

_CHAIN = scripted(CHAIN, "Ray Serve chain", "fp32", "ray_chain_server", "/", None)

_CHECKED = 4
"""How many different items a server is verified with."""

_CPUS = 4
"""Of the cluster: a replica's own and two shards', on however many cores."""

_WARM_UP_S = 2
_SLOW = 20


@dataclass(frozen=True)
class Bench:
    """One case's artifact and requests, and how long everything is measured."""

    case: Case
    artifact_id: str
    bodies: Sequence[Path]
    """One file per item."""
    expected: np.ndarray
    """Answers to the bodies, of the whole program in-process."""
    seconds: int
    peer_python: str
    """The interpreter of the peers that are eager PyTorch."""

    @staticmethod
    def of(case: Case, artifact_id: str, scratch: Path, seconds: int, peer_python: str) -> Bench:
        """Write the requests, and compute their answers in a process of its own."""
        given = items(case.model, _CHECKED)
        bodies = []
        for number, item in enumerate(given):
            bodies.append(scratch / f"{case.key}-{number}")
            bodies[-1].write_bytes(np.ascontiguousarray(item).tobytes())
        spawn = multiprocessing.get_context("spawn")
        with ProcessPoolExecutor(1, spawn) as pool:
            expected = pool.submit(_answers, artifact_id, given).result()
        return Bench(case, artifact_id, bodies, expected, seconds, peer_python)

    def measure(self, subject: str, number: int) -> Round:
        """The subject in one round."""
        if subject in (WHOLE, CUT):
            fed, loads = self._headrace(subject)
        elif subject == CHAIN:
            fed, loads = self._chain()
        else:
            fed = peers.run(subject, self.peer_python, self.case.model, self.seconds)
            loads = {}
        return Round(subject, number, fed, loads)

    def _headrace(self, subject: str) -> tuple[Fed, dict[int, Load]]:
        args: dict[str, Any] = {
            "name": self.case.key,
            "artifact": self.artifact_id,
            "store": default_store(),
            "compute_threads": COMPUTE_THREADS,
            "batching": {"max_batch_size": SERVED_BATCH},
        }
        if subject == CUT:
            args["parallel"] = {"pipeline": self.case.pipeline, "tensor": self.case.tensor}
        port = free_ports(1)[0]
        with headrace.running(port, num_cpus=_CPUS) as cluster:
            fed = feed.fed(cluster, args, self.case.model, BATCHES, self.seconds)
            headrace.deploy(cluster, args)
            return fed, self._loads(headrace.endpoint(port, self.case.key))

    def _chain(self) -> tuple[Fed, dict[int, Load]]:
        port = free_ports(1)[0]
        endpoint = _CHAIN.endpoint(port)
        body = self.bodies[0].read_bytes()
        with (
            StartupWatch(endpoint, body) as watch,
            _CHAIN.start(self.artifact_id, port) as server,
        ):
            watch.wait_ready(server.require_alive)
            loads = self._loads(endpoint)
            asked = urllib.request.Request(
                f"{endpoint.url}feed?seconds={self.seconds}", body, endpoint.headers, method="POST"
            )
            with urllib.request.urlopen(asked, timeout=60 + _SLOW * self.seconds) as answer:
                return feed.read(json.loads(answer.read())), loads

    def _loads(self, endpoint: Endpoint) -> dict[int, Load]:
        verify(endpoint, [body.read_bytes() for body in self.bodies], self.expected)
        first = self.bodies[0]
        load.post(endpoint, first, max(CONCURRENCIES), min(self.seconds, _WARM_UP_S))
        return {n: load.post(endpoint, first, n, self.seconds) for n in CONCURRENCIES}


def _answers(artifact_id: str, given: np.ndarray) -> np.ndarray:
    program = programs.load(open_store(default_store()).open(artifact_id), COMPUTE_THREADS)
    return np.concatenate([program.run([given[n : n + 1]])[0] for n in range(len(given))])
