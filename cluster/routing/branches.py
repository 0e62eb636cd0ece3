"""Several targets of one request: which to call now, when it is done, when to check again.

    states of the branches, seconds since the start → Actions → call, late, done, next_check_s

The next actions are a pure function of the branches' states. The caller sends the requests, waits,
and calls the function again. No branch is called twice, in whatever order answers and failures
arrive.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from typing import ClassVar


class BranchOutcome(Enum):
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

    called_s: float | None = None
    outcome: BranchOutcome | None = None

    @property
    def pending(self) -> bool:
        return self.called_s is not None and self.outcome is None

    @property
    def due_s(self) -> float:
        """Time at which its answer is late."""
        return math.inf if self.called_s is None else self.called_s + self.timeout_s


@dataclass(frozen=True)
class Actions:
    """Next actions of a request."""

    call: tuple[int, ...] = ()
    """Branches to call, for the first time."""

    late: tuple[int, ...] = ()
    """Branches to cancel, because their timeout is over."""

    done: bool = False
    """Whether the request is decided; all pending branches are to be cancelled."""

    next_check_s: float = math.inf
    """Time of the next decision if nothing happens before."""


@dataclass(frozen=True)
class GatherPolicy:
    """Policy that calls all branches at once, until ``enough`` have answered.

    ``least`` answers suffice when no more can come. 1 ≤ least ≤ enough ≤ number of branches.
    """

    enough: int
    least: int

    def next_actions(self, branches: Sequence[Branch], now_s: float, deadline_s: float) -> Actions:
        """Return the next actions of a request. ``deadline_s``: the request's deadline."""
        state = _State.of(branches, now_s, deadline_s)
        uncalled = state.uncalled
        possible = state.answered + len(state.pending) + len(uncalled)
        over = now_s >= deadline_s or state.answered >= self.enough or possible < self.least
        if over or not (uncalled or state.pending):
            return Actions(late=state.late, done=True)
        # New branches may have shorter timeouts than pending ones.
        soonest = min((now_s + branches[i].timeout_s for i in uncalled), default=math.inf)
        return Actions(uncalled, state.late, next_check_s=min(state.next_s, soonest, deadline_s))

    def enough_answered(self, branches: Sequence[Branch]) -> bool:
        """Whether there are enough answers for a reply, at least a partial one."""
        return _count(branches, BranchOutcome.ANSWERED) >= self.least


@dataclass(frozen=True)
class HedgePolicy:
    """Policy of a hedge: the second branch if the first fails or takes longer than ``after_s``.

    The second call needs ``allowed``, the budget's consent. One answer is enough.
    """

    after_s: float
    allowed: bool
    enough: ClassVar[int] = 1

    def next_actions(self, branches: Sequence[Branch], now_s: float, deadline_s: float) -> Actions:
        """Return the next actions of a request."""
        state = _State.of(branches, now_s, deadline_s)
        if state.answered or now_s >= deadline_s:
            return Actions(late=state.late, done=True)
        first = branches[0]
        if first.called_s is None:
            soonest = min(self.after_s, first.timeout_s) if self.allowed else first.timeout_s
            return Actions((0,), next_check_s=min(now_s + soonest, deadline_s))
        due = first.called_s + self.after_s
        unavailable = first.outcome is not None or 0 in state.late
        if 1 in state.uncalled and self.allowed:
            if unavailable or now_s >= due:
                soonest = min(state.next_s, now_s + branches[1].timeout_s, deadline_s)
                return Actions((1,), state.late, next_check_s=soonest)
            return Actions((), state.late, next_check_s=min(state.next_s, due, deadline_s))
        if not state.pending:
            return Actions(late=state.late, done=True)
        return Actions((), state.late, next_check_s=min(state.next_s, deadline_s))

    def enough_answered(self, branches: Sequence[Branch]) -> bool:
        """Whether a branch has answered."""
        return _count(branches, BranchOutcome.ANSWERED) >= 1


Policy = GatherPolicy | HedgePolicy


@dataclass(frozen=True)
class _State:
    answered: int
    uncalled: tuple[int, ...]
    late: tuple[int, ...]
    pending: tuple[int, ...]
    next_s: float
    """Earliest time at which a pending branch is late."""

    @staticmethod
    def of(branches: Sequence[Branch], now_s: float, deadline_s: float) -> _State:
        unanswered = [i for i, branch in enumerate(branches) if branch.pending]
        late = [i for i in unanswered if now_s >= min(branches[i].due_s, deadline_s)]
        pending = [i for i in unanswered if i not in late]
        return _State(
            answered=_count(branches, BranchOutcome.ANSWERED),
            uncalled=tuple(i for i, branch in enumerate(branches) if branch.called_s is None),
            late=tuple(late),
            pending=tuple(pending),
            next_s=min((branches[i].due_s for i in pending), default=math.inf),
        )


def _count(branches: Sequence[Branch], outcome: BranchOutcome) -> int:
    return sum(branch.outcome is outcome for branch in branches)
