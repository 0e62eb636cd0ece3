"""The search as data: every trial's score against latency against bytes, and the choice."""

from __future__ import annotations

from dataclasses import dataclass

from cluster.compression.figures import duration, milliseconds, points, score, size
from cluster.compression.record import BuildRecord, SearchRecord
from cluster.compression.report.parts import Cell, Facts, Section, Table
from cluster.compression.report.tradeoff import TradeoffChart, tradeoff


@dataclass(frozen=True)
class SearchView:
    """The search's settings and results."""

    facts: Facts
    chart: TradeoffChart | None
    contributions: Table | None
    trials: Table


def search(record: BuildRecord) -> Section | None:
    """Return the search, or None if the build ran none."""
    if record.search is None:
        return None
    view = SearchView(
        facts=_facts(record.search),
        chart=tradeoff(record.search, record.metric),
        contributions=_contributions(record.search),
        trials=_trials(record.search, record.metric),
    )
    return Section("search", "Search: accuracy, latency, bytes", "Search", view)


def _facts(search: SearchRecord) -> Facts:
    budget = "none" if search.budget is None else f"{points(search.budget).lstrip('+')} points"
    chosen = next((trial for trial in search.trials if trial.number == search.chosen), None)
    return [
        ("objective", f"{search.objective} at batch {search.batch}"),
        ("accuracy budget", budget),
        ("trials", f"{len(search.trials)} in {duration(search.seconds)}"),
        ("results of an earlier job", str(search.resumed)),
        ("chosen", f"#{chosen.number} {chosen.title}" if chosen else "none"),
    ]


def _contributions(search: SearchRecord) -> Table | None:
    if not search.contributions:
        return None
    return Table(
        "Contribution of each step of the chosen trial, added to those before it",
        ("step", "score, points", f"latency at batch {search.batch}"),
        [(title, points(score), _signed(ms)) for title, score, ms in search.contributions],
    )


def _signed(ms: float) -> str:
    sign = "+" if ms > 0 else "−" if ms < 0 else ""
    return f"{sign}{milliseconds(abs(ms))}"


def _trials(search: SearchRecord, metric: str) -> Table:
    shown = [search.baseline, *search.trials]
    rows: list[tuple[Cell, ...]] = [
        (
            "baseline" if trial is search.baseline else f"#{trial.number} {trial.title}",
            f"{trial.stage}: {trial.reason}" if trial.reason else trial.stage,
            score(metric, trial.score.value) if trial.score else "–",
            points(trial.drop_upper).lstrip("+") if trial.drop_upper is not None else "–",
            milliseconds(trial.latency_ms) if trial.latency_ms is not None else "–",
            size(trial.size_bytes) if trial.size_bytes is not None else "–",
            "yes" if trial.feasible else "no",
            "front" if trial.on_front else "",
            duration(trial.seconds),
        )
        for trial in shown
    ]
    header = [
        "trial",
        "how far",
        metric,
        "drop at most",
        "latency",
        "size",
        "within budget",
        "front",
        "took",
    ]
    return Table(
        "Every combination that was tried; the chosen one is emphasized",
        header,
        rows,
        text_columns=(0, 1),
        marked=frozenset(i for i, trial in enumerate(shown) if i and search.chosen == trial.number),
    )
