"""Stages as a chain of plain Ray Serve deployments. POST /, and POST /feed?... → JSON.

    Ingress ─ stack ─→ handle of stage 0 ─→ handle of stage 1 ─→ rows back
             arrays as arguments, an answer passed on as Serve's reference to it

Batch size and batches in flight equal those of Headrace's replica; everything else is at its
default. Only Ray's niceness of 15 is removed, which would put it behind the load generator.
"""

# mypy: disable-error-code="no-untyped-call"

from __future__ import annotations

import asyncio
import dataclasses
import json
import os
import signal
import sys
import threading
import time
from typing import Any

import numpy as np
import ray
from ray import serve
from starlette.requests import Request
from starlette.responses import Response

from benchmarks.artifacts.program import COMPUTE_THREADS
from benchmarks.parallelism import pace
from benchmarks.parallelism.fed import SERVED_BATCH, FeedResult
from benchmarks.servers.settings import ARTIFACT_VARIABLE, MAX_WAIT_S, RUN_DIR_VARIABLE
from cluster.artifact.artifact import Artifact
from cluster.artifact.layout import Layout
from cluster.artifact.store import default_store, open_store
from cluster.program import program as programs
from cluster.program.stage import StageProgram
from deployments.local.ports import free_ports

_STAGES = 2
_IN_FLIGHT = _STAGES + 1
_CPUS = _STAGES + 1


def artifact_and_cut() -> tuple[Artifact, Layout]:
    """Return the artifact of the environment, and its pipeline."""
    artifact = open_store(default_store()).open(os.environ[ARTIFACT_VARIABLE])
    return artifact, next(
        layout for layout in artifact.manifest.layouts if layout.pipeline == _STAGES
    )


@serve.deployment(max_ongoing_requests=_IN_FLIGHT)
class Stage:
    """Program of one stage, as Headrace's shard loads it."""

    def __init__(self, number: int) -> None:
        artifact, layout = artifact_and_cut()
        shard = layout.shard(number, 0)
        program = programs.load_entry(artifact, shard.program, COMPUTE_THREADS)
        self._stage = StageProgram(layout, shard, program)
        # Serve calls this from several threads; a program runs one batch at a time.
        self._lock = threading.Lock()

    def __call__(self, arrays: list[np.ndarray]) -> list[np.ndarray]:
        with self._lock:
            return self._stage.run([np.ascontiguousarray(array) for array in arrays])


@serve.deployment(max_ongoing_requests=4 * SERVED_BATCH * _IN_FLIGHT)
class Ingress:
    """Ingress that batches requests and sends the batches through the stages."""

    def __init__(self, *stages: Any) -> None:
        self._stages = stages
        artifact, _ = artifact_and_cut()
        (self._input,) = artifact.manifest.inputs

    async def through(self, array: np.ndarray) -> np.ndarray:
        answer: Any = [array]
        for stage in self._stages:
            answer = stage.remote(answer)
        arrays = await answer
        return arrays[0]

    @serve.batch(
        max_batch_size=SERVED_BATCH,
        batch_wait_timeout_s=MAX_WAIT_S,
        max_concurrent_batches=_IN_FLIGHT,
    )
    async def infer(self, items: list[np.ndarray]) -> list[np.ndarray]:
        return list(await self.through(np.stack(items)))

    async def __call__(self, request: Request) -> Response:
        body = await request.body()
        item = np.frombuffer(body, self._input.dtype).reshape(self._input.item_shape)
        if request.url.path == "/feed":
            fed = await self._feed(item, float(request.query_params["seconds"]))
            return Response(json.dumps(dataclasses.asdict(fed)), media_type="application/json")
        answer = await self.infer(item)
        return Response(answer.tobytes(), media_type="application/octet-stream")

    async def _feed(self, item: np.ndarray, seconds: float) -> FeedResult:
        """Measure as pace.py does, with tasks in the place of threads."""
        one, several = item[None], np.repeat(item[None], SERVED_BATCH, 0)
        ended = await self._ended(one, 1, seconds)
        durations = np.diff(ended)
        many = await self._ended(several, _IN_FLIGHT, seconds)
        rate = pace.rate(many, SERVED_BATCH, _IN_FLIGHT)
        return FeedResult(float(np.median(durations)) * 1e3, {SERVED_BATCH: rate})

    async def _ended(self, batch: np.ndarray, in_flight: int, seconds: float) -> list[float]:
        ended: list[float] = []

        async def call() -> None:
            while not pace.enough(ended, in_flight, seconds):
                await self.through(batch)
                ended.append(time.perf_counter())

        await asyncio.gather(*(call() for _ in range(in_flight)))
        return ended


if __name__ == "__main__":
    os.environ |= {"RAY_worker_niceness": "0"}
    ray.init(
        address="local",
        num_cpus=_CPUS,
        dashboard_port=free_ports(1)[0],
        _temp_dir=f"{os.environ[RUN_DIR_VARIABLE]}/r",
    )
    serve.start(http_options={"host": "127.0.0.1", "port": int(sys.argv[1])})
    stages = [
        Stage.options(name=f"stage-{number}").bind(number)  # type: ignore[attr-defined]
        for number in range(_STAGES)
    ]
    serve.run(Ingress.bind(*stages))  # type: ignore[attr-defined]
    signal.pause()
