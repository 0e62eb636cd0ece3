"""The same stages as a chain of plain Ray Serve deployments. POST /, and POST /feed?... → JSON.

    Ingress ─ stack ─→ handle of stage 0 ─→ handle of stage 1 ─→ rows back
             arrays as arguments, an answer handed on as the reference that Serve makes of it

Batches, and how many are under way, are as many as in Headrace's replica; everything else is at
its default, but for Ray's niceness of 15, which would put it behind the load generator.
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

from benchmarks.in_process import COMPUTE_THREADS
from benchmarks.parallelism import pace
from benchmarks.parallelism.results import SERVED_BATCH, Fed
from benchmarks.servers.settings import ARTIFACT_VARIABLE, MAX_WAIT_S, RUN_DIR_VARIABLE
from cluster.artifact.artifact import Artifact
from cluster.artifact.layout import Layout
from cluster.artifact.store import default_store, open_store
from cluster.program import program as programs
from cluster.program.stage import StageProgram
from deployments.local.ports import free_ports

_STAGES = 2
_UNDER_WAY = _STAGES + 1
_CPUS = _STAGES + 1


def artifact_and_cut() -> tuple[Artifact, Layout]:
    """The artifact that the benchmark names, and its pipeline."""
    artifact = open_store(default_store()).open(os.environ[ARTIFACT_VARIABLE])
    return artifact, next(one for one in artifact.manifest.layouts if one.pipeline == _STAGES)


@serve.deployment(max_ongoing_requests=_UNDER_WAY)
class Stage:
    """One stage's program, as Headrace's shard loads it."""

    def __init__(self, number: int) -> None:
        artifact, layout = artifact_and_cut()
        shard = layout.shard(number, 0)
        program = programs.load_entry(artifact, shard.program, COMPUTE_THREADS)
        self._stage = StageProgram(layout, shard, program)
        # Serve runs this method in threads, several at a time; a program runs one batch at a time.
        self._free = threading.Lock()

    def __call__(self, arrays: list[np.ndarray]) -> list[np.ndarray]:
        with self._free:
            return self._stage.run([np.ascontiguousarray(array) for array in arrays])


@serve.deployment(max_ongoing_requests=4 * SERVED_BATCH * _UNDER_WAY)
class Ingress:
    """Takes requests, makes batches of them, and sends these through the stages."""

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
        max_concurrent_batches=_UNDER_WAY,
    )
    async def infer(self, items: list[np.ndarray]) -> list[np.ndarray]:
        return list(await self.through(np.stack(items)))

    async def __call__(self, request: Request) -> Response:
        body = await request.body()
        item = np.frombuffer(body, self._input.dtype).reshape(self._input.item_shape)
        if request.url.path == "/feed":
            found = await self._feed(item, float(request.query_params["seconds"]))
            return Response(json.dumps(dataclasses.asdict(found)), media_type="application/json")
        answer = await self.infer(item)
        return Response(answer.tobytes(), media_type="application/octet-stream")

    async def _feed(self, item: np.ndarray, seconds: float) -> Fed:
        """What pace.py does with threads, with tasks."""
        one, several = item[None], np.repeat(item[None], SERVED_BATCH, 0)
        ended = await self._ended(one, 1, seconds)
        taken = np.diff(ended)
        many = await self._ended(several, _UNDER_WAY, seconds)
        rate = pace.rate(many, SERVED_BATCH, _UNDER_WAY)
        return Fed(float(np.median(taken)) * 1e3, {SERVED_BATCH: rate})

    async def _ended(self, batch: np.ndarray, under_way: int, seconds: float) -> list[float]:
        ended: list[float] = []

        async def go_on() -> None:
            while not pace.enough(ended, under_way, seconds):
                await self.through(batch)
                ended.append(time.perf_counter())

        await asyncio.gather(*(go_on() for _ in range(under_way)))
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
