"""What was measured: rounds of figures, their medians, and the goals that they are held to."""

from __future__ import annotations

from dataclasses import dataclass, field
from statistics import median
from typing import Any

from benchmarks.goal import Goal

ERRORS = "errors"
"""A figure that no median may hide."""

Figures = dict[str, dict[str, float]]
"""Who → what → how much."""


@dataclass(frozen=True)
class CaseResult:
    """One case."""

    key: str
    title: str
    rounds: tuple[Figures, ...]
    goals: tuple[Goal, ...]
    notes: tuple[str, ...] = ()
    """What a reader of the table has to know besides."""

    @property
    def figures(self) -> Figures:
        """Medians over the rounds."""
        return medians(self.rounds)


@dataclass(frozen=True)
class Run:
    """Everything that was measured, and the machine."""

    machine: dict[str, Any]
    settings: dict[str, Any]
    cases: tuple[CaseResult, ...] = field(default=())

    @property
    def missed(self) -> list[str]:
        """Goals that were not met, in words."""
        return [
            f"{case.key}: {goal.claim} is {goal.measured:.3g}{goal.unit}"
            for case in self.cases
            for goal in case.goals
            if not goal.met
        ]


def medians(rounds: tuple[Figures, ...]) -> Figures:
    """Of every figure of every subject; of errors, all of them."""
    return {
        who: {
            what: (sum if what == ERRORS else median)([one[who][what] for one in rounds])
            for what in figures
        }
        for who, figures in rounds[0].items()
    }
