"""Ratios and medians in the tables are those of the rounds."""

from __future__ import annotations

from benchmarks.results import Footprint, Limit, Load, Round, Run, Start
from benchmarks.table import markdown

MACHINE = {"cpu": "A CPU", "cores": 2, "date": "2026-01-02T03:04:05+00:00", "versions": {}}
SETTINGS = {"rounds": 3, "seconds": 8, "body_bytes": 602112}


def load(p50_ms: float, requests_per_s: float, non_200: int = 0) -> Load:
    return Load(100, requests_per_s, p50_ms, 2 * p50_ms, 9 * p50_ms, non_200, 0)


def one_round(key: str, number: int, alone: Load, many: Load, torch: bool = False) -> Round:
    start = Start(10.0, float(number), ("g++",) if torch else ())
    footprint = Footprint(400.0, 900.0, 3, 1234, torch)
    return Round(key, number, 0.0, start, {1: alone, 16: many}, footprint)


def run(rounds: int = 3, non_200: int = 0) -> Run:
    limits = [Limit(4.0, 5.0, {1: 250.0, 8: 400.0}) for _ in range(rounds)]
    measured = []
    for number in range(1, rounds + 1):
        # The last round is an outlier, which a mean would show and a median does not.
        off = 10.0 if number == 3 else 1.0
        measured.append(one_round("headrace", number, load(5 * off, 200 / off), load(50, 320)))
        measured.append(
            one_round("ray-serve-fp32", number, load(50, 20), load(800, 20, non_200), torch=True)
        )
    return Run(MACHINE, SETTINGS, tuple(limits), tuple(measured))


def row(text: str, title: str, table: int) -> list[str]:
    found = [line for line in text.splitlines() if line.startswith(f"| {title}")]
    return [cell.strip() for cell in found[table].strip("|").split("|")]


def test_speed_is_compared_with_the_limit_and_with_headrace() -> None:
    text = markdown(run())
    assert row(text, "In-process", 0)[:4] == [
        "In-process limit (batch 1; batch 8)", "4.00 / 5.00", "250", "1.00×",
    ]  # fmt: skip
    assert row(text, "Headrace", 0)[1:] == [
        "5.00 / 10.00", "200", "1.25×", "1.00×", "50.0 / 100.0", "320", "80 %", "1.00×", "0",
    ]  # fmt: skip
    assert row(text, "Ray Serve", 0)[1:] == [
        "50.00 / 100.00", "20", "12.50×", "10.00×", "800.0 / 1600.0", "20", "5 %", "0.06×", "0",
    ]  # fmt: skip


def test_footprint_tells_memory_start_and_compilation() -> None:
    text = markdown(run())
    assert row(text, "Headrace", 1)[1:] == ["2.00", "10.0", "400", "900", "no", "none"]
    assert row(text, "Ray Serve", 1)[-2:] == ["yes", "g++"]


def test_requests_that_failed_are_summed_over_the_rounds() -> None:
    failed = run(non_200=2)
    assert failed.errors == 6
    assert row(markdown(failed), "Ray Serve", 0)[-1] == "6"


def test_fewer_than_three_rounds_are_called_a_trial() -> None:
    assert "A trial of 2 round(s)" in markdown(run(rounds=2))
    assert "trial" not in markdown(run())
