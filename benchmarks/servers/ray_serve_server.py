"""Plain Ray Serve: one deployment, ``@serve.batch``, every setting at its default. POST /."""

# mypy: disable-error-code="no-untyped-call"

from __future__ import annotations

import os
import signal
import sys

import numpy as np
import ray
from ray import serve
from starlette.requests import Request
from starlette.responses import Response

from benchmarks.servers.settings import RUN_DIR_VARIABLE, image, load_program
from deployments.local.ports import free_ports


@serve.deployment
class Classifier:
    """Replica of the artifact's program, or of the eager float32 module."""

    def __init__(self, weights: str) -> None:
        if weights == "int8":
            program = load_program()
            self._run = lambda images: program.run([images])[0]
        else:
            # Only this branch needs PyTorch's Python package.
            from benchmarks.artifacts.eager import EagerResNet18

            self._run = EagerResNet18().run

    @serve.batch
    async def classify(self, images: list[np.ndarray]) -> list[np.ndarray]:
        return list(self._run(np.stack(images)))

    async def __call__(self, request: Request) -> Response:
        logits = await self.classify(image(await request.body()))
        return Response(logits.tobytes(), media_type="application/octet-stream")


if __name__ == "__main__":
    ray.init(
        address="local",
        dashboard_port=free_ports(1)[0],
        _temp_dir=f"{os.environ[RUN_DIR_VARIABLE]}/r",
    )
    serve.start(http_options={"host": "127.0.0.1", "port": int(sys.argv[1])})
    serve.run(Classifier.bind(sys.argv[2]))  # type: ignore[attr-defined]
    signal.pause()
