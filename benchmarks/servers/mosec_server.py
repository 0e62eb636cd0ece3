"""mosec with dynamic batching: POST /inference."""

# mypy: disable-error-code="no-untyped-call"

from __future__ import annotations

import os
import sys

import mosec
import numpy as np

from benchmarks.servers.settings import (
    MAX_BATCH_SIZE,
    MAX_WAIT_S,
    RUN_DIR_VARIABLE,
    image,
    load_program,
)


class Classifier(mosec.Worker):
    """The model in a process of its own, behind mosec's HTTP server."""

    resp_mime_type = "application/octet-stream"

    def __init__(self) -> None:
        super().__init__()
        self._program = load_program()

    def deserialize(self, data: bytes) -> np.ndarray:
        return image(data)

    def forward(self, data: list[np.ndarray]) -> list[np.ndarray]:
        return list(self._program.run([np.stack(data)])[0])

    def serialize(self, data: np.ndarray) -> bytes:
        return data.tobytes()


if __name__ == "__main__":
    # mosec reads its settings from the command line.
    sockets = f"{os.environ[RUN_DIR_VARIABLE]}/mosec"
    sys.argv[1:] = ["--address", "127.0.0.1", "--port", sys.argv[1], "--path", sockets]
    server = mosec.Server()
    server.append_worker(
        Classifier, max_batch_size=MAX_BATCH_SIZE, max_wait_time=round(MAX_WAIT_S * 1e3)
    )
    server.run()
