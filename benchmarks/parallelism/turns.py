"""Subjects of ``benchmarks.parallelism``: each is started, measured once and stopped.

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

import numpy as np

from benchmarks.artifacts import program
from benchmarks.contenders import headrace
from benchmarks.contenders.contender import Endpoint
from benchmarks.contenders.script import scripted
from benchmarks.harness.results import Figures, Reading
from benchmarks.load import wrk
from benchmarks.load.startup import StartupWatch
from benchmarks.load.verify import verify
from benchmarks.parallelism import feed, peers
from benchmarks.parallelism.cases import CHAIN, ParallelCase
from benchmarks.parallelism.fed import BATCHES, CONCURRENCIES, CUT, SERVED_BATCH, WHOLE, FeedResult
from benchmarks.parallelism.inputs import items
from deployments.local.ports import free_ports

_CHAIN = scripted(
    CHAIN, "Ray Serve chain", "fp32", "benchmarks.parallelism.ray_chain_server", "/", None
)

_CHECKED = 4
"""Different items that a server is verified with."""

_CPUS = 4
"""CPUs of the cluster: one of the replica and two of the shards, on any number of cores."""

_WARM_UP_S = 2
_SLOW = 20


@dataclass(frozen=True)
class Bench:
    """Artifact and requests of one case, and the length of every measurement."""

    case: ParallelCase
    artifact_id: str
    bodies: Sequence[Path]
    """One file per item."""
    expected: np.ndarray
    """Answers of the whole program in-process."""
    seconds: int
    peer_python: str
    """Interpreter of the peers that are eager PyTorch."""

    @staticmethod
    def of(
        case: ParallelCase, artifact_id: str, scratch: Path, seconds: int, peer_python: str
    ) -> Bench:
        """Write the requests, and compute their answers in another process."""
        inputs = items(case.model, _CHECKED)
        bodies = []
        for number, item in enumerate(inputs):
            bodies.append(scratch / f"{case.key}-{number}")
            bodies[-1].write_bytes(np.ascontiguousarray(item).tobytes())
        spawn = multiprocessing.get_context("spawn")
        with ProcessPoolExecutor(1, spawn) as pool:
            expected = pool.submit(_answers, artifact_id, inputs).result()
        return Bench(case, artifact_id, bodies, expected, seconds, peer_python)

    def measure(self, subject: str) -> list[Reading]:
        """Start, measure and stop the subject."""
        if subject in (WHOLE, CUT):
            fed, loads = self._headrace(subject)
        elif subject == CHAIN:
            fed, loads = self._chain()
        else:
            fed = peers.run(subject, self.peer_python, self.case.model, self.seconds)
            loads = {}
        return [Reading(subject=subject, figures=fed.figures() | loads)]

    def _headrace(self, subject: str) -> tuple[FeedResult, Figures]:
        args = headrace.model_args(
            self.case.key, self.artifact_id, batching={"max_batch_size": SERVED_BATCH}
        )
        if subject == CUT:
            args["parallel"] = {"pipeline": self.case.pipeline, "tensor": self.case.tensor}
        port = free_ports(1)[0]
        with headrace.running(port, num_cpus=_CPUS) as cluster:
            fed = feed.feed(cluster, args, self.case.model, BATCHES, self.seconds)
            headrace.deploy(cluster, args)
            return fed, self._loads(headrace.endpoint(port, self.case.key))

    def _chain(self) -> tuple[FeedResult, Figures]:
        port = free_ports(1)[0]
        endpoint = _CHAIN.endpoint(port)
        body = self.bodies[0].read_bytes()
        with (
            StartupWatch(endpoint, body) as watch,
            _CHAIN.start(self.artifact_id, port) as server,
        ):
            watch.wait_ready(server.require_alive)
            loads = self._loads(endpoint)
            request = urllib.request.Request(
                f"{endpoint.url}feed?seconds={self.seconds}", body, endpoint.headers, method="POST"
            )
            with urllib.request.urlopen(request, timeout=60 + _SLOW * self.seconds) as answer:
                return FeedResult.read(json.loads(answer.read())), loads

    def _loads(self, endpoint: Endpoint) -> Figures:
        verify(endpoint, [body.read_bytes() for body in self.bodies], self.expected)
        first = self.bodies[0]
        wrk.post(endpoint, first, max(CONCURRENCIES), min(self.seconds, _WARM_UP_S))
        loads = {n: wrk.post(endpoint, first, n, self.seconds) for n in CONCURRENCIES}
        return wrk.figures(loads)


def _answers(artifact_id: str, inputs: np.ndarray) -> np.ndarray:
    loaded = program.load(artifact_id)
    return np.concatenate([loaded.run([inputs[n : n + 1]])[0] for n in range(len(inputs))])
