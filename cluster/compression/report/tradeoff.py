"""The search's trade-off as a chart: score over latency, one bubble per trial, its area the bytes.

The line joins the best score at each latency. A trial above the budget's line may still be over
the budget, because the budget limits the trial's confidence bound.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from cluster.artifact.manifest import Score
from cluster.compression import figures
from cluster.compression.record import SearchRecord, TrialRecord
from cluster.compression.report.axes import BOTTOM, HEIGHT, LEFT, TOP, WIDTH, Chart, axes
from cluster.compression.report.scale import Scale, around

LARGEST_RADIUS, SMALLEST_RADIUS = 20.0, 3.0
LABEL_HEIGHT, LETTER_WIDTH = 13, 7.5
RIGHT = 30


@dataclass(frozen=True)
class Bubble:
    """One trial as a circle; ``kind`` is its class in the style sheet."""

    trial: TrialRecord
    score: Score
    kind: str
    label: str
    """Name above the bubble."""
    title: str
    x: float
    y: float
    radius: float

    @property
    def label_y(self) -> float:
        """The baseline of the label's text, in pixels."""
        return round(self.y - self.radius - 4, 1)


@dataclass(frozen=True)
class TradeoffChart(Chart):
    """Bubbles, the names of some, the best score at each latency, and the accuracy budget."""

    bubbles: Sequence[Bubble] = ()
    labelled: Sequence[Bubble] = ()
    envelope: str = ""
    """Path of the best score at each latency; empty below two points."""
    budget_y: float | None = None


def tradeoff(search: SearchRecord, metric: str) -> TradeoffChart | None:
    """Return the chart, or None if no trial was measured."""
    trials = [trial for trial in search.trials if _measured(trial)]
    if not trials:
        return None
    shown = [search.baseline, *trials] if _measured(search.baseline) else trials
    scores = [trial.score.value for trial in shown if trial.score]
    floor = None
    if search.budget is not None and search.baseline.score is not None:
        floor = search.baseline.score.value - search.budget
        scores.append(floor)
    x = around([trial.latency_ms or 0 for trial in shown], LEFT, WIDTH - RIGHT, margin=0.1)
    y = around(scores, HEIGHT - BOTTOM, TOP, margin=0.15)
    bubbles = _bubbles(shown, search, metric, x, y)
    y_name = f"{metric}, %" if metric == "accuracy" else metric
    return TradeoffChart(
        name="tradeoff-chart",
        title="Score over latency of every trial",
        about="A bubble's area is the trial's size in bytes. The table below holds the same "
        "figures.",
        axes=axes(x, y, x.ticks(), f"median latency at batch {search.batch}, ms", y_name),
        bubbles=bubbles,
        labelled=_labelled(bubbles),
        envelope=_envelope(bubbles),
        budget_y=None if floor is None else y(floor),
    )


def trial_kind(trial: TrialRecord, search: SearchRecord) -> str:
    """Return the look of a trial: baseline, chosen, over the budget, front, or other."""
    if trial is search.baseline:
        return "baseline"
    if trial.number == search.chosen:
        return "chosen"
    if not trial.feasible:
        return "over"
    return "front" if trial.on_front else "other"


def _measured(trial: TrialRecord) -> bool:
    return None not in (trial.score, trial.latency_ms, trial.size_bytes)


def _bubbles(
    shown: Sequence[TrialRecord], search: SearchRecord, metric: str, x: Scale, y: Scale
) -> list[Bubble]:
    """Return the bubbles, largest first, so that small ones are drawn on top."""
    largest = max(trial.size_bytes or 0 for trial in shown) or 1
    bubbles = []
    for trial in shown:
        if trial.score is None:
            continue
        radius = LARGEST_RADIUS * ((trial.size_bytes or 0) / largest) ** 0.5
        kind = trial_kind(trial, search)
        label = "baseline" if kind == "baseline" else f"#{trial.number}"
        bubbles.append(
            Bubble(
                trial=trial,
                score=trial.score,
                kind=kind,
                label=label,
                title=f"{label} {_about(trial, trial.score, metric)}",
                x=x(trial.latency_ms or 0),
                y=y(trial.score.value),
                radius=round(max(SMALLEST_RADIUS, radius), 1),
            )
        )
    return sorted(bubbles, key=lambda bubble: -bubble.radius)


def _about(trial: TrialRecord, score: Score, metric: str) -> str:
    low, high = (figures.score(metric, end) for end in (score.low, score.high))
    return (
        f"{trial.title}: {figures.score(metric, score.value)} ({low} to {high}), "
        f"{figures.milliseconds(trial.latency_ms or 0)}, {figures.size(trial.size_bytes or 0)}"
    )


def _labelled(bubbles: Sequence[Bubble]) -> list[Bubble]:
    """Return the baseline, the choice and the front, as far as their names do not overlap."""
    order = ("chosen", "baseline", "front")
    wanted = [bubble for bubble in bubbles if bubble.kind in order or bubble.trial.on_front]
    wanted.sort(key=lambda bubble: order.index(bubble.kind) if bubble.kind in order else len(order))
    placed: list[Bubble] = []
    for bubble in wanted:
        if not any(_overlap(bubble, other) for other in placed):
            placed.append(bubble)
    return placed


def _overlap(one: Bubble, other: Bubble) -> bool:
    width = (len(one.label) + len(other.label)) / 2 * LETTER_WIDTH
    return abs(one.x - other.x) < width and abs(one.label_y - other.label_y) < LABEL_HEIGHT


def _envelope(bubbles: Sequence[Bubble]) -> str:
    """Return steps along the best score of the front at each latency."""
    best: list[Bubble] = []
    for bubble in sorted(bubbles, key=lambda bubble: (bubble.x, bubble.y)):
        if bubble.trial.on_front and (not best or bubble.score.value > best[-1].score.value):
            best.append(bubble)
    if len(best) < 2:
        return ""
    first, *others = best
    return f"M{first.x} {first.y}" + "".join(f"H{other.x}V{other.y}" for other in others)
