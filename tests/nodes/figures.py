"""Measurements of the tests of several nodes beside their goals, printed at the end of a run.

measured(what, value, goal) ─→ table() ─→ terminal summary
"""

from __future__ import annotations

_LINES: list[str] = []


def measured(what: str, value: object, goal: str = "") -> None:
    """Add a line to the table."""
    _LINES.append(f"{what:<60} {value!s:<20} {goal}")


def table() -> list[str]:
    """Return the lines of the table with a header; empty without measurements."""
    return [f"{'measured over several nodes':<60} {'here':<20} goal", *_LINES] if _LINES else []
