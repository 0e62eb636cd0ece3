"""The baseline and every program side by side: scores with their intervals, and latency."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from cluster.artifact.manifest import Measurement, Score
from cluster.compression.figures import figure, milliseconds, points, score, times
from cluster.compression.record import BuildRecord
from cluster.compression.report import bars, charts
from cluster.compression.report.baseline import baseline_note
from cluster.compression.report.parts import Cell, Section, Table
from cluster.compression.report.scale import around


def winner(record: BuildRecord) -> Measurement | None:
    """Return the measurement of the first target's fastest program; None if none works."""
    return record.programs.get(f"{record.target}/{record.fastest}")


def interval(metric: str, measured: Measurement) -> str:
    """Return the confidence interval of a score as text."""
    return f"{score(metric, measured.accuracy_low)} to {score(metric, measured.accuracy_high)}"


@dataclass(frozen=True)
class ScoresView:
    """Tables of the scores: by the recipe's metric, and by its others if it has any."""

    metric: Table
    others: Table | None
    baseline: str
    """Sentence on which model the baseline is; empty for the recipe's model as it is."""


def scores(record: BuildRecord) -> Section | None:
    """Return the baseline's and every program's scores with confidence intervals; None without."""
    if record.baseline is None:
        return None
    shown = _measured(record)
    ends = [end for row in shown for end in (row.measured.accuracy_low, row.measured.accuracy_high)]
    scale = around(ends, 0, 100, margin=0.1)
    rows: list[tuple[Cell, ...]] = []
    for name, measured, look, _ in shown:
        low, high, drop = measured.accuracy_low, measured.accuracy_high, measured.drop
        rows.append(
            (
                name,
                score(record.metric, measured.accuracy),
                bars.interval(measured.accuracy, low, high, scale, look),
                interval(record.metric, measured),
                points(-drop.mean) if drop else "",
                points(-drop.upper) if drop else "",
                f"{measured.samples:,}",
            )
        )
    header = [
        "program",
        record.metric,
        "95 % interval",
        "from, to",
        "change, points",
        "at worst",
        "samples",
    ]
    table = Table(
        f"Mean {record.metric} and its 95 % confidence interval",
        header,
        rows,
        text_columns=(0, 2),
        marked=frozenset(i for i, row in enumerate(shown) if row.look == "winner"),
    )
    others = _other_metrics(shown, [*record.baseline.others])
    view = ScoresView(table, others, baseline_note(record.recipe))
    return Section("scores", "Score, against the baseline", "Score", view)


def _other_metrics(shown: Sequence[_Row], metrics: Sequence[str]) -> Table | None:
    if not metrics:
        return None
    rows = [
        (row.name, *(_score(metric, row.measured.others.get(metric)) for metric in metrics))
        for row in shown
    ]
    return Table("The recipe's other metrics", ("program", *metrics), rows)


def _score(metric: str, measured: Score | None) -> str:
    if measured is None:
        return "–"
    low, high = score(metric, measured.low), score(metric, measured.high)
    return f"{score(metric, measured.value)} ({low} to {high})"


@dataclass(frozen=True)
class LatencyView:
    """Time by batch size, and the programs that are missing from it."""

    target: str
    fastest: str | None
    """Kind of the program that won on the target; None if none works."""
    chart: charts.CurveChart | None
    """None if nothing was measured."""
    table: Table
    missing: Sequence[tuple[str, dict[str, str]]]
    """Titles of lists of programs, and why each is missing."""


def latency(record: BuildRecord) -> Section:
    """Return the time by batch size of every program, and the fastest one."""
    shown = _measured(record)
    numbers = iter(range(len(shown)))
    one_target = len({key.rpartition("/")[0] for key in record.programs}) == 1
    curves = [
        charts.Series(
            name.rpartition("/")[2] if one_target else name,
            tuple((entry.batch, entry.p50_ms, entry.p99_ms) for entry in measured.latency),
            f"other-{next(numbers) % 4}" if look == "other" else look,
        )
        for name, measured, look, _ in shown
    ]
    rows = [
        (
            name,
            entry.batch,
            milliseconds(entry.p50_ms),
            milliseconds(entry.p99_ms),
            figure(entry.items_per_s),
            times(baseline.at_batch(entry.batch).p50_ms / entry.p50_ms),
        )
        for name, measured, _, baseline in shown
        for entry in measured.latency
    ]
    fastest = f"{record.target}/{record.fastest}"
    table = Table(
        "Time of one run and throughput of back-to-back runs",
        ("program", "batch", "median", "99th percentile", "items/s", "speed-up"),
        rows,
        marked=frozenset(i for i, row in enumerate(rows) if row[0] == fastest),
    )
    missing = (
        ("Programs that work, but are left out, and why", record.left_out_programs),
        ("Programs that do not work, and why", record.failed_programs),
    )
    view = LatencyView(
        target=record.target,
        fastest=record.fastest if winner(record) else None,
        chart=charts.latency(curves) if curves else None,
        table=table,
        missing=[(title, reasons) for title, reasons in missing if reasons],
    )
    return Section("latency", "Latency, by batch size", "Latency", view)


class _Row(NamedTuple):
    """The baseline on one target, or a program."""

    name: str
    measured: Measurement
    look: str
    baseline: Measurement
    """The baseline on the same target."""


def _measured(record: BuildRecord) -> list[_Row]:
    """Return the baseline on every target, and every program; nothing if no program works."""
    fastest, others = f"{record.target}/{record.fastest}", record.other_baselines
    if record.baseline is None:
        return []
    rows = [_Row("baseline", record.baseline, "baseline", record.baseline)]
    rows += [
        _Row(f"baseline on {target}", measured, "other", measured)
        for target, measured in others.items()
    ]
    rows += [
        _Row(
            key,
            measured,
            "winner" if key == fastest else "other",
            others.get(key.rpartition("/")[0], record.baseline),
        )
        for key, measured in record.programs.items()
    ]
    return rows
