"""A run as Markdown: medians over its rounds, and their ratios."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from benchmarks.contenders import CONTENDERS
from benchmarks.results import CONCURRENCIES, Run

ENOUGH_ROUNDS = 3
"""Rounds below which a median is no more than a trial."""

_BASE = "headrace"


def markdown(run: Run) -> str:
    """Two tables, speed and footprint, with the machine above and notes below."""
    parts = [_machine(run), _speed(run), _footprint(run)]
    if len(run.limits) < ENOUGH_ROUNDS:
        parts.insert(0, f"**A trial of {len(run.limits)} round(s), not a measurement.**")
    return "\n\n".join(parts) + "\n"


def _machine(run: Run) -> str:
    machine, settings = run.machine, run.settings
    versions = ", ".join(f"{name} {found}" for name, found in machine["versions"].items() if found)
    return (
        f"ResNet-18 at 224×224, one image of {settings['body_bytes']:,} bytes per request, one "
        f"compute thread. {machine['cpu']}, {machine['cores']} cores, {machine['date'][:10]}. "
        f"Medians of {settings['rounds']} rounds of {settings['seconds']:g} s. {versions}."
    )


def _speed(run: Run) -> str:
    one, many = CONCURRENCIES
    limit_ms = run.middle_limit(lambda limit: limit.batch_1_p50_ms)
    limit_p99_ms = run.middle_limit(lambda limit: limit.batch_1_p99_ms)
    best = run.best_images_per_s
    title = f"In-process limit (batch 1; batch {run.best_batch})"
    rows = [
        [title, f"{limit_ms:.2f} / {limit_p99_ms:.2f}", f"{1e3 / limit_ms:.0f}", "1.00×", "",
         "", f"{best:.0f}", "100 %", "", ""]
    ]  # fmt: skip
    compared = _BASE in run.contenders
    for key in run.contenders:
        p50, p99, rate = (_middle(run, key, one, name) for name in _METRICS)
        many_p50, many_p99, many_rate = (_middle(run, key, many, name) for name in _METRICS)
        versus = ["", ""]
        if compared:
            versus = [
                f"{p50 / _middle(run, _BASE, one, 'p50_ms'):.2f}×",
                f"{many_rate / _middle(run, _BASE, many, 'requests_per_s'):.2f}×",
            ]
        errors = sum(load.errors for found in run.of(key) for load in found.loads.values())
        rows.append(
            [_title(key), f"{p50:.2f} / {p99:.2f}", f"{rate:.0f}", f"{p50 / limit_ms:.2f}×",
             versus[0], f"{many_p50:.1f} / {many_p99:.1f}", f"{many_rate:.0f}",
             f"{many_rate / best:.0%}".replace("%", " %"), versus[1], str(errors)]
        )  # fmt: skip
    header = [
        "", f"c={one}: p50 / p99 ms", "req/s", "p50 to limit", "p50 to Headrace",
        f"c={many}: p50 / p99 ms", "req/s", "of limit", "req/s to Headrace", "errors",
    ]  # fmt: skip
    return _table(header, rows)


_METRICS = ("p50_ms", "p99_ms", "requests_per_s")


def _footprint(run: Run) -> str:
    rows = []
    for key in run.contenders:
        found = run.of(key)
        compilers = sorted({name for one in found for name in one.start.compilers})
        loaded = any(one.footprint.torch_python_loaded for one in found)
        rows.append(
            [
                _title(key),
                f"{run.middle(key, lambda one: one.start.process_to_ready_s):.2f}",
                f"{run.middle(key, lambda one: one.start.launch_to_ready_s):.1f}",
                f"{run.middle(key, lambda one: one.footprint.compute_peak_mib):.0f}",
                f"{run.middle(key, lambda one: one.footprint.all_pss_mib):.0f}",
                "yes" if loaded else "no",
                ", ".join(compilers) or "none",
            ]
        )
    header = [
        "", "process to ready, s", "launch to ready, s", "compute process, peak RSS MiB",
        "all processes, Pss MiB", "`import torch`", "compilers run",
    ]  # fmt: skip
    return _table(header, rows)


def _middle(run: Run, key: str, concurrency: int, metric: str) -> float:
    return run.middle(key, lambda one: getattr(one.loads[concurrency], metric))


def _title(key: str) -> str:
    contender = CONTENDERS[key]
    return f"{contender.title} ({contender.weights})"


def _table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [header, ["---", *["---:"] * (len(header) - 1)], *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)
