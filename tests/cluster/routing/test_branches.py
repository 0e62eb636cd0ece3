"""Policies of branches: calls and completion, for any order of answers, failures and times."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field, replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cluster.routing.branches import (
    Actions,
    Branch,
    BranchOutcome,
    GatherPolicy,
    HedgePolicy,
    Policy,
)

NEVER = math.inf


@dataclass
class Fate:
    """Behaviour of a called branch: it answers or fails after a time in seconds."""

    after_s: float
    answers: bool
    timeout_s: float = NEVER


@dataclass
class Outcome:
    """Request that was simulated to its end on a virtual clock."""

    branches: list[Branch]
    duration_s: float
    called: list[int] = field(default_factory=list)
    steps: int = 0


def play(policy: Callable[[float], Policy], fates: list[Fate], deadline_s: float) -> Outcome:
    """Simulate a policy to its end; the clock jumps to the next event."""
    branches = [Branch(timeout_s=fate.timeout_s) for fate in fates]
    outcome = Outcome(branches, 0.0)
    now = 0.0
    while True:
        outcome.steps += 1
        assert outcome.steps < 1000, "the policy does not end"
        actions: Actions = policy(now).next_actions(branches, now, deadline_s)
        for index in actions.late:
            assert branches[index].pending
            branches[index] = replace(branches[index], outcome=BranchOutcome.LATE)
        if actions.done:
            outcome.duration_s = now
            return outcome
        for index in actions.call:
            assert branches[index].called_s is None, f"branch {index} is called twice"
            branches[index] = replace(branches[index], called_s=now)
            outcome.called.append(index)
        events = {
            index: branch.called_s + fates[index].after_s
            for index, branch in enumerate(branches)
            if branch.pending and branch.called_s is not None
        }
        following = min([*events.values(), actions.next_check_s])
        assert following < NEVER, "neither an event nor a check is pending"
        assert following >= now
        now = following
        for index, at in events.items():
            if at <= now:
                answer = BranchOutcome.ANSWERED if fates[index].answers else BranchOutcome.FAILED
                branches[index] = replace(branches[index], outcome=answer)


seconds = st.floats(0, 10)
fates = st.builds(
    Fate,
    after_s=st.one_of(seconds, st.just(NEVER)),
    answers=st.booleans(),
    timeout_s=st.one_of(st.floats(0.001, 10), st.just(NEVER)),
)


def answers_by(fate: Fate, called_s: float, moment: float) -> bool:
    return fate.answers and fate.after_s <= fate.timeout_s and called_s + fate.after_s <= moment


@given(data=st.data())
def test_gather_calls_each_target_once_and_stops_when_decided(data: st.DataObject) -> None:
    chosen = data.draw(st.lists(fates, min_size=1, max_size=6))
    enough = data.draw(st.integers(1, len(chosen)))
    least = data.draw(st.integers(1, enough))
    deadline_s = data.draw(st.floats(0.001, 12))
    policy = GatherPolicy(enough, least)

    outcome = play(lambda now: policy, chosen, deadline_s)

    assert outcome.called == list(range(len(chosen)))
    assert outcome.duration_s <= deadline_s
    in_time = sorted(f.after_s for f in chosen if answers_by(f, 0, deadline_s))
    outcomes = [branch.outcome for branch in outcome.branches]
    answered = outcomes.count(BranchOutcome.ANSWERED)
    # Exactly the branches in time have answered.
    assert answered == sum(after <= outcome.duration_s for after in in_time)
    if len(in_time) >= enough:
        assert outcome.duration_s == in_time[enough - 1]
        assert policy.enough_answered(outcome.branches)
    else:
        # It ends only once no pending branch can change the result.
        ends = sorted(min(f.after_s, f.timeout_s, deadline_s) for f in chosen)
        lost = [
            min(f.after_s, f.timeout_s, deadline_s)
            for f in chosen
            if not answers_by(f, 0, deadline_s)
        ]
        hopeless = sorted(lost)[len(chosen) - least] if len(lost) > len(chosen) - least else NEVER
        assert outcome.duration_s == pytest.approx(min(ends[-1], hopeless, deadline_s))
        assert policy.enough_answered(outcome.branches) == (answered >= least)


@given(
    first=fates,
    second=fates,
    after_s=seconds,
    allowed=st.booleans(),
    deadline_s=st.floats(0.001, 12),
)
def test_hedge_calls_second_only_within_budget(
    first: Fate, second: Fate, after_s: float, allowed: bool, deadline_s: float
) -> None:
    policy = HedgePolicy(after_s, allowed)

    outcome = play(lambda now: policy, [first, second], deadline_s)

    first_ends = min(first.after_s, first.timeout_s)
    if 1 in outcome.called:
        assert allowed
        called_s = outcome.branches[1].called_s
        assert called_s is not None
        assert called_s == min(first_ends, after_s)
    elif allowed and outcome.duration_s < deadline_s:
        assert outcome.branches[0].outcome is BranchOutcome.ANSWERED
        assert first_ends <= after_s or outcome.duration_s == 0
    winners = [b for b in outcome.branches if b.outcome is BranchOutcome.ANSWERED]
    if policy.enough_answered(outcome.branches):
        assert winners
    else:
        assert not winners
        assert outcome.duration_s <= deadline_s


def test_hedge_without_budget_waits_for_first() -> None:
    fates = [Fate(5.0, answers=True), Fate(1.0, answers=True)]
    assert play(lambda now: HedgePolicy(0.1, allowed=False), fates, 10).duration_s == 5.0
    assert play(lambda now: HedgePolicy(0.1, allowed=True), fates, 10).duration_s == pytest.approx(
        1.1
    )


def test_quorum_does_not_wait_for_late_branches() -> None:
    fates = [Fate(1.0, True), Fate(NEVER, True), Fate(2.0, True)]
    assert play(lambda now: GatherPolicy(2, 2), fates, 10).duration_s == 2.0


def test_quorum_ends_when_too_few_branches_remain() -> None:
    fates = [Fate(0.5, False), Fate(NEVER, True), Fate(0.7, False)]
    assert play(lambda now: GatherPolicy(2, 2), fates, 10).duration_s == 0.7


def test_late_branch_is_cancelled_while_others_continue() -> None:
    fates = [Fate(5.0, True, timeout_s=1.0), Fate(3.0, True)]
    outcome = play(lambda now: GatherPolicy(2, 1), fates, 10)
    assert [branch.outcome for branch in outcome.branches] == [
        BranchOutcome.LATE,
        BranchOutcome.ANSWERED,
    ]
    assert outcome.duration_s == 3.0
