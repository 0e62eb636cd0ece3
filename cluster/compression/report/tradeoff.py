"""The search's trade-off as SVG: score over latency, one bubble per trial, its area the bytes.

The line joins the best score to be had at each latency; what stands above the budget's line may
still be over the budget, which the trial's confidence bound must keep.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from cluster.artifact.manifest import Score
from cluster.compression import figures
from cluster.compression.record import SearchRecord, TrialRecord
from cluster.compression.report.axes import BOTTOM, HEIGHT, LEFT, TOP, WIDTH, chart, grid
from cluster.compression.report.markup import Markup, tag
from cluster.compression.report.scale import Scale, around

LARGEST_RADIUS, SMALLEST_RADIUS = 20.0, 3.0
LABEL_HEIGHT, LETTER_WIDTH = 13, 7.5
RIGHT = 30


@dataclass(frozen=True)
class _Bubble:
    trial: TrialRecord
    score: Score
    kind: str
    x: float
    y: float
    radius: float

    @property
    def label(self) -> str:
        return "baseline" if self.kind == "baseline" else f"#{self.trial.number}"

    @property
    def label_y(self) -> float:
        return round(self.y - self.radius - 4, 1)


def tradeoff(search: SearchRecord, metric: str) -> Markup | None:
    """The chart; None if no trial was measured."""
    trials = [trial for trial in search.trials if _measured(trial)]
    if not trials:
        return None
    shown = [search.baseline, *trials] if _measured(search.baseline) else trials
    scores = [each.score.value for each in shown if each.score]
    floor = None
    if search.budget is not None and search.baseline.score is not None:
        floor = search.baseline.score.value - search.budget
        scores.append(floor)
    x = around([each.latency_ms or 0 for each in shown], LEFT, WIDTH - RIGHT, margin=0.1)
    y = around(scores, HEIGHT - BOTTOM, TOP, margin=0.15)
    bubbles = _bubbles(shown, search, x, y)
    y_name = f"{metric}, %" if metric == "accuracy" else metric
    return chart(
        "tradeoff-chart",
        "Score over latency of every trial",
        "A bubble's area is the trial's size in bytes. The table below holds the same figures.",
        grid(x, y, x.ticks(), f"median latency at batch {search.batch}, ms", y_name),
        _budget(floor, x, y) if floor is not None else None,
        _envelope(bubbles),
        *(_drawn(each, metric) for each in bubbles),
        *_labels(bubbles),
    )


def trial_kind(trial: TrialRecord, search: SearchRecord) -> str:
    """How a trial is drawn: baseline, chosen, front, other (within the budget), or over it."""
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
    shown: Sequence[TrialRecord], search: SearchRecord, x: Scale, y: Scale
) -> list[_Bubble]:
    """Largest first, so that small ones are drawn on top."""
    largest = max(each.size_bytes or 0 for each in shown) or 1
    found = [
        _Bubble(
            trial,
            trial.score,
            trial_kind(trial, search),
            x(trial.latency_ms or 0),
            y(trial.score.value),
            round(
                max(SMALLEST_RADIUS, LARGEST_RADIUS * ((trial.size_bytes or 0) / largest) ** 0.5), 1
            ),
        )
        for trial in shown
        if trial.score is not None
    ]
    return sorted(found, key=lambda each: -each.radius)


def _drawn(bubble: _Bubble, metric: str) -> Markup:
    trial, score = bubble.trial, bubble.score
    low, high = (figures.score(metric, end) for end in (score.low, score.high))
    title = (
        f"{bubble.label} {trial.title}: {figures.score(metric, score.value)} ({low} to {high}), "
        f"{figures.milliseconds(trial.latency_ms or 0)}, {figures.size(trial.size_bytes or 0)}"
    )
    return tag(
        "g",
        tag("circle", tag("title", title), cx=bubble.x, cy=bubble.y, r=bubble.radius),
        tag("circle", cx=bubble.x, cy=bubble.y, r=1.5, class_="centre"),
        class_=f"trial {bubble.kind}",
    )


def _labels(bubbles: Sequence[_Bubble]) -> list[Markup]:
    """Names of the baseline, the choice and the front, as far as they do not overlap."""
    order = ("chosen", "baseline", "front")
    wanted = [each for each in bubbles if each.kind in order or each.trial.on_front]
    wanted.sort(key=lambda each: order.index(each.kind) if each.kind in order else len(order))
    placed: list[_Bubble] = []
    for each in wanted:
        if not any(_overlap(each, other) for other in placed):
            placed.append(each)
    return [
        tag(
            "g",
            tag("text", each.label, x=each.x, y=each.label_y, text_anchor="middle"),
            class_=f"trial {each.kind}",
        )
        for each in placed
    ]


def _overlap(one: _Bubble, other: _Bubble) -> bool:
    width = (len(one.label) + len(other.label)) / 2 * LETTER_WIDTH
    return abs(one.x - other.x) < width and abs(one.label_y - other.label_y) < LABEL_HEIGHT


def _envelope(bubbles: Sequence[_Bubble]) -> Markup | None:
    """Steps along the best score of the front at each latency; None below two points."""
    best: list[_Bubble] = []
    for each in sorted(bubbles, key=lambda each: (each.x, each.y)):
        if each.trial.on_front and (not best or each.score.value > best[-1].score.value):
            best.append(each)
    if len(best) < 2:
        return None
    first, *others = best
    path = f"M{first.x} {first.y}" + "".join(f"H{each.x}V{each.y}" for each in others)
    return tag("path", d=path, class_="envelope")


def _budget(floor: float, x: Scale, y: Scale) -> Markup:
    at = y(floor)
    return tag(
        "g",
        tag("line", x1=x.start, x2=x.end, y1=at, y2=at),
        tag("text", "accuracy budget", x=x.end - 4, y=at - 6, text_anchor="end"),
        class_="budget",
    )
