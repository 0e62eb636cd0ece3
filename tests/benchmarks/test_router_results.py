"""The router's benchmark: medians that hide no error, goals, and a process that is slowed."""

from __future__ import annotations

import subprocess
import sys
import time

from benchmarks import proc
from benchmarks.router import cascade, fan_out, hedge, rate
from benchmarks.router.results import CaseResult, Run, medians
from benchmarks.router.slowing import slowed
from benchmarks.router.table import markdown

MACHINE = {
    "cpu": "A CPU",
    "cores": 2,
    "date": "2026-01-02T03:04:05+00:00",
    "versions": {"ray": "1"},
}
FAN_OUT = {
    "one": {"p50 ms": 10.0},
    "other": {"p50 ms": 11.0},
    "ensemble": {"p50 ms": 13.5},
    "Ray Serve, by hand": {"p50 ms": 27.0},
}


def test_medians_are_of_every_figure_and_errors_add_up() -> None:
    rounds = tuple({"one": {"p50 ms": p50, "errors": e}} for p50, e in ((1, 0), (9, 2), (2, 0)))
    assert medians(rounds) == {"one": {"p50 ms": 2, "errors": 2}}


def test_goals_are_held_to_the_slower_model_the_teacher_and_both_ways_without_a_hedge() -> None:
    found = {goal.claim: (goal.measured, goal.met) for goal in fan_out.goals(FAN_OUT)}
    assert found == {
        "p50 of the ensemble over the slower model's": (2.5, True),
        "p50 to the same by hand in Ray Serve": (0.5, True),
    }
    rates = {"one target": 600.0, "two targets": 599.0}
    figures = {who: {"req/s at c=16": value} for who, value in rates.items()}
    assert [goal.met for goal in rate.goals(figures)] == [True, False]
    found = cascade.goals(
        {
            "teacher": {"accuracy %": 90.0, "images/s": 100.0},
            "cascade": {"accuracy %": 89.75, "images/s": 180.0},
        }
    )
    assert [(goal.measured, goal.met) for goal in found] == [(0.25, False), (1.8, True)]
    slow = {name: {"p99 ms": p99} for name, p99 in (("model", 100.0), ("through", 30.0))}
    found = hedge.goals({**slow, "hedge": {"p99 ms": 20.0, "extra work %": 5.1}})
    assert [goal.met for goal in found] == [True, False, False]


def test_the_table_says_what_is_missed() -> None:
    missing = {**FAN_OUT, "ensemble": {"p50 ms": 14.0}}
    case = CaseResult("fan-out", "Two models", (missing,) * 3, fan_out.goals(missing), ("A note.",))
    run = Run(MACHINE, {"rounds": 3, "seconds": 8}, (case,))
    text = markdown(run)
    assert (
        "| Two models | p50 of the ensemble over the slower model's | 3.00 ms | ≤ 2.50 ms "
        "| **missed** |" in text
    )
    assert "**Two models**. A note." in text
    assert "| ensemble | 14.00 |" in text
    assert run.missed == ["fan-out: p50 of the ensemble over the slower model's is 3 ms"]
    assert "A trial" not in text
    assert "A trial of 1 round" in markdown(Run(MACHINE, {"rounds": 1, "seconds": 8}, (case,)))


def test_a_slowed_process_gets_its_share_and_then_all() -> None:
    process = subprocess.Popen([sys.executable, "-c", "while True: pass"])
    try:
        time.sleep(0.3)
        with slowed(process.pid, 10):
            before, started = proc.cpu_s(process.pid), time.monotonic()
            time.sleep(1.5)
            share = (proc.cpu_s(process.pid) - before) / (time.monotonic() - started)
        assert 0 < share < 0.4
        used = proc.cpu_s(process.pid)
        time.sleep(0.5)
        assert proc.cpu_s(process.pid) > used  # it goes on
    finally:
        process.kill()
        process.wait()


def test_slowing_a_process_that_has_ended_is_over_at_once() -> None:
    process = subprocess.Popen([sys.executable, "-c", "pass"])
    process.wait()
    started = time.monotonic()
    with slowed(process.pid, 10):
        time.sleep(0.1)
    assert time.monotonic() - started < 1
