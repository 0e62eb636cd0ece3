"""Case of a benchmark: what it prepares once, then measures in every round.

Case.prepare(Context) → PreparedCase: turns → rounds → medians → goals
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.harness.goals import Goal
from benchmarks.harness.results import Medians, Run
from benchmarks.harness.rounds import Turn


@dataclass(frozen=True)
class Context:
    """Conditions of a case: the artifact store, an empty directory, settings and options."""

    store: str
    scratch: Path
    settings: Mapping[str, Any]
    options: argparse.Namespace
    """Options of the command, of which only the settings are part of the results."""

    @property
    def seconds(self) -> int:
        """Length of every measurement."""
        return int(self.settings["seconds"])

    @property
    def quick(self) -> bool:
        """Whether the case only has to prove that it runs."""
        return bool(self.settings.get("quick"))


def no_goals(medians: Medians) -> Sequence[Goal]:
    """Return no goals, for a case that is a yardstick."""
    return ()


@dataclass(frozen=True)
class PreparedCase:
    """Turns of a case, and how its medians are judged."""

    turns: Mapping[str, Turn]
    goals: Callable[[Medians], Sequence[Goal]] = no_goals
    facts: Mapping[str, Any] = field(default_factory=dict)
    optional: frozenset[str] = frozenset()
    """Turns that the case can do without, such as a peer that is not installed."""


@dataclass(frozen=True)
class Case:
    """One section of the report."""

    title: str
    prepare: Callable[[Context], PreparedCase]
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Setting:
    """Option that is a positive integer, such as ``--rounds``."""

    name: str
    default: int
    help: str
    quick: int = 1
    """Default with ``--quick``."""


ENOUGH_ROUNDS = 3
"""Fewest rounds whose medians are a measurement rather than a trial."""

ROUNDS = Setting("rounds", ENOUGH_ROUNDS, "turns of everything that is compared")


def seconds(default: int) -> Setting:
    """Return the setting for the length of every measurement."""
    return Setting("seconds", default, "length of every measurement")


@dataclass(frozen=True)
class Benchmark:
    """A command ``python -m benchmarks.NAME``."""

    name: str
    cases: Mapping[str, Case]
    markdown: Callable[[Run], str]
    packages: tuple[str, ...]
    """Packages whose versions belong to the results."""
    settings: tuple[Setting, ...] = (ROUNDS,)
    on_request: frozenset[str] = frozenset()
    """Cases that run only when ``--only`` names them."""
    has_quick: bool = False
    extend: Callable[[argparse.ArgumentParser], None] = lambda parser: None
    """Add options of this benchmark."""
    configure: Callable[[argparse.Namespace], dict[str, Any]] = lambda options: {}
    """Check those options and return the settings that they are; BenchmarkError if they fail."""
