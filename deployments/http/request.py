"""Checks of a request's media type and priority, made before its body is read."""

from __future__ import annotations

from fastapi import Request

from cluster.errors import RequestError, UnsupportedMediaTypeError
from cluster.runtime.priority_queue import Priority
from deployments.http.headers import PRIORITY

INFER_TYPES = ("application/json", "application/octet-stream", "application/x-www-form-urlencoded")
"""The last is what curl -d and some clients send for want of a header; it is read as JSON."""


def require_tensors(request: Request) -> None:
    """UnsupportedMediaTypeError for a Content-Type that /infer does not read."""
    kind = content_type(request)
    if kind and kind not in INFER_TYPES:
        raise UnsupportedMediaTypeError(
            f"Content-Type is {kind!r:.60}, /infer reads application/json or "
            "application/octet-stream (binary tensors); image files go to /predict"
        )


def priority_of(request: Request) -> Priority:
    """What the header ``x-priority`` asks for; RequestError if it is none of the priorities."""
    given = request.headers.get(PRIORITY)
    if given is None:
        return Priority.INTERACTIVE
    try:
        return Priority(given.strip().lower())
    except ValueError:
        known = " or ".join(each.value for each in Priority)
        raise RequestError(f"{PRIORITY} is {given!r:.40}, expected {known}") from None


def content_type(request: Request) -> str:
    """The media type of the body, lower case and without parameters; empty if not given."""
    return request.headers.get("content-type", "").partition(";")[0].strip().lower()
