"""How errors leave an application: always a JSON object, never a path or a traceback in a 5xx."""

from __future__ import annotations

import logging
from collections.abc import Callable

import orjson
from fastapi import FastAPI
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response

from cluster.errors import HeadraceError
from cluster.protocol.metadata import error_body

logger = logging.getLogger(__name__)

INTERNAL = "the server failed on this request; its log says why. The request itself was well-formed"


def json_response(content: object, status: int = 200, **headers: str) -> Response:
    """A JSON answer."""
    return Response(orjson.dumps(content), status, headers, media_type="application/json")


def answer_errors(app: FastAPI, count: Callable[[str], None]) -> None:
    """Turn every exception of ``app`` into a JSON error; ``count`` hears the outcome's name."""

    async def headrace(_: Request, error: Exception) -> Response:
        status = error.http_status if isinstance(error, HeadraceError) else 500
        if status >= 500:
            logger.error("request failed: %s", error)
            count("failed")
            return json_response(error_body(INTERNAL), status)
        count("rejected")
        # The unread rest of the body is not worth keeping the connection for.
        return json_response(error_body(str(error)), status, connection="close")

    async def http(request: Request, error: Exception) -> Response:
        status = error.status_code if isinstance(error, HTTPException) else 500
        detail = error.detail if isinstance(error, HTTPException) else INTERNAL
        count("rejected")
        return json_response(error_body(f"{request.method} {request.url.path}: {detail}"), status)

    async def disconnected(_: Request, __: Exception) -> Response:
        count("cancelled")
        return json_response(error_body("the client closed the connection"), 400)

    async def unforeseen(_: Request, error: Exception) -> Response:
        logger.error("request failed", exc_info=error)
        count("failed")
        return json_response(error_body(INTERNAL), 500)

    app.add_exception_handler(HeadraceError, headrace)
    app.add_exception_handler(HTTPException, http)
    app.add_exception_handler(ClientDisconnect, disconnected)
    app.add_exception_handler(Exception, unforeseen)
