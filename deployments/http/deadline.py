"""Deadline of one request, passed from the guard to the application."""

from __future__ import annotations

from dataclasses import dataclass

DEADLINE_KEY = "headrace.deadline"
"""Key of the ASGI scope under which the application finds its :class:`Deadline`."""

ANSWER_GRACE_S = 1.0
"""Grace period after the deadline for an application that enforces it, in seconds.

A busy machine may need so long to encode an answer that was decided in time."""


@dataclass(slots=True)
class Deadline:
    """Deadline for the answer to a request."""

    at: float
    """Time on the monotonic clock, in seconds."""

    enforced_by_application: bool = False
    """Set by an application that answers at the deadline itself; it gets the grace period
    :data:`ANSWER_GRACE_S`."""
