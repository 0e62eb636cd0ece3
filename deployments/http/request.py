"""Checks of a request's media type and priority, made before its body is read."""

from __future__ import annotations

from fastapi import Request

from cluster.errors import RequestError, UnsupportedMediaTypeError
from cluster.runtime.priority_queue import Priority
from deployments.http.headers import PRIORITY

INFER_TYPES = ("application/json", "application/octet-stream", "application/x-www-form-urlencoded")
"""Content types of /infer. curl -d and some clients send the last by default; it means JSON."""


def require_tensors(request: Request) -> None:
    """Raise UnsupportedMediaTypeError for a Content-Type that /infer does not accept."""
    kind = content_type(request)
    if kind and kind not in INFER_TYPES:
        raise UnsupportedMediaTypeError(
            f"Content-Type is {kind!r:.60}, /infer accepts application/json or "
            "application/octet-stream (binary tensors); send image files to /predict"
        )


def priority_of(request: Request) -> Priority:
    """Return the priority of the header ``x-priority``; RequestError if it is unknown."""
    value = request.headers.get(PRIORITY)
    if value is None:
        return Priority.INTERACTIVE
    try:
        return Priority(value.strip().lower())
    except ValueError:
        known = " or ".join(priority.value for priority in Priority)
        raise RequestError(f"{PRIORITY} is {value!r:.40}, expected {known}") from None


def content_type(request: Request) -> str:
    """Return the media type of the body, lower case, without parameters; empty if absent."""
    return request.headers.get("content-type", "").partition(";")[0].strip().lower()
