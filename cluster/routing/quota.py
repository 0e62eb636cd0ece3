"""Token bucket of one client, as a pure function of its last state.

It fills by ``rate`` tokens per second up to ``most``. A request takes one token or has to wait.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Bucket:
    """Tokens of a client, and the time of that count in seconds."""

    tokens: float
    at: float


@dataclass(frozen=True)
class Taken:
    """Result of a request. ``wait_s``: 0 if it is within the quota, else seconds until a token."""

    bucket: Bucket
    wait_s: float


def take(bucket: Bucket | None, rate: float, most: float, now: float) -> Taken:
    """Take one token. ``bucket``: None for a new client."""
    before = bucket or Bucket(most, now)
    # A clock that goes back, as after a reboot, adds no tokens.
    tokens = min(most, before.tokens + rate * max(0.0, now - before.at))
    if tokens >= 1:
        return Taken(Bucket(tokens - 1, now), 0.0)
    return Taken(Bucket(tokens, now), (1 - tokens) / rate)
