"""A run of ``benchmarks.router`` as Markdown: the goals, then a table for every case."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from benchmarks.goal import Goal
from benchmarks.router.results import CaseResult, Run

ENOUGH_ROUNDS = 3
"""Rounds below which a median is no more than a trial."""


def markdown(run: Run) -> str:
    """Machine, goals, a table per case."""
    parts = [_machine(run), _goals(run), *(_case(case) for case in run.cases)]
    if run.settings["rounds"] < ENOUGH_ROUNDS:
        parts.insert(0, f"**A trial of {run.settings['rounds']} round(s), not a measurement.**")
    return "\n\n".join(parts) + "\n"


def _machine(run: Run) -> str:
    machine, settings = run.machine, run.settings
    versions = ", ".join(f"{name} {found}" for name, found in machine["versions"].items() if found)
    return (
        f"One compute thread per replica. {machine['cpu']}, {machine['cores']} cores, "
        f"{machine['date'][:10]}. Medians of {settings['rounds']} rounds of "
        f"{settings['seconds']} s. {versions}."
    )


def _goals(run: Run) -> str:
    rows = [
        [case.title, goal.claim, _shown(goal.measured, goal), _limit(goal),
         "met" if goal.met else "**missed**"]
        for case in run.cases
        for goal in case.goals
    ]  # fmt: skip
    return _table(["case", "what", "measured", "goal", ""], rows, left=2)


def _limit(goal: Goal) -> str:
    return f"{'≥' if goal.at_least else '≤'} {_shown(goal.limit, goal)}"


def _shown(value: float, goal: Goal) -> str:
    return f"{value:.0f}{goal.unit}" if abs(value) >= 100 else f"{value:.2f}{goal.unit}"


def _case(case: CaseResult) -> str:
    figures = case.figures
    columns = list(dict.fromkeys(what for found in figures.values() for what in found))
    rows = [
        [who, *(f"{found[what]:.2f}" if what in found else "" for what in columns)]
        for who, found in figures.items()
    ]
    notes = "".join(f" {note}" for note in case.notes)
    return f"**{case.title}**.{notes}\n\n{_table(['', *columns], rows, left=1)}"


def _table(header: Sequence[str], rows: Iterable[Sequence[str]], left: int) -> str:
    rule = ["---"] * left + ["---:"] * (len(header) - left)
    return "\n".join("| " + " | ".join(line) + " |" for line in [header, rule, *rows])
