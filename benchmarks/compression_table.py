"""The compression benchmark as Markdown: the goals in one table, the builds behind them below."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from benchmarks.compression_results import Built, CaseResult, Results
from benchmarks.goal import Goal


def markdown(results: Results) -> str:
    """Machine and versions, the table of goals, the table of builds."""
    cases = list(results.cases.values())
    parts = [_machine(results), _goals(cases), _builds(cases)]
    if any(case.tiny for case in cases):
        parts.insert(0, "**A tiny run: it proves that the cases run, and measures nothing.**")
    if any(built.random_weights for case in cases for built in case.builds):
        parts.append("¹ Random weights: outputs before and after are compared, nothing is right.")
    return "\n\n".join(parts) + "\n"


def _machine(results: Results) -> str:
    machine = results.machine
    versions = ", ".join(f"{name} {found}" for name, found in machine["versions"].items())
    return f"{machine['cpu']}, {machine['cores']} cores, {machine['date'][:10]}. {versions}."


def _goals(cases: Iterable[CaseResult]) -> str:
    rows = [
        [case.title, goal.claim, _shown(goal.measured, goal), _limit(goal), _verdict(case, goal)]
        for case in cases
        for goal in case.goals
    ]
    return _table(["case", "what", "measured", "goal", "met"], rows, left=2)


def _verdict(case: CaseResult, goal: Goal) -> str:
    if case.tiny:
        return ""
    return "yes" if goal.met else "**no**"


def _limit(goal: Goal) -> str:
    return f"{'≥' if goal.at_least else '≤'} {_shown(goal.limit, goal)}"


def _shown(value: float, goal: Goal) -> str:
    digits = 0 if goal.unit == " s" else 3 if goal.unit == "" else 2
    return f"{value:.{digits}f}{goal.unit}"


def _builds(cases: Iterable[CaseResult]) -> str:
    rows = [[case.title, *_row(built)] for case in cases for built in case.builds]
    header = [
        "case", "build", "score (95 % interval)", "drop (bound)", "program", "M MACs",
        "MB", "batch 1, ms", "to eager", "largest batch, ms", "to eager",
    ]  # fmt: skip
    return _table(header, rows, left=2)


def _row(built: Built) -> list[str]:
    largest = max(built.latency_ms)
    times = [
        cell
        for batch in (1, largest)
        for cell in (f"{built.latency_ms[batch]:.2f}", f"{built.speedup(batch):.2f}×")
    ]
    times[2] += f" ({largest})"
    return [
        built.title + (" ¹" if built.random_weights else ""),
        f"{built.metric} {built.score:.4f} ({built.low:.4f} to {built.high:.4f})",
        f"{built.drop * 100:.2f} ({built.drop_upper * 100:.2f})",
        built.program,
        "" if built.macs is None else f"{built.macs / 1e6:.1f}",
        f"{built.size_bytes / 1e6:.2f} of {built.float_bytes / 1e6:.2f}",
        *times,
    ]


def _table(header: Sequence[str], rows: Iterable[Sequence[str]], left: int) -> str:
    rule = ["---"] * left + ["---:"] * (len(header) - left)
    return "\n".join("| " + " | ".join(line) + " |" for line in [header, rule, *rows])
