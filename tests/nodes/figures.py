"""What the tests of several nodes measured, beside what was asked for: printed at their end."""

from __future__ import annotations

_LINES: list[str] = []


def measured(what: str, value: object, goal: str = "") -> None:
    """One line of the table that a run ends with."""
    _LINES.append(f"{what:<60} {value!s:<20} {goal}")


def table() -> list[str]:
    return [f"{'measured over several nodes':<60} {'here':<20} goal", *_LINES] if _LINES else []
