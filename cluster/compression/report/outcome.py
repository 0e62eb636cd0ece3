"""The page's first half: what came out. Verdict, headline figures, programs, layers.

Every function returns a section, or None where the build has nothing to show for it.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from cluster.artifact.manifest import Measurement, Score
from cluster.compression.figures import (
    amount,
    figure,
    milliseconds,
    points,
    score,
    size,
    times,
)
from cluster.compression.record import BuildRecord, LayerSize
from cluster.compression.report import bars, charts
from cluster.compression.report.markup import Markup, facts, folded, section, table, tag
from cluster.compression.report.scale import Scale, around

LAYERS_SHOWN = 30
"""Layers with a bar of their own; the others are summed up."""


def winner(record: BuildRecord) -> Measurement | None:
    """What the fastest program of the recipe's first target measured; None if none worked."""
    return record.programs.get(f"{record.target}/{record.fastest}")


def verdict(record: BuildRecord) -> Markup:
    """Accepted or rejected, in one line and then check by check."""
    failed = sum(not check.passed for check in record.checks)
    word = "Accepted" if record.accepted else "Rejected"
    why = (
        f"{len(record.checks)} of {len(record.checks)} checks passed"
        if record.accepted
        else f"{failed} of {len(record.checks)} checks failed; nothing was published"
    )
    # What failed comes first: it is what a reader of a rejection looks for.
    ordered = sorted(record.checks, key=lambda check: check.passed)
    rows = [
        tag(
            "li",
            tag("span", "✓" if check.passed else "✗", class_="sign", aria_hidden="true"),
            tag("span", "Passed: " if check.passed else "Failed: ", class_="spoken"),
            tag("code", check.name),
            tag("p", check.reason),
            class_="passed" if check.passed else "failed",
        )
        for check in ordered
    ]
    return tag(
        "section",
        tag("h2", word, tag("small", why), id="verdict-title"),
        tag("ul", *rows),
        id="verdict",
        class_="accepted" if record.accepted else "rejected",
        aria_labelledby="verdict-title",
    )


def random_weights(record: BuildRecord) -> Markup | None:
    """The warning that scores mean nothing."""
    if not record.random_weights:
        return None
    source = record.recipe.get("model", {}).get("source", "")
    if source.startswith("python:"):  # a factory may load weights of its own
        known = "No weights were given and none were trained. "
        so = f"Unless {source} fills them in by itself, they are random and the scores say nothing"
    else:
        known = "The weights were never trained. "
        so = "The model was built with random weights, so its scores say nothing"
    return tag(
        "p",
        tag("strong", known),
        f"{so}; sizes, multiply-accumulates and latencies are those of the real architecture.",
        class_="note",
    )


def headline(record: BuildRecord) -> Markup | None:
    """The figures one would quote."""
    result = winner(record)
    if result is None:
        return None
    return section("headline", "At a glance", tag("div", *_cards(record, result), class_="cards"))


def _cards(record: BuildRecord, result: Measurement) -> Iterator[Markup]:
    baseline = record.baseline
    drop = result.drop
    bound = (
        f"drop at most {points(drop.upper).lstrip('+')} points ({drop.confidence * 100:g} %)"
        if drop
        else None
    )
    yield _card(
        record.metric,
        score(record.metric, result.accuracy),
        f"95 % CI {_interval(record.metric, result)}",
        f"baseline {score(record.metric, baseline.accuracy)}",
        bound,
    )
    for entry in (result.latency[0], *result.latency[1:][-1:]):
        before = baseline.at_batch(entry.batch).p50_ms
        yield _card(
            f"speed-up, batch {entry.batch}",
            times(before / entry.p50_ms),
            f"{milliseconds(before)} → {milliseconds(entry.p50_ms)}",
            f"{figure(entry.items_per_s)} items/s",
        )
    yield _card(
        "smaller to load",
        times(baseline.size_bytes / result.size_bytes),
        f"{size(baseline.size_bytes)} → {size(result.size_bytes)}",
        f"{record.quantized_operators} operators in fewer bits",
    )
    if record.steps:
        before_steps, after_steps = record.steps[0].size_before, record.steps[-1].size_after
        if before_steps.macs > after_steps.macs > 0:
            yield _card(
                "fewer multiply-accumulates",
                times(before_steps.macs / after_steps.macs),
                f"{amount(before_steps.macs)} → {amount(after_steps.macs)} per item",
                f"{amount(before_steps.parameters)} → {amount(after_steps.parameters)} parameters",
            )


def _card(name: str, value: str, *lines: str | None) -> Markup:
    return tag(
        "div",
        tag("h3", name),
        tag("p", value, class_="value"),
        *(tag("p", line) for line in lines if line),
        class_="card",
    )


def scores(record: BuildRecord) -> Markup:
    """Baseline against every program, with confidence intervals, by every metric."""
    shown = _measured(record)
    scale = around(
        [end for _, m, _, _ in shown for end in (m.accuracy_low, m.accuracy_high)],
        0,
        100,
        margin=0.1,
    )
    rows = [
        (
            name,
            score(record.metric, each.accuracy),
            bars.interval(each.accuracy, each.accuracy_low, each.accuracy_high, scale, look),
            _interval(record.metric, each),
            points(-each.drop.mean) if each.drop else "",
            points(-each.drop.upper) if each.drop else "",
            f"{each.samples:,}",
        )
        for name, each, look, _ in shown
    ]
    header = (
        "program", record.metric, "95 % interval", "from, to", "change, points",
        "at worst", "samples",
    )  # fmt: skip
    others = [
        (name, *(_other(metric, each.others.get(metric)) for metric in record.baseline.others))
        for name, each, _, _ in shown
    ]
    return section(
        "scores",
        "Score, against the baseline",
        tag(
            "p",
            "Held-out samples, answered by each program reloaded from its files in a fresh "
            "process. The change is taken sample by sample, so its bound is tighter than the "
            "distance of two intervals.",
        ),
        table(
            f"Mean {record.metric} and its 95 % confidence interval",
            header, rows, text_columns=(0, 2), marked=_winning(record),
        ),
        table("The recipe's other metrics", ("program", *record.baseline.others), others)
        if record.baseline.others
        else None,
    )  # fmt: skip


def _interval(metric: str, measured: Measurement) -> str:
    return f"{score(metric, measured.accuracy_low)} to {score(metric, measured.accuracy_high)}"


def _other(metric: str, found: Score | None) -> str:
    if found is None:
        return "–"
    low, high = score(metric, found.low), score(metric, found.high)
    return f"{score(metric, found.value)} ({low} to {high})"


def latency(record: BuildRecord) -> Markup:
    """Time by batch size of every program, and which one won."""
    shown = _measured(record)
    others = iter(range(len(shown)))
    single = len({key.rpartition("/")[0] for key in record.programs}) == 1
    curves = [
        charts.Series(
            name.rpartition("/")[2] if single else name,
            tuple((entry.batch, entry.p50_ms, entry.p99_ms) for entry in each.latency),
            f"other-{next(others) % 4}" if look == "other" else look,
        )
        for name, each, look, _ in shown
    ]
    rows = [
        (
            name,
            entry.batch,
            milliseconds(entry.p50_ms),
            milliseconds(entry.p99_ms),
            figure(entry.items_per_s),
            times(beside.at_batch(entry.batch).p50_ms / entry.p50_ms),
        )
        for name, each, _, beside in shown
        for entry in each.latency
    ]
    marked = frozenset(
        i for i, row in enumerate(rows) if row[0] == f"{record.target}/{record.fastest}"
    )
    return section(
        "latency",
        "Latency, by batch size",
        tag(
            "p",
            f"Fastest on {record.target}: ",
            tag("strong", record.fastest),
            ", by the geometric mean of its medians. A thin bar reaches to the 99th percentile.",
        )
        if winner(record)
        else tag("p", f"No program works on {record.target}."),
        charts.latency(curves),
        table(
            "Time of one run and throughput of back-to-back runs",
            ("program", "batch", "median", "99th percentile", "items/s", "speed-up"),
            rows,
            marked=marked,
        ),
        _missing("Programs that work, but are left out, and why", record.left_out_programs),
        _missing("Programs that do not work, and why", record.failed_programs),
    )


def _missing(title: str, reasons: dict[str, str]) -> Markup | None:
    if not reasons:
        return None
    rows = [tag("li", tag("code", key), ": ", why) for key, why in reasons.items()]
    return folded(title, tag("ul", *rows), opened=True)


def layers(record: BuildRecord) -> Markup | None:
    """Bytes of each layer before and after, the largest ones first."""
    if not record.layers:
        return None
    ordered = sorted(record.layers, key=lambda each: -max(each.baseline_bytes, each.bytes))
    shown, rest = ordered[:LAYERS_SHOWN], ordered[LAYERS_SHOWN:]
    if rest:
        summed = LayerSize(
            name=f"{len(rest)} smaller layers",
            baseline_bytes=sum(each.baseline_bytes for each in rest),
            bytes=sum(each.bytes for each in rest),
        )
        shown = [*shown, summed]
    top = max(max(each.baseline_bytes, each.bytes) for each in shown) or 1
    scale = Scale(0, top, 0, 100)
    rows = [
        (
            each.name,
            bars.pair(each.baseline_bytes, each.bytes, scale),
            size(each.baseline_bytes),
            size(each.bytes),
            times(each.baseline_bytes / each.bytes) if each.bytes and each.baseline_bytes else "–",
        )
        for each in shown
    ]
    before = sum(each.baseline_bytes for each in record.layers)
    after = sum(each.bytes for each in record.layers)
    return section(
        "layers",
        "Size, by layer",
        facts([("weights before", size(before)), ("weights after", size(after))]),
        _legend(),
        table(
            "Bytes of each layer's tensors, the largest layers first",
            ("layer", "before above, after below", "before", "after", "smaller"),
            rows,
            text_columns=(0, 1),
        ),
    )


def _legend() -> Markup:
    return tag(
        "p",
        tag("span", tag("span", class_="key baseline"), "baseline"),
        tag("span", tag("span", class_="key result"), "result"),
        class_="legend",
    )


class _Row(NamedTuple):
    """The baseline on one target, or a program."""

    name: str
    measured: Measurement
    look: str
    beside: Measurement
    """The baseline on the same target."""


def _measured(record: BuildRecord) -> list[_Row]:
    """The baseline, on every target, and every program."""
    winning, others = f"{record.target}/{record.fastest}", record.other_baselines
    return [
        _Row("baseline", record.baseline, "baseline", record.baseline),
        *(_Row(f"baseline on {target}", each, "other", each) for target, each in others.items()),
        *(
            _Row(
                key,
                each,
                "winner" if key == winning else "other",
                others.get(key.rpartition("/")[0], record.baseline),
            )
            for key, each in record.programs.items()
        ),
    ]


def _winning(record: BuildRecord) -> frozenset[int]:
    return frozenset(i for i, row in enumerate(_measured(record)) if row.look == "winner")
