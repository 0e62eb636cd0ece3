"""Command line of every benchmark.

    arguments → Benchmark.configure → settings → case by case → JSON after each → Markdown

A case that the JSON file holds is not measured again, so a stopped run continues where it was.
Exit status: 0 all goals met, 1 a failed case, a missed goal or a request without a 200,
130 interrupted.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from types import FrameType
from typing import Any

from benchmarks.harness import machine, rounds
from benchmarks.harness.case import Benchmark, Case, Context
from benchmarks.harness.errors import BenchmarkError
from benchmarks.harness.results import CaseResult, Run, resumed
from cluster.artifact.store import default_store
from cluster.errors import HeadraceError

_STORE_VARIABLE = "HEADRACE_STORE"


def main(benchmark: Benchmark, arguments: Sequence[str] | None = None) -> int:
    """Run the benchmark with these arguments, by default those of the process."""
    options = _options(benchmark, arguments)
    signal.signal(signal.SIGTERM, _interrupt)  # so that it, too, stops what was started
    os.environ[_STORE_VARIABLE] = options.store  # for every process that is started
    try:
        settings = _settings(benchmark, options)
        described = machine.describe(benchmark.packages)
        fresh = Run(benchmark=benchmark.name, machine=described, settings=settings)
        run = resumed(options.json, fresh)
        for key in options.only:
            if run.case(key) is not None and not options.again:
                print(f"{key}: measured before, see {options.json}", flush=True)
                continue
            run = _with_case(run, key, benchmark.cases[key], options)
            if options.json is not None:
                run.write(options.json)
    except (BenchmarkError, HeadraceError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        written = "" if options.json is None else f"; finished cases are in {options.json}"
        print(f"interrupted; all started processes are stopped{written}", file=sys.stderr)
        return 130
    return _report(benchmark, run, options.markdown)


def measure(
    key: str, case: Case, settings: dict[str, Any], options: argparse.Namespace
) -> CaseResult:
    """Prepare the case and measure its rounds; BenchmarkError or HeadraceError if it fails."""
    print(f"\n=== {case.title}", flush=True)
    with tempfile.TemporaryDirectory(prefix="headrace-") as directory:
        prepared = case.prepare(Context(options.store, Path(directory), settings, options))
        count = settings.get("rounds", 1)
        measurements, failures = rounds.measure(
            prepared.turns, count, prepared.optional, lambda line: print(line, flush=True)
        )
        result = CaseResult(
            key=key,
            title=case.title,
            notes=case.notes,
            facts=dict(prepared.facts),
            rounds=measurements,
            failures=failures,
        )
        goals = tuple(prepared.goals(result.medians))
    return result.model_copy(update={"goals": goals})


def _with_case(run: Run, key: str, case: Case, options: argparse.Namespace) -> Run:
    try:
        return run.with_case(measure(key, case, run.settings, options))
    except (BenchmarkError, HeadraceError) as error:
        print(f"error: {key}: {error}", file=sys.stderr, flush=True)
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        return run.model_copy(update={"failures": {**run.failures, key: reason}})


def _report(benchmark: Benchmark, run: Run, file: Path | None) -> int:
    text = benchmark.markdown(run) if run.cases else ""
    print(f"\n{text}")
    if file is not None:
        file.write_text(text)
    if run.errors:
        print(f"error: {run.errors} requests did not get status 200", file=sys.stderr)
    for line in run.missed:
        print(f"missed: {line}", file=sys.stderr)
    incomplete = run.failures or any(case.failures for case in run.cases)
    return 1 if incomplete or run.errors or run.missed else 0


def _settings(benchmark: Benchmark, options: argparse.Namespace) -> dict[str, Any]:
    settings: dict[str, Any] = {"quick": options.quick} if benchmark.has_quick else {}
    for setting in benchmark.settings:
        value = getattr(options, setting.name)
        if value is None:
            value = setting.quick if options.quick else setting.default
        settings[setting.name] = value
    return settings | benchmark.configure(options)


def _options(benchmark: Benchmark, arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog=f"python -m benchmarks.{benchmark.name}")
    cases = list(benchmark.cases)
    by_default = [key for key in cases if key not in benchmark.on_request]
    if len(cases) > 1:
        parser.add_argument("--only", nargs="+", choices=cases, default=by_default, metavar="CASE")
    for setting in benchmark.settings:
        quick = f"; with --quick {setting.quick}" if benchmark.has_quick else ""
        parser.add_argument(
            f"--{setting.name}",
            type=_positive,
            help=f"{setting.help} (default {setting.default}{quick})",
        )
    if benchmark.has_quick:
        parser.add_argument("--quick", action="store_true", help="prove only that everything runs")
    benchmark.extend(parser)
    parser.add_argument("--store", default=default_store(), help="directory of the artifacts")
    parser.add_argument("--json", type=Path, help="write every round here, and continue from it")
    parser.add_argument("--again", action="store_true", help="repeat cases that the file holds")
    parser.add_argument("--markdown", type=Path, help="write the tables here")
    parser.set_defaults(quick=False)
    if len(cases) == 1:
        parser.set_defaults(only=cases)
    options = parser.parse_args(arguments)
    options.store = str(Path(options.store).expanduser().absolute())
    return options


def _positive(text: str) -> int:
    try:
        value = int(text)
    except ValueError:
        value = 0
    if value < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not an integer of 1 or more")
    return value


def _interrupt(number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt
