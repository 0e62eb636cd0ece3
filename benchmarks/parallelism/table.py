"""A run of ``benchmarks.parallelism`` as Markdown: the goals, then every case beside its peers."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from benchmarks.goal import Goal
from benchmarks.parallelism.cases import ACCELERATE, CHAIN, TORCH
from benchmarks.parallelism.results import (
    BATCHES,
    CONCURRENCIES,
    CUT,
    SERVED_BATCH,
    WHOLE,
    CaseResult,
    Run,
)

ENOUGH_ROUNDS = 3
"""Rounds below which a median is no more than a trial."""

_TITLES = {
    WHOLE: "Headrace, one replica, whole",
    CUT: "Headrace, cut",
    CHAIN: "Ray Serve, a chain of deployments",
    TORCH: "torch.distributed.pipelining, eager",
    ACCELERATE: "Accelerate, eager",
}


def markdown(run: Run) -> str:
    """Machine, goals, a table per case, what could not be measured."""
    parts = [_machine(run), _goals(run), *(_case(case) for case in run.cases)]
    if run.settings["quick"]:
        parts.insert(0, "**A quick run of tiny models: it proves that everything runs.**")
    elif run.settings["rounds"] < ENOUGH_ROUNDS:
        parts.insert(0, f"**A trial of {run.settings['rounds']} round(s), not a measurement.**")
    peers = [f"{c.key}, {who}: {why}" for c in run.cases for who, why in c.failures.items()]
    parts += [f"Not measured: {_first_line(each)}" for each in (*run.failures, *peers)]
    return "\n\n".join(parts) + "\n"


def _first_line(text: str) -> str:
    return text.partition("\n")[0]


def missed(run: Run) -> list[str]:
    """Goals that were not met, in words; a quick run has none to meet."""
    if run.settings["quick"]:
        return []
    return [
        f"{case.key}: {goal.claim} is {_shown(goal.measured, goal)}"
        for case in run.cases
        for goal in case.goals
        if not goal.met
    ]


def _machine(run: Run) -> str:
    machine, settings = run.machine, run.settings
    versions = ", ".join(f"{name} {found}" for name, found in machine["versions"].items() if found)
    return (
        f"One compute thread per shard. {machine['cpu']}, {machine['cores']} cores, "
        f"{machine['date'][:10]}. Medians of {settings['rounds']} rounds of "
        f"{settings['seconds']} s. {versions}."
    )


def _goals(run: Run) -> str:
    quick = run.settings["quick"]
    rows = [
        [
            case.title, goal.claim, _shown(goal.measured, goal), _limit(goal),
            "" if quick else "met" if goal.met else "**missed**",
        ]
        for case in run.cases
        for goal in case.goals
    ]  # fmt: skip
    return _table(["case", "what", "measured", "goal", ""], rows, left=2)


def _limit(goal: Goal) -> str:
    return f"{'≥' if goal.at_least else '≤'} {_shown(goal.limit, goal)}"


def _shown(value: float, goal: Goal) -> str:
    return f"{value:.1f} %" if goal.unit == " %" else f"{value:.2f}×"


def _case(case: CaseResult) -> str:
    sizes = [f"{each:.2f}" for each in case.predicted.built_stage_ms]
    cut = f"cut behind `{'`, `'.join(case.after)}`" if case.after else "not cut into stages"
    text = (
        f"**{case.title}**: layout `{case.layout}`, {cut}; stages of {' + '.join(sizes)} ms at "
        f"batch 1 when built. Predicted {case.predicted.latency_ms:.2f} ms and "
        f"{case.predicted.items_per_s:.2f} items/s."
    )
    one, many = CONCURRENCIES
    header = [
        "", "one item, ms", "to Headrace",
        *(f"items/s, micro-batches of {size}" for size in BATCHES), "to Headrace",
        f"HTTP c={one}, p50 ms", f"HTTP c={many}, req/s", "to Headrace", "errors",
    ]  # fmt: skip
    rows = [_row(case, subject) for subject in sorted(case.subjects, key=list(_TITLES).index)]
    return f"{text}\n\n{_table(header, rows, left=1)}"


def _row(case: CaseResult, subject: str) -> list[str]:
    first = next(one for one in case.rounds if one.subject == subject)
    compared = CUT in case.subjects
    latency = case.latency_ms(subject)
    fed = {
        size: case.items_per_s(subject, size) if size in first.fed.items_per_s else None
        for size in BATCHES
    }
    # At the micro-batch of requests where it has that, else at the one that it has.
    size = SERVED_BATCH if fed[SERVED_BATCH] else next(n for n in BATCHES if fed[n])
    rate = case.items_per_s(subject, size)
    row = [
        _TITLES[subject],
        f"{latency:.2f}",
        f"{latency / case.latency_ms(CUT):.2f}×" if compared else "",
        *("" if each is None else f"{each:.2f}" for each in fed.values()),
        f"{rate / case.items_per_s(CUT, size):.2f}×" if compared else "",
    ]
    if not first.loads:
        return [*row, "", "", "", ""]
    one, many = CONCURRENCIES
    served = case.requests_per_s(subject, many)
    errors = sum(
        load.errors for each in case.rounds if each.subject == subject
        for load in each.loads.values()
    )  # fmt: skip
    return [
        *row,
        f"{case.middle(subject, lambda each: each.loads[one].p50_ms):.2f}",
        f"{served:.2f}",
        f"{served / case.requests_per_s(CUT, many):.2f}×" if compared else "",
        str(errors),
    ]


def _table(header: Sequence[str], rows: Iterable[Sequence[str]], left: int) -> str:
    rule = ["---"] * left + ["---:"] * (len(header) - left)
    return "\n".join("| " + " | ".join(line) + " |" for line in [header, rule, *rows])
