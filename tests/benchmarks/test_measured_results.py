"""Committed results: their JSON gives the tables beside it, and those of the README."""

from __future__ import annotations

import importlib
from pathlib import Path

import pytest

from benchmarks.harness.case import Benchmark
from benchmarks.harness.results import Run, read

ROOT = Path(__file__).parents[2]
MEASURED = sorted((ROOT / "benchmarks" / "measured").glob("*.json"))


def tables(file: Path) -> str:
    run: Run = read(file)
    command = importlib.import_module(f"benchmarks.{run.benchmark}.__main__")
    benchmark: Benchmark = command.BENCHMARK
    return benchmark.markdown(run)


@pytest.mark.parametrize("file", MEASURED, ids=lambda file: file.stem)
def test_committed_json_gives_committed_tables(file: Path) -> None:
    assert tables(file) == file.with_suffix(".md").read_text()


def test_every_benchmark_of_the_readme_has_results() -> None:
    names = {file.stem.partition("-")[0] for file in MEASURED}
    assert names == {"serving", "compression", "parallelism", "router"}


def test_readme_shows_the_serving_tables() -> None:
    (file,) = [file for file in MEASURED if file.stem.startswith("serving")]
    readme = (ROOT / "README.md").read_text().splitlines()
    rows = [line for line in tables(file).splitlines() if line.startswith("| ")]
    assert len(rows) > 10
    assert [row for row in rows if row not in readme] == []
