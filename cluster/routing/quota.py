"""Token bucket of a client, as a function of counters that several processes write apart.

    consumed   requests admitted since the start, summed over the processes
    floor      minimum of ``consumed - rate × time`` over all times up to now

The bucket holds ``burst`` tokens, gains ``rate`` of them per second while it is not full, and an
admitted request takes one. It is full whenever ``consumed - rate × time`` reaches a new minimum, so
its level follows from the two numbers, and no process has to change what another one wrote.
"""

from __future__ import annotations


def new_floor(floor: float, consumed: int, rate: float, now: float) -> float:
    """Return the floor at ``now``, in seconds on a clock that all processes share."""
    return min(floor, consumed - rate * now)


def level(floor: float, consumed: int, rate: float, burst: float, now: float) -> float:
    """Return the tokens in the bucket at ``now``; below 0 after more than it held were taken."""
    return burst - (consumed - rate * now - floor)


def wait_s(tokens: float, rate: float) -> float:
    """Return the seconds until the bucket holds a whole token; 0 if it does."""
    return 0.0 if tokens >= 1 else (1 - tokens) / rate
