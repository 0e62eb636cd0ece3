"""LitServe with dynamic batching: POST /predict."""

# No "from __future__ import annotations": LitServe reads the annotations below as types.

import sys
from typing import Annotated

import litserve
import numpy as np
from fastapi import Depends, Request, Response

from benchmarks.servers.settings import MAX_BATCH_SIZE, MAX_WAIT_S, image, load_program


async def raw_body(request: Request) -> bytes:
    """Return the body unparsed; LitServe would parse it as JSON."""
    return await request.body()


class Classifier(litserve.LitAPI):
    """The model behind LitServe's own batching."""

    def setup(self, device: str) -> None:
        self._program = load_program()

    def decode_request(self, request: Annotated[bytes, Depends(raw_body)]) -> np.ndarray:
        return image(request)

    def predict(self, images: np.ndarray) -> np.ndarray:
        return self._program.run([images])[0]

    def encode_response(self, logits: np.ndarray) -> Response:
        return Response(logits.tobytes(), media_type="application/octet-stream")


if __name__ == "__main__":
    api = Classifier(max_batch_size=MAX_BATCH_SIZE, batch_timeout=MAX_WAIT_S)
    server = litserve.LitServer(api, accelerator="cpu")
    server.run(host="127.0.0.1", port=int(sys.argv[1]), generate_client_file=False)
