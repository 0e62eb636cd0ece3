"""Ratios, medians and notes of the serving benchmark's tables."""

from __future__ import annotations

import benchmark_runs as runs

from benchmarks.harness.results import CaseResult, Figures, Measurement, Run
from benchmarks.serving.table import (
    COMPILERS,
    COMPUTE_PEAK,
    LAUNCH_TO_READY,
    LIMIT,
    LIMIT_P50,
    LIMIT_P99,
    PROCESS_TO_READY,
    PSS,
    TORCH_PYTHON,
    images_per_s,
    markdown,
)


def load(concurrency: int, p50_ms: float, requests_per_s: float) -> Figures:
    at = f"at c={concurrency}"
    return {f"p50 ms {at}": p50_ms, f"p99 ms {at}": 2 * p50_ms, f"req/s {at}": requests_per_s}


def contender(
    key: str, number: int, one: Figures, many: Figures, errors: int = 0, torch: bool = False
) -> Measurement:
    footprint = {PROCESS_TO_READY: float(number), LAUNCH_TO_READY: 10.0}
    memory = {COMPUTE_PEAK: 400.0, PSS: 900.0, "errors": float(errors)}
    texts = {TORCH_PYTHON: "yes" if torch else "no", COMPILERS: "g++" if torch else "none"}
    figures = one | many | footprint | memory
    return Measurement(subject=key, number=number, figures=figures, texts=texts)


def run(rounds: int = 3, errors: int = 0) -> Run:
    limit = {LIMIT_P50: 4.0, LIMIT_P99: 5.0, images_per_s(1): 250.0, images_per_s(8): 400.0}
    measured = list(runs.measurements(LIMIT, *[limit] * rounds))
    for number in range(1, rounds + 1):
        # The last round is an outlier, which a mean would show and a median does not.
        off = 10.0 if number == 3 else 1.0
        measured.append(
            contender("headrace", number, load(1, 5 * off, 200 / off), load(16, 50, 320))
        )
        measured.append(
            contender(
                "ray-serve-fp32", number, load(1, 50, 20), load(16, 800, 20), errors, torch=True
            )
        )
    case = CaseResult(
        key="resnet18",
        title="ResNet-18 at 224×224",
        facts={"body_bytes": 602112},
        rounds=tuple(measured),
    )
    return runs.run("serving", case, rounds=rounds)


def test_speed_is_relative_to_limit_and_headrace() -> None:
    text = markdown(run())
    limit = runs.row(text, "In-process")
    assert limit[:4] == ["In-process limit (batch 1; batch 8)", "4.00 / 5.00", "250", "1.00×"]
    headrace = ["5.00 / 10.00", "200", "1.25×", "1.00×", "50.0 / 100.0", "320", "80 %", "1.00×"]
    assert runs.row(text, "Headrace")[1:] == [*headrace, "0"]
    ray = ["50.00 / 100.00", "20", "12.50×", "10.00×", "800.0 / 1600.0", "20", "5 %", "0.06×"]
    assert runs.row(text, "Ray Serve")[1:] == [*ray, "0"]


def test_footprint_shows_memory_start_and_compilers() -> None:
    text = markdown(run())
    assert runs.row(text, "Headrace", 1)[1:] == ["2.00", "10.0", "400", "900", "no", "none"]
    assert runs.row(text, "Ray Serve", 1)[-2:] == ["yes", "g++"]


def test_errors_are_summed_over_rounds() -> None:
    failed = run(errors=2)
    assert failed.errors == 6
    assert runs.row(markdown(failed), "Ray Serve")[-1] == "6"


def test_fewer_than_three_rounds_are_a_trial() -> None:
    assert "A trial of 2 rounds," in markdown(run(rounds=2))
    assert "trial" not in markdown(run())
