"""Results of a benchmark in one JSON schema.

Run: benchmark, machine, settings, failures
 └─ CaseResult: key, title, notes, facts, goals, failures
     └─ rounds: Measurement, one per subject and round, with its figures
"""

from __future__ import annotations

from pathlib import Path
from statistics import median
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError

from benchmarks.harness.errors import BenchmarkError
from benchmarks.harness.goals import Goal

ERRORS = "errors"
"""Figure that counts requests without a 200. It is summed over the rounds, not averaged."""

Figures = dict[str, float]
"""Value of every figure by its name, which includes the unit."""

Medians = dict[str, Figures]
"""Figures of every subject."""


class _Record(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Reading(_Record):
    """Figures of one subject, measured once."""

    subject: str
    figures: Figures
    texts: dict[str, str] = {}
    """Findings that are no numbers, by name."""


class Measurement(Reading):
    """A reading and the round that it belongs to, from 1."""

    number: int


class CaseResult(_Record):
    """Rounds of one case, with its goals."""

    key: str
    title: str
    notes: tuple[str, ...] = ()
    """Conditions that a reader of the table needs."""
    facts: dict[str, Any] = {}
    """Plain data that no round changes, such as the artifact's id."""
    rounds: tuple[Measurement, ...]
    goals: tuple[Goal, ...] = ()
    failures: dict[str, str] = {}
    """Reason for every optional subject that could not be measured."""

    @property
    def subjects(self) -> tuple[str, ...]:
        """Subjects in the order of their first measurement."""
        return tuple(dict.fromkeys(measurement.subject for measurement in self.rounds))

    @property
    def medians(self) -> Medians:
        """Medians over the rounds by subject; :data:`ERRORS` is a sum."""
        return {subject: _medians(self._figures(subject)) for subject in self.subjects}

    def texts(self, subject: str, name: str) -> list[str]:
        """Return the different texts of that name over the subject's rounds, sorted."""
        of_subject = (m.texts for m in self.rounds if m.subject == subject)
        return sorted({texts[name] for texts in of_subject if name in texts})

    def _figures(self, subject: str) -> list[Figures]:
        return [m.figures for m in self.rounds if m.subject == subject]


class Run(_Record):
    """Everything that one run measured, and its conditions."""

    benchmark: str
    machine: dict[str, Any]
    settings: dict[str, Any]
    cases: tuple[CaseResult, ...] = ()
    failures: dict[str, str] = {}
    """Reason for every case that could not be measured."""

    @property
    def quick(self) -> bool:
        """Whether the run only proves that everything runs."""
        return bool(self.settings.get("quick"))

    @property
    def errors(self) -> int:
        """Requests of all cases that got no 200."""
        return round(sum(m.figures.get(ERRORS, 0) for case in self.cases for m in case.rounds))

    @property
    def missed(self) -> list[str]:
        """Goals that are not met, as text; a quick run has none."""
        return [
            f"{case.key}: {goal.claim} is {goal.shown}, expected {goal.shown_limit}"
            for case in self.cases
            for goal in case.goals
            if not goal.met and not self.quick
        ]

    def case(self, key: str) -> CaseResult | None:
        """Return the result of a case, or None if it is not measured yet."""
        return next((case for case in self.cases if case.key == key), None)

    def with_case(self, result: CaseResult) -> Run:
        """Return the run with this result added, or in the place of the case's former one."""
        others = {case.key: case for case in self.cases}
        return self.model_copy(update={"cases": tuple((others | {result.key: result}).values())})

    def write(self, file: Path) -> None:
        """Write the run as JSON. A rename keeps the former file if this is interrupted."""
        beside = file.with_name(file.name + ".new")
        beside.write_text(self.model_dump_json(indent=1) + "\n")
        beside.replace(file)


def read(file: Path) -> Run:
    """Return the run of a JSON file; BenchmarkError if it is not one."""
    try:
        return Run.model_validate_json(file.read_bytes())
    except ValidationError as error:
        raise BenchmarkError(
            f"{file} is not a benchmark's result: {error}; name another file with --json"
        ) from error


def resumed(file: Path | None, fresh: Run) -> Run:
    """Return the run of an earlier command to continue, or ``fresh`` if there is no file.

    Raises BenchmarkError if the file was measured by another benchmark, CPU or settings.
    """
    if file is None or not file.exists():
        return fresh
    earlier = read(file)
    conditions = [(run.benchmark, run.machine["cpu"], run.settings) for run in (earlier, fresh)]
    if conditions[0] != conditions[1]:
        before, now = (f"{name} on {cpu} with {settings}" for name, cpu, settings in conditions)
        raise BenchmarkError(f"{file} is of {before}; this is {now}; name another file with --json")
    return earlier.model_copy(update={"failures": {}})


def _medians(rounds: list[Figures]) -> Figures:
    names = dict.fromkeys(name for figures in rounds for name in figures)
    return {
        name: (sum if name == ERRORS else median)([f[name] for f in rounds if name in f])
        for name in names
    }
