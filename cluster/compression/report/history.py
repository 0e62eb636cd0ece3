"""The page's second half: how it came about. Steps, what they found, and the search.

Every function returns a section, or None where the build has nothing to show for it.
"""

from __future__ import annotations

from cluster.compression.figures import (
    amount,
    duration,
    milliseconds,
    percent,
    points,
    score,
    size,
    times,
)
from cluster.compression.record import BuildRecord, ModelSize, SearchRecord, StepRecord
from cluster.compression.report.findings import drawn, text
from cluster.compression.report.markup import Markup, facts, folded, section, table, tag
from cluster.compression.report.tradeoff import tradeoff


def steps(record: BuildRecord) -> Markup | None:
    """What each step cost and gained, in order, and what it found."""
    if not record.steps:
        return None
    rows = [
        (
            f"{position}. {step.title}",
            score(record.metric, step.after.value),
            points(step.after.value - step.before.value),
            amount(step.size_after.macs),
            _ratio(step.size_before.macs, step.size_after.macs),
            _parameters(step.size_after),
            size(step.size_after.weight_bytes),
            _ratio(step.size_before.weight_bytes, step.size_after.weight_bytes),
            duration(step.seconds),
        )
        for position, step in enumerate(record.steps, 1)
    ]
    first = record.steps[0]
    start = (
        "before the steps",
        score(record.metric, first.before.value),
        "",
        amount(first.size_before.macs),
        "",
        _parameters(first.size_before),
        size(first.size_before.weight_bytes),
        "",
        "",
    )
    details = [_step(position, step) for position, step in enumerate(record.steps, 1)]
    header = (
        "step", record.metric, "change, points", "MACs", "fewer", "parameters", "weights",
        "smaller", "took",
    )  # fmt: skip
    return section(
        "steps",
        "Steps: cost and gain",
        tag(
            "p",
            "Scores are on validation samples that no step trains on, not on the held-out ones "
            "above.",
        ),
        table("Each step after those before it", header, [start, *rows]),
        *details,
    )


def _parameters(found: ModelSize) -> str:
    zeros = found.parameters - found.nonzero
    if zeros * 100 < found.parameters:  # a few weights are zero in any model
        return amount(found.parameters)
    return f"{amount(found.parameters)}, {percent(zeros / found.parameters)} zero"


def _ratio(before: int, after: int) -> str:
    return times(before / after) if after and before != after else "–"


def _step(position: int, step: StepRecord) -> Markup:
    """One step's settings and everything it put down for the report."""
    settings = facts((name.replace("_", " "), text(value)) for name, value in step.settings.items())
    return tag(
        "article",
        tag("h3", f"{position}. {step.title}"),
        drawn(step.details, f"step-{position}"),
        folded("All settings of this step", settings),
    )


def search(record: BuildRecord) -> Markup | None:
    """Every trial: score against latency against bytes, and what the choice is made of."""
    found = record.search
    if found is None:
        return None
    chart = tradeoff(found, record.metric)
    budget = "none" if found.budget is None else f"{points(found.budget).lstrip('+')} points"
    chosen = next((each for each in found.trials if each.number == found.chosen), None)
    return section(
        "search",
        "Search: accuracy, latency, bytes",
        facts(
            [
                ("objective", f"{found.objective} at batch {found.batch}"),
                ("accuracy budget", budget),
                ("trials", f"{len(found.trials)} in {duration(found.seconds)}"),
                ("results of an earlier job", str(found.resumed)),
                ("chosen", f"#{chosen.number} {chosen.title}" if chosen else "none"),
            ]
        ),
        tag(
            "p",
            "Scores are on validation samples and latencies from one program on the machine of "
            "the search; the chosen trial was then built, reloaded and measured as above.",
        ),
        chart,
        _trial_legend() if chart else None,
        _contributions(found) if found.contributions else None,
        folded(f"All {len(found.trials)} trials", _trials(found, record.metric), opened=True),
    )


def _trial_legend() -> Markup:
    kinds = {
        "chosen": "chosen",
        "front": "on the front: nothing is better in everything",
        "other": "within the budget",
        "over": "over the budget",
        "baseline": "baseline",
    }
    return tag(
        "p",
        *(
            tag("span", tag("span", class_=f"key trial-{kind}"), text)
            for kind, text in kinds.items()
        ),
        tag("br"),
        "A bubble's area is its bytes.",
        class_="legend",
    )


def _contributions(found: SearchRecord) -> Markup:
    rows = [
        (title, points(score), f"{'+' if ms > 0 else '−' if ms < 0 else ''}{milliseconds(abs(ms))}")
        for title, score, ms in found.contributions
    ]
    return table(
        "What each step of the chosen trial contributed, added to those before it",
        ("step", "score, points", f"latency at batch {found.batch}"),
        rows,
    )


def _trials(found: SearchRecord, metric: str) -> Markup:
    header = (
        "trial", "how far", metric, "drop at most", "latency", "size", "within budget", "front",
        "took",
    )  # fmt: skip
    shown = [found.baseline, *found.trials]
    rows = [
        (
            "baseline" if trial is found.baseline else f"#{trial.number} {trial.title}",
            f"{trial.stage}: {trial.reason}" if trial.reason else trial.stage,
            score(metric, trial.score.value) if trial.score else "–",
            f"{points(trial.drop_upper).lstrip('+')}" if trial.drop_upper is not None else "–",
            milliseconds(trial.latency_ms) if trial.latency_ms is not None else "–",
            size(trial.size_bytes) if trial.size_bytes is not None else "–",
            "yes" if trial.feasible else "no",
            "front" if trial.on_front else "",
            duration(trial.seconds),
        )
        for trial in shown
    ]
    chosen = frozenset(i for i, each in enumerate(shown) if i and found.chosen == each.number)
    return table(
        "Every combination that was tried; the chosen one is emphasized",
        header,
        rows,
        text_columns=(0, 1),
        marked=chosen,
    )
