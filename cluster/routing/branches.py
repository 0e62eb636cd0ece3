"""Several targets of one request: which to call now, when it is done, when to check again.

    states of the branches, seconds since the start → step → ask, late, done, look_again_s

A step is a pure function of the branches' states. The caller sends the requests, waits, and asks
for the next step. No branch is called twice, in whatever order answers and failures arrive.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum


class Ended(Enum):
    """Outcome of a branch."""

    ANSWERED = "ok"
    FAILED = "failed"
    LATE = "late"
    CANCELLED = "cancelled"


@dataclass(frozen=True)
class Branch:
    """One target of a request. Times are in seconds since the request began; None: not yet."""

    timeout_s: float = math.inf
    """Timeout of its answer, from the moment of the call."""

    asked_s: float | None = None
    ended: Ended | None = None

    @property
    def pending(self) -> bool:
        return self.asked_s is not None and self.ended is None

    @property
    def due_s(self) -> float:
        """Time at which its answer is late."""
        return math.inf if self.asked_s is None else self.asked_s + self.timeout_s


@dataclass(frozen=True)
class Step:
    """Next actions of a request."""

    ask: tuple[int, ...] = ()
    """Branches to call, for the first time."""

    late: tuple[int, ...] = ()
    """Branches to cancel, because their timeout is over."""

    done: bool = False
    """Whether the request is decided; all pending branches are to be cancelled."""

    look_again_s: float = math.inf
    """Time of the next step if nothing happens before."""


@dataclass(frozen=True)
class GatherPolicy:
    """Policy that calls all branches at once, until ``enough`` have answered.

    ``least`` answers suffice when no more can come. 1 ≤ least ≤ enough ≤ number of branches.
    """

    enough: int
    least: int

    def step(self, branches: Sequence[Branch], now_s: float, deadline_s: float) -> Step:
        """Return the next :class:`Step`. ``deadline_s``: the request's deadline."""
        seen = _Seen.of(branches, now_s, deadline_s)
        ask = seen.unasked
        may_come = seen.answered + len(seen.waited_for) + len(ask)
        over = now_s >= deadline_s or seen.answered >= self.enough or may_come < self.least
        if over or not (ask or seen.waited_for):
            return Step(late=seen.late, done=True)
        # New branches may have shorter timeouts than pending ones.
        soonest = min((now_s + branches[i].timeout_s for i in ask), default=math.inf)
        return Step(ask, seen.late, look_again_s=min(seen.next_s, soonest, deadline_s))

    def enough_answered(self, branches: Sequence[Branch]) -> bool:
        """Whether there are enough answers for a reply, at least a partial one."""
        return _count(branches, Ended.ANSWERED) >= self.least


@dataclass(frozen=True)
class HedgePolicy:
    """Policy of a hedge: the second branch if the first fails or takes longer than ``after_s``.

    The second call needs ``allowed``, the budget's consent. One answer is enough."""

    after_s: float
    allowed: bool

    def step(self, branches: Sequence[Branch], now_s: float, deadline_s: float) -> Step:
        """Return the next :class:`Step`."""
        seen = _Seen.of(branches, now_s, deadline_s)
        if seen.answered or now_s >= deadline_s:
            return Step(late=seen.late, done=True)
        first = branches[0]
        if first.asked_s is None:
            soonest = min(self.after_s, first.timeout_s) if self.allowed else first.timeout_s
            return Step((0,), look_again_s=min(now_s + soonest, deadline_s))
        due = first.asked_s + self.after_s
        gone = first.ended is not None or 0 in seen.late
        if 1 in seen.unasked and self.allowed:
            if gone or now_s >= due:
                soonest = min(seen.next_s, now_s + branches[1].timeout_s, deadline_s)
                return Step((1,), seen.late, look_again_s=soonest)
            return Step((), seen.late, look_again_s=min(seen.next_s, due, deadline_s))
        if not seen.waited_for:
            return Step(late=seen.late, done=True)
        return Step((), seen.late, look_again_s=min(seen.next_s, deadline_s))

    def enough_answered(self, branches: Sequence[Branch]) -> bool:
        """Whether a branch has answered."""
        return _count(branches, Ended.ANSWERED) >= 1


Policy = GatherPolicy | HedgePolicy


@dataclass(frozen=True)
class _Seen:
    answered: int
    unasked: tuple[int, ...]
    late: tuple[int, ...]
    waited_for: tuple[int, ...]
    next_s: float
    """Earliest time at which a pending branch is late."""

    @staticmethod
    def of(branches: Sequence[Branch], now_s: float, deadline_s: float) -> _Seen:
        pending = [i for i, branch in enumerate(branches) if branch.pending]
        late = [i for i in pending if now_s >= min(branches[i].due_s, deadline_s)]
        waited_for = [i for i in pending if i not in late]
        return _Seen(
            answered=_count(branches, Ended.ANSWERED),
            unasked=tuple(i for i, branch in enumerate(branches) if branch.asked_s is None),
            late=tuple(late),
            waited_for=tuple(waited_for),
            next_s=min((branches[i].due_s for i in waited_for), default=math.inf),
        )


def _count(branches: Sequence[Branch], ended: Ended) -> int:
    return sum(branch.ended is ended for branch in branches)
