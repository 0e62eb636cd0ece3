"""What is left of a request's time, for those it is handed on to.

A deadline is a moment on the monotonic clock, in seconds. What is left of it is never negative.
"""

from __future__ import annotations

ANSWER_MARGIN_S = 0.005
"""Kept from what a request has, to answer in: what has come by then is combined and sent."""


def left_s(deadline: float, now: float) -> float:
    """Seconds until the deadline, at least 0."""
    return max(0.0, deadline - now)


def own_deadline(started: float, given: float, route_timeout_s: float | None) -> float:
    """When the route has to have its answer: before the request's deadline ``given``, and within
    its own time. Of a request shorter than twice the margin, half is kept.
    """
    whole = left_s(given, started)
    limit = whole - min(ANSWER_MARGIN_S, whole / 2)
    return started + (limit if route_timeout_s is None else min(limit, route_timeout_s))
