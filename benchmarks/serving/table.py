"""Serving benchmark as Markdown: speed and footprint, and the names of their figures."""

from __future__ import annotations

from benchmarks.harness.results import ERRORS, CaseResult, Figures, Run
from benchmarks.harness.table import report, table
from benchmarks.serving.contenders import CONTENDERS

CONCURRENCIES = (1, 16)
"""Requests in flight, in the order in which they are measured."""

LIMIT = "in-process"
"""Subject of the in-process limit."""

LIMIT_P50, LIMIT_P99 = "p50 ms at batch 1", "p99 ms at batch 1"
_IMAGES_PER_S = "images/s at batch "

PROCESS_TO_READY = "process to ready, s"
"""Figure: from the start of the computing process, as the kernel noted it, to the first 200."""
LAUNCH_TO_READY = "launch to ready, s"
"""Figure: from the command that starts everything to the first 200."""
COMPUTE_PEAK, PSS = "compute process, peak RSS MiB", "all processes, Pss MiB"
TORCH_PYTHON, COMPILERS = "`import torch`", "compilers run"

_BASE = "headrace"


def images_per_s(batch: int) -> str:
    """Return the name of the limit's throughput at a batch size."""
    return f"{_IMAGES_PER_S}{batch}"


def markdown(run: Run) -> str:
    """Return two tables, speed and footprint, below the machine."""
    (case,) = run.cases
    conditions = (
        f"{case.title}, one image of {case.facts['body_bytes']:,} bytes per request, one compute "
        "thread."
    )
    return report(run, conditions, [_speed(case), _footprint(case)])


def _speed(case: CaseResult) -> str:
    one, many = CONCURRENCIES
    medians = case.medians
    limit = medians[LIMIT]
    limit_ms = limit[LIMIT_P50]
    by_batch = {
        name.removeprefix(_IMAGES_PER_S): value
        for name, value in limit.items()
        if name.startswith(_IMAGES_PER_S)
    }
    batch = max(by_batch, key=lambda size: by_batch[size])
    best = by_batch[batch]
    rows = [
        [
            f"In-process limit (batch 1; batch {batch})",
            f"{limit_ms:.2f} / {limit[LIMIT_P99]:.2f}",
            f"{1e3 / limit_ms:.0f}",
            "1.00×",
            "",
            "",
            f"{best:.0f}",
            "100 %",
            "",
            "",
        ]
    ]
    for key in _contenders(case):
        figures = medians[key]
        p50, p99, rate = _load(figures, one)
        many_p50, many_p99, many_rate = _load(figures, many)
        ratios = ["", ""]
        if _BASE in medians:
            base_p50, base_rate = _load(medians[_BASE], one)[0], _load(medians[_BASE], many)[2]
            ratios = [f"{p50 / base_p50:.2f}×", f"{many_rate / base_rate:.2f}×"]
        rows.append(
            [
                _title(key),
                f"{p50:.2f} / {p99:.2f}",
                f"{rate:.0f}",
                f"{p50 / limit_ms:.2f}×",
                ratios[0],
                f"{many_p50:.1f} / {many_p99:.1f}",
                f"{many_rate:.0f}",
                f"{many_rate / best * 100:.0f} %",
                ratios[1],
                f"{figures[ERRORS]:.0f}",
            ]
        )
    header = [
        "",
        f"c={one}: p50 / p99 ms",
        "req/s",
        "p50 to limit",
        "p50 to Headrace",
        f"c={many}: p50 / p99 ms",
        "req/s",
        "of limit",
        "req/s to Headrace",
        "errors",
    ]
    return table(header, rows)


def _footprint(case: CaseResult) -> str:
    medians = case.medians
    rows = []
    for key in _contenders(case):
        figures = medians[key]
        compilers = [text for text in case.texts(key, COMPILERS) if text != "none"]
        rows.append(
            [
                _title(key),
                f"{figures[PROCESS_TO_READY]:.2f}",
                f"{figures[LAUNCH_TO_READY]:.1f}",
                f"{figures[COMPUTE_PEAK]:.0f}",
                f"{figures[PSS]:.0f}",
                "yes" if "yes" in case.texts(key, TORCH_PYTHON) else "no",
                ", ".join(compilers) or "none",
            ]
        )
    return table(
        ["", PROCESS_TO_READY, LAUNCH_TO_READY, COMPUTE_PEAK, PSS, TORCH_PYTHON, COMPILERS], rows
    )


def _contenders(case: CaseResult) -> list[str]:
    """Return the contenders in the order of their first measurement."""
    return [subject for subject in case.subjects if subject != LIMIT]


def _load(figures: Figures, concurrency: int) -> tuple[float, float, float]:
    """Return p50 ms, p99 ms and requests per second."""
    at = f"at c={concurrency}"
    return figures[f"p50 ms {at}"], figures[f"p99 ms {at}"], figures[f"req/s {at}"]


def _title(key: str) -> str:
    contender = CONTENDERS[key]
    return f"{contender.title} ({contender.weights})"
