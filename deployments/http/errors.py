"""Error answers of an application: JSON objects, without paths or tracebacks in a 5xx."""

from __future__ import annotations

import logging
from collections.abc import Callable

import orjson
from fastapi import FastAPI
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response

from cluster.errors import GroupLostError, HeadraceError
from cluster.protocol.metadata import error_body
from deployments.http.body import BodyTooLargeError, ClosingResponse

logger = logging.getLogger("ray.serve")

LOST = "a shard of this replica is unavailable and the replica is being replaced; retry the request"
RETRY_AFTER_S = 1
"""Value of Retry-After: another replica answers at once; a new one takes some seconds."""

INTERNAL = "the server failed on this request; its log has the reason"

Count = Callable[[str], None]
"""Counts the outcome of a failed request: rejected, failed or cancelled."""


def json_response(content: object, status: int = 200, kind: type[Response] = Response) -> Response:
    """Return a JSON answer."""
    return kind(orjson.dumps(content), status, media_type="application/json")


def error_response(error: Exception, count: Count) -> Response:
    """Return the answer for an exception: its message below 500, else a fixed sentence.

    503, with Retry-After, if another replica may answer the request.
    """
    if isinstance(error, HeadraceError) and error.http_status < 500:
        count("rejected")
        kind = ClosingResponse if isinstance(error, BodyTooLargeError) else Response
        return json_response(error_body(str(error)), error.http_status, kind)
    if isinstance(error, ClientDisconnect):
        count("cancelled")
        return json_response(error_body("the client closed the connection"), 400)
    if isinstance(error, GroupLostError):
        logger.error("request failed: %s", error)
        count("failed")
        lost = json_response(error_body(LOST), error.http_status)
        lost.headers["Retry-After"] = str(RETRY_AFTER_S)
        # This process is about to end: this connection must carry no further requests.
        lost.headers["Connection"] = "close"
        return lost
    logger.error("request failed: %s", error, exc_info=error)
    count("failed")
    return json_response(error_body(INTERNAL), 500)


def answer_errors(app: FastAPI, count: Count) -> None:
    """Turn every exception of ``app``, and FastAPI's own refusals, into a JSON error."""

    async def any_error(_: Request, error: Exception) -> Response:
        return error_response(error, count)

    async def no_such_path(request: Request, error: Exception) -> Response:
        if not isinstance(error, HTTPException):
            return error_response(error, count)
        count("rejected")
        allowed = (error.headers or {}).get("Allow")
        root = request.scope.get("root_path", "")
        hint = f"use {allowed}" if allowed else f"see the paths in {root}/openapi.json"
        message = f"{request.method} {request.url.path:.200}: {error.detail}; {hint}"
        response = json_response(error_body(message), error.status_code)
        response.headers.update(error.headers or {})
        return response

    async def wrong_parameter(_: Request, error: Exception) -> Response:
        problems = error.errors() if isinstance(error, RequestValidationError) else []
        count("rejected")
        messages = [f"{p['loc'][-1]}: {p['msg']} (given: {p['input']!r:.60})" for p in problems]
        return json_response(error_body("; ".join(messages)), 400)

    for kind in (HeadraceError, ClientDisconnect, Exception):
        app.add_exception_handler(kind, any_error)
    app.add_exception_handler(HTTPException, no_such_path)
    app.add_exception_handler(RequestValidationError, wrong_parameter)
