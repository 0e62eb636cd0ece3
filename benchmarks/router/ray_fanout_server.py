"""Fan-out by hand in plain Ray Serve: a router with two handles, every setting at its default.

    POST / ─→ Router ─ array ─┬→ handle of model 0 ─┐
                              └→ handle of model 1 ─┴→ mean of the probabilities → bytes

Only Ray's niceness of 15 is removed, which would put it behind the load generator.
"""

# mypy: disable-error-code="no-untyped-call"

from __future__ import annotations

import asyncio
import os
import signal
import sys
from typing import Any

import numpy as np
import ray
from ray import serve
from starlette.requests import Request
from starlette.responses import Response

from benchmarks.servers.settings import RUN_DIR_VARIABLE, image, load_program
from deployments.local.ports import free_ports

_MODELS = 2
_CPUS = _MODELS + 1


@serve.deployment
class Classifier:
    """Replica of the artifact's program."""

    def __init__(self) -> None:
        self._program = load_program()

    def __call__(self, item: np.ndarray) -> np.ndarray:
        return self._program.run([np.ascontiguousarray(item[None])])[0][0]


@serve.deployment
class Router:
    """Router that sends the image to all models and answers the mean."""

    def __init__(self, *models: Any) -> None:
        self._models = models

    async def __call__(self, request: Request) -> Response:
        item = image(await request.body())
        answers = await asyncio.gather(*(model.remote(item) for model in self._models))
        mean = np.mean([softmax(logits) for logits in answers], axis=0, dtype=np.float32)
        return Response(mean.tobytes(), media_type="application/octet-stream")


def softmax(logits: np.ndarray) -> np.ndarray:
    """Return the probabilities over the last axis."""
    powers = np.exp(logits - logits.max(axis=-1, keepdims=True))
    shares: np.ndarray = powers / powers.sum(axis=-1, keepdims=True)
    return shares


if __name__ == "__main__":
    os.environ |= {"RAY_worker_niceness": "0"}
    ray.init(
        address="local",
        num_cpus=_CPUS,
        dashboard_port=free_ports(1)[0],
        _temp_dir=f"{os.environ[RUN_DIR_VARIABLE]}/r",
    )
    serve.start(http_options={"host": "127.0.0.1", "port": int(sys.argv[1])})
    models = [
        Classifier.options(name=f"model-{number}").bind()  # type: ignore[attr-defined]
        for number in range(_MODELS)
    ]
    serve.run(Router.bind(*models))  # type: ignore[attr-defined]
    signal.pause()
