"""Goals of the router benchmark, and the slowing of a process."""

from __future__ import annotations

import subprocess
import sys
import time

from benchmarks.contenders import process_facts
from benchmarks.router import cascade, fan_out, hedge, rate
from benchmarks.router.slowing import slowed


def test_fan_out_is_compared_with_the_slower_model() -> None:
    medians = {
        "one": {"p50 ms": 10.0},
        "other": {"p50 ms": 11.0},
        "ensemble": {"p50 ms": 13.5},
        "Ray Serve, by hand": {"p50 ms": 27.0},
    }
    assert {goal.claim: (goal.measured, goal.met) for goal in fan_out.goals(medians)} == {
        "p50 of the ensemble over the slower model's": (2.5, True),
        "p50 to the same by hand in Ray Serve": (0.5, True),
    }


def test_each_route_has_a_goal_for_its_rate() -> None:
    rates = {"one target": 600.0, "two targets": 599.0}
    medians = {subject: {"req/s at c=16": value} for subject, value in rates.items()}
    assert [goal.met for goal in rate.goals(medians)] == [True, False]


def test_cascade_is_compared_with_its_teacher() -> None:
    goals = cascade.goals(
        {
            "teacher": {"accuracy %": 90.0, "images/s": 100.0},
            "cascade": {"accuracy %": 89.75, "images/s": 180.0},
        }
    )
    assert [(goal.measured, goal.met) for goal in goals] == [(0.25, False), (1.8, True)]


def test_hedge_is_compared_with_both_ways_without_it() -> None:
    goals = hedge.goals(
        {
            "model": {"p99 ms": 100.0},
            "through": {"p99 ms": 30.0},
            "hedge": {"p99 ms": 20.0, "extra work %": 5.1},
        }
    )
    assert [goal.met for goal in goals] == [True, False, False]


def cpu_grows(pid: int, by_s: float, within_s: float = 30.0) -> bool:
    """Return whether the process uses that much more CPU time before the timeout."""
    before, deadline = process_facts.cpu_s(pid), time.monotonic() + within_s
    while process_facts.cpu_s(pid) - before < by_s:
        if time.monotonic() > deadline:
            return False
    return True


def test_slowed_process_gets_its_share_and_continues() -> None:
    process = subprocess.Popen([sys.executable, "-c", "while True: pass"])
    try:
        assert cpu_grows(process.pid, 0.1)  # it is up
        with slowed(process.pid, 10):
            before, started = process_facts.cpu_s(process.pid), time.monotonic()
            time.sleep(1.5)
            share = (process_facts.cpu_s(process.pid) - before) / (time.monotonic() - started)
        assert 0 < share < 0.4
        assert cpu_grows(process.pid, 0.1)
    finally:
        process.kill()
        process.wait()


def test_slowing_an_ended_process_returns_at_once() -> None:
    process = subprocess.Popen([sys.executable, "-c", "pass"])
    process.wait()
    started = time.monotonic()
    with slowed(process.pid, 10):
        pass
    assert time.monotonic() - started < 5
