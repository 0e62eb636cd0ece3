"""One model over two shards, beside one replica and beside its peers, held against its goals.

python -m benchmarks.parallelism [--only CASE ...] [--rounds 3] [--seconds 10] [--store DIRECTORY]
                                 [--accelerate PYTHON] [--json FILE] [--markdown FILE] [--quick]

The JSON file is written after every case, and a case that stands there is not measured again, so
a run that was stopped goes on where it was. ``--quick`` only proves that everything runs, on tiny
models. Exit status: 0 every goal met, 1 a case failed or missed a goal, 130 interrupted.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import signal
import subprocess
import sys
import tempfile
from dataclasses import replace
from pathlib import Path
from types import FrameType

from pydantic import TypeAdapter, ValidationError

from benchmarks import load, machine
from benchmarks.compression_build import Builder
from benchmarks.errors import BenchmarkError
from benchmarks.parallelism.cases import ACCELERATE, CASES, Case
from benchmarks.parallelism.results import (
    CUT,
    SERVED_BATCH,
    WHOLE,
    CaseResult,
    Predicted,
    Round,
    Run,
)
from benchmarks.parallelism.subjects import Bench
from benchmarks.parallelism.table import ENOUGH_ROUNDS, markdown, missed
from cluster.artifact.layout import Layout
from cluster.artifact.manifest import Manifest
from cluster.artifact.store import default_store, open_store
from cluster.errors import HeadraceError
from cluster.parallel.devices import Device
from cluster.parallel.plan import plan

_STORE_VARIABLE = "HEADRACE_STORE"


def main() -> int:
    """The command line; returns the exit status."""
    options = _options()
    signal.signal(signal.SIGTERM, _interrupt)  # so that it, too, stops what was started
    os.environ[_STORE_VARIABLE] = options.store  # of everything that is started
    try:
        load.wrk()
        run = _begun(options.json, Run(machine.describe(), _settings(options)))
        for key in options.only:
            if key in {case.key for case in run.cases}:
                print(f"{key}: measured before, see {options.json}", flush=True)
                continue
            case = CASES[key].quick() if options.quick else CASES[key]
            try:
                found = measure(case, options)
                run = replace(run, cases=(*run.cases, found))
            except (BenchmarkError, HeadraceError) as error:
                print(f"error: {key}: {error}", file=sys.stderr, flush=True)
                reason = (str(error).splitlines() or [type(error).__name__])[0]
                run = replace(run, failures=(*run.failures, f"{key}: {reason}"))
            if options.json is not None:
                options.json.write_text(json.dumps(dataclasses.asdict(run), indent=1) + "\n")
    except BenchmarkError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("interrupted; everything that was started is stopped", file=sys.stderr)
        return 130
    text = markdown(run)
    print(f"\n{text}")
    if options.markdown is not None:
        options.markdown.write_text(text)
    errors = sum(case.errors for case in run.cases)
    if errors:
        print(f"error: {errors} requests were not answered with 200", file=sys.stderr)
    for line in missed(run):
        print(f"missed: {line}", file=sys.stderr)
    failed = run.failures or any(case.failures for case in run.cases)
    return 1 if failed or missed(run) or errors else 0


def _begun(file: Path | None, fresh: Run) -> Run:
    """What an earlier run left, or nothing yet; BenchmarkError if it does not go with this run."""
    if file is None or not file.exists():
        return fresh
    try:
        found = TypeAdapter(Run).validate_json(file.read_bytes())
    except ValidationError as error:
        raise BenchmarkError(
            f"{file} is not a result of this benchmark: {error}; name another with --json"
        ) from error
    if (found.machine["cpu"], found.settings) != (fresh.machine["cpu"], fresh.settings):
        raise BenchmarkError(
            f"{file} was measured on {found.machine['cpu']} with {found.settings}, this is "
            f"{fresh.machine['cpu']} with {fresh.settings}; name another with --json"
        )
    return replace(found, failures=())


def measure(case: Case, options: argparse.Namespace) -> CaseResult:
    """Build the case's artifact, or find it, and run every subject once per round.

    Each round begins with another subject, so that none always has the machine just warmed up.
    """
    print(f"\n=== {case.title}", flush=True)
    artifact_id = Builder(options.store).build(case.title, case.recipe()).artifact
    manifest = open_store(options.store).open(artifact_id).manifest
    cut = (case.pipeline, case.tensor)
    layout = next(one for one in manifest.layouts if (one.pipeline, one.tensor) == cut)
    subjects = [one for one in case.subjects if one != ACCELERATE or options.accelerate]
    rounds: list[Round] = []
    failures: dict[str, str] = {}
    with tempfile.TemporaryDirectory(prefix="headrace-") as directory:
        python = options.accelerate or sys.executable
        bench = Bench.of(case, artifact_id, Path(directory), options.seconds, python)
        for number in range(1, options.rounds + 1):
            first = (number - 1) % len(subjects)
            for subject in subjects[first:] + subjects[:first]:
                if subject in failures:
                    continue
                try:
                    rounds.append(bench.measure(subject, number))
                except BenchmarkError as error:
                    if subject in (WHOLE, CUT):
                        raise
                    failures[subject] = str(error)  # the rest is measured without this peer
                    print(f"round {number}  {subject:<18}failed: {error}", flush=True)
                else:
                    print(f"round {number}  {subject:<18}{_line(rounds[-1])}", flush=True)
    return CaseResult(
        key=case.key,
        title=case.title,
        artifact=artifact_id,
        layout=layout.key,
        pipeline=case.pipeline,
        tensor=case.tensor,
        after=layout.after,
        predicted=_predicted(manifest, layout),
        rounds=tuple(rounds),
        failures=failures,
    )


def _predicted(manifest: Manifest, layout: Layout) -> Predicted:
    devices = [Device(layout.target, None, 0)] * len(layout.shards)
    alone, many = (
        plan(manifest, devices, pipeline=layout.pipeline, tensor=layout.tensor, batch=batch)
        for batch in (1, SERVED_BATCH)
    )
    return Predicted(alone.latency_ms, many.items_per_s, layout.stage_ms(1))


def _line(one: Round) -> str:
    rates = ", ".join(f"{rate:.2f}/s in {n}s" for n, rate in one.fed.items_per_s.items())
    loads = [
        f"c={n}: p50 {load.p50_ms:.1f} ms, {load.requests_per_s:.2f} req/s, {load.errors} errors"
        for n, load in one.loads.items()
    ]
    return "; ".join([f"{one.fed.latency_ms:.2f} ms, {rates}", *loads])


def _settings(options: argparse.Namespace) -> dict[str, object]:
    return {
        "rounds": options.rounds,
        "seconds": options.seconds,
        "quick": options.quick,
        "accelerate": options.accelerate and _accelerate_version(options.accelerate),
    }


def _accelerate_version(python: str) -> str:
    """The version that an interpreter has, or nothing."""
    asked = "from importlib.metadata import version; print(version('accelerate'))"
    done = subprocess.run([python, "-c", asked], capture_output=True, text=True, check=False)
    return done.stdout.strip()


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.parallelism")
    parser.add_argument("--only", nargs="+", choices=list(CASES), default=list(CASES))
    parser.add_argument("--rounds", type=int, help=f"{ENOUGH_ROUNDS}; with --quick 1")
    parser.add_argument("--seconds", type=int, help="of every measurement: 10; with --quick 1")
    parser.add_argument("--store", default=default_store(), help="where artifacts are kept")
    parser.add_argument(
        "--accelerate",
        metavar="PYTHON",
        default=sys.executable,
        help="interpreter that has Accelerate besides what this one has; left out if it has not",
    )
    parser.add_argument("--json", type=Path, help="write every round here")
    parser.add_argument("--markdown", type=Path, help="write the tables here")
    parser.add_argument("--quick", action="store_true", help="tiny models: does everything run?")
    options = parser.parse_args()
    if options.rounds is None:
        options.rounds = 1 if options.quick else ENOUGH_ROUNDS
    if options.seconds is None:
        options.seconds = 1 if options.quick else 10
    if options.rounds < 1 or options.seconds < 1:
        parser.error(
            f"--rounds {options.rounds} --seconds {options.seconds}: both must be 1 or more"
        )
    if not _accelerate_version(options.accelerate):
        print(f"without Accelerate, which {options.accelerate} does not have", file=sys.stderr)
        options.accelerate = None
    options.store = str(Path(options.store).expanduser().absolute())
    return options


def _interrupt(number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt


if __name__ == "__main__":
    sys.exit(main())
