"""Run as Markdown: its conditions, its goals, a section per case, and what is missing.

report(run, conditions, sections) → text; a benchmark brings only its own sections
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from benchmarks.harness.case import ENOUGH_ROUNDS
from benchmarks.harness.results import CaseResult, Run


def report(run: Run, conditions: str, sections: Iterable[str]) -> str:
    """Return the whole text. ``conditions``: sentence before the machine, or nothing."""
    parts = [_machine(run, conditions), *_goals(run), *sections]
    rounds = run.settings.get("rounds", ENOUGH_ROUNDS)
    if run.quick:
        parts.insert(0, "**A quick run: it proves that everything runs, and measures nothing.**")
    elif rounds < ENOUGH_ROUNDS:
        parts.insert(0, f"**A trial of {rounds} round{'s' * (rounds > 1)}, not a measurement.**")
    reasons = dict(run.failures)
    for case in run.cases:
        reasons |= {f"{case.key}, {subject}": why for subject, why in case.failures.items()}
    parts += [f"Not measured: {name}: {why.partition(chr(10))[0]}" for name, why in reasons.items()]
    return "\n\n".join(parts) + "\n"


def figures(case: CaseResult) -> str:
    """Return a section with every figure of the case: a row per subject, a column per name."""
    medians = case.medians
    columns = list(dict.fromkeys(name for values in medians.values() for name in values))
    rows = [
        [subject, *(f"{values[name]:.2f}" if name in values else "" for name in columns)]
        for subject, values in medians.items()
    ]
    notes = "".join(f" {note}" for note in case.notes)
    return f"**{case.title}**.{notes}\n\n{table(['', *columns], rows)}"


def table(header: Sequence[str], rows: Iterable[Sequence[str]], left: int = 1) -> str:
    """Return a Markdown table whose first ``left`` columns are aligned to the left."""
    rule = ["---"] * left + ["---:"] * (len(header) - left)
    return "\n".join("| " + " | ".join(line) + " |" for line in [header, rule, *rows])


def _machine(run: Run, conditions: str) -> str:
    machine, settings = run.machine, run.settings
    parts = [conditions] if conditions else []
    parts.append(f"{machine['cpu']}, {machine['cores']} cores, {machine['date'][:10]}.")
    if "rounds" in settings:
        length = f" of {settings['seconds']} s" if "seconds" in settings else ""
        unit = "round" if settings["rounds"] == 1 else "rounds"
        parts.append(f"Medians of {settings['rounds']} {unit}{length}.")
    versions = machine["versions"].items()
    parts.append(", ".join(f"{name} {version}" for name, version in versions if version) + ".")
    return " ".join(parts)


def _goals(run: Run) -> list[str]:
    rows = [
        [
            case.title,
            goal.claim,
            goal.shown,
            goal.shown_limit,
            "" if run.quick else "met" if goal.met else "**missed**",
        ]
        for case in run.cases
        for goal in case.goals
    ]
    return [table(["case", "claim", "measured", "goal", ""], rows, left=2)] if rows else []
