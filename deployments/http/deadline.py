"""The deadline of one request, as the guard passes it to the application."""

from __future__ import annotations

from dataclasses import dataclass

DEADLINE = "headrace.deadline"
"""Key of the ASGI scope under which the application finds its :class:`Deadline`."""

ANSWER_GRACE_S = 1.0
"""How long after its deadline a request is cut off whose application keeps the deadline itself: a
busy machine may need so long to write down the answer that it decided on in time."""


@dataclass(slots=True)
class Deadline:
    """When the answer to a request must be there."""

    at: float
    """In seconds on the monotonic clock."""

    enforced_by_application: bool = False
    """Set by an application that decides by itself, in time, what to answer: it is left
    :data:`ANSWER_GRACE_S` to say so."""
