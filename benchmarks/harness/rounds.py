"""Interleaved rounds: every turn once per round, one at a time.

round 1: A B C    round 2: B C A    round 3: C A B

Each round begins with another turn, so that no turn always has a machine that is just warmed up.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence

from benchmarks.harness.errors import BenchmarkError
from benchmarks.harness.results import Figures, Measurement, Reading

Turn = Callable[[], Sequence[Reading]]
"""Start what it measures, measure it, and stop it again."""


def readings(figures: Mapping[str, Figures]) -> list[Reading]:
    """Return readings of these figures by subject."""
    return [Reading(subject=subject, figures=values) for subject, values in figures.items()]


def measure(
    turns: Mapping[str, Turn],
    rounds: int,
    optional: Collection[str] = (),
    report: Callable[[str], None] = print,
) -> tuple[tuple[Measurement, ...], dict[str, str]]:
    """Take every turn ``rounds`` times.

    Returns the measurements, and the reason for every turn of ``optional`` that failed.
    BenchmarkError of any other turn ends the rounds.
    """
    measurements: list[Measurement] = []
    failures: dict[str, str] = {}
    names = list(turns)
    for number in range(1, rounds + 1):
        first = (number - 1) % len(names)
        for name in names[first:] + names[:first]:
            if name in failures:
                continue
            try:
                turn = turns[name]()
            except BenchmarkError as error:
                if name not in optional:
                    raise
                failures[name] = str(error)
                report(f"round {number}  {name:<20} failed: {error}")
                continue
            for reading in turn:
                measurements.append(Measurement(number=number, **dict(reading)))
                report(f"round {number}  {_line(reading)}")
    return tuple(measurements), failures


def _line(reading: Reading) -> str:
    figures = [f"{name} {value:.2f}" for name, value in reading.figures.items()]
    return f"{reading.subject:<20} {', '.join(figures)}"
