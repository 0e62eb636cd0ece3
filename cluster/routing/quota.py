"""How often a client may ask: a token bucket, as a function of what it held before.

It fills by ``rate`` per second up to ``most``; a request takes one, or has to wait until there is.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Bucket:
    """What a client has left, and when that was."""

    tokens: float
    at: float


@dataclass(frozen=True)
class Taken:
    """The bucket afterwards; ``wait_s``: 0 if the request may go on, else when the next one may."""

    bucket: Bucket
    wait_s: float


def take(bucket: Bucket | None, rate: float, most: float, now: float) -> Taken:
    """Take one token. ``bucket``: None for a client that has not asked before."""
    before = bucket or Bucket(most, now)
    # A clock that went back, as after a restart of the machine, fills nothing.
    tokens = min(most, before.tokens + rate * max(0.0, now - before.at))
    if tokens >= 1:
        return Taken(Bucket(tokens - 1, now), 0.0)
    return Taken(Bucket(tokens, now), (1 - tokens) / rate)
