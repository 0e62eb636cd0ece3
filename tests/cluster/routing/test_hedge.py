"""Remaining time, percentiles, and the budget of second requests."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cluster.routing.deadline import left_s, route_deadline
from cluster.routing.hedge import LATENCIES, MAX_SAVED, MIN_LATENCIES, HedgeBudget, Latencies

moments = st.floats(0, 1e6)


@given(deadline=moments, now=moments)
def test_remaining_time_is_never_negative(deadline: float, now: float) -> None:
    assert left_s(deadline, now) == max(0, deadline - now)


@given(
    started=moments, whole=st.floats(-10, 100), route_timeout_s=st.none() | st.floats(0.001, 100)
)
def test_route_deadline_is_before_request_deadline(
    started: float, whole: float, route_timeout_s: float | None
) -> None:
    request_deadline = started + whole
    deadline = route_deadline(started, request_deadline, route_timeout_s)
    assert deadline >= started
    assert deadline <= max(started, request_deadline)
    if route_timeout_s is not None:
        assert deadline <= started + route_timeout_s
    elif request_deadline - started > 0.02:
        assert request_deadline - deadline == pytest.approx(0.005, abs=1e-6)


@given(st.lists(st.booleans(), max_size=300), st.floats(0, 1))
def test_second_requests_never_exceed_share(wanted: list[bool], share: float) -> None:
    budget, second_requests = HedgeBudget(share), 0
    for count, wants in enumerate(wanted, start=1):
        budget.earn()
        if wants and budget.allows:
            budget.spend()
            second_requests += 1
        assert second_requests <= share * count + 1e-6


def test_budget_of_five_percent_hedges_each_twentieth_request() -> None:
    budget, second_requests = HedgeBudget(0.05), 0
    for _ in range(2000):
        budget.earn()
        if budget.allows:
            budget.spend()
            second_requests += 1
    assert second_requests == 100


def test_budget_accumulates_limited_number() -> None:
    budget = HedgeBudget(1.0)
    for _ in range(100):
        budget.earn()
    for _ in range(int(MAX_SAVED)):
        budget.spend()
    assert not budget.allows
    with pytest.raises(ValueError, match="expected 1 or more"):
        budget.spend()


def test_percentile_covers_last_answers() -> None:
    latencies = Latencies()
    for _ in range(MIN_LATENCIES - 1):
        latencies.add(9.0)
    assert latencies.percentile_s(0.95) == math.inf
    for value in range(1, LATENCIES + 1):
        latencies.add(value / 1000)
    assert latencies.percentile_s(0.95) == 0.095
