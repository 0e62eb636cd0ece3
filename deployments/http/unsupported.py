"""Paths of Triton's extensions that this server does not have: each answer says what to do instead.

Below a model's prefix, and below the server's.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping

from fastapi import FastAPI

from cluster.errors import UnsupportedPathError

_SHARED_MEMORY = "shared memory is not supported; send and request tensors as binary data"
_TRACE = (
    "tracing is set by tracing_config of the Serve config; a request is traced if its traceparent "
    "header says so"
)
_GENERATE = "there is no generation of texts; send tensors to /infer, or one item to /predict"

OF_MODEL: Mapping[str, str] = {
    "/trace/setting": _TRACE,
    "/generate": _GENERATE,
    "/generate_stream": _GENERATE,
}
"""Path below a model's prefix → sentence."""

OF_SERVER: Mapping[str, str] = {
    "/models/stats": "each model counts for itself; use GET /v2/models/NAME/stats",
    "/repository/models/{_}/load": "models are loaded by the Serve config; add the model's "
    "application to it and run `headrace up CONFIG`",
    "/repository/models/{_}/unload": "models are removed by the Serve config; remove the model's "
    "application from it and run `headrace up CONFIG`",
    "/trace/setting": _TRACE,
    "/logging": "log settings are set by logging_config of the Serve config",
    "/systemsharedmemory/{_:path}": _SHARED_MEMORY,
    "/cudasharedmemory/{_:path}": _SHARED_MEMORY,
}
"""Path below the server's prefix → sentence."""


def add_unsupported(app: FastAPI, prefix: str, sentences: Mapping[str, str]) -> None:
    """Answer 404 with its sentence at each path below ``prefix``."""
    for path, sentence in sentences.items():
        app.add_api_route(
            prefix + path, _refusing(sentence), methods=["GET", "POST"], include_in_schema=False
        )


def _refusing(sentence: str) -> Callable[[], Awaitable[None]]:
    async def refuse() -> None:
        raise UnsupportedPathError(sentence)

    return refuse
