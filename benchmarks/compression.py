"""What compression reaches on real models, held against its goals.

python -m benchmarks.compression [--only NAME ...] [--tiny] [--again] [--store DIRECTORY]
                                 [--json FILE] [--markdown FILE]

Every case is written to the JSON file as soon as it is done, and a case that stands there is not
run again, so a run that was stopped goes on where it was. ``--tiny`` only proves that the cases
run. Exit status: 0 every goal met, 1 a case failed or missed a goal, 130 interrupted.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
import time
from datetime import UTC, datetime
from pathlib import Path
from types import FrameType
from typing import Any

from pydantic import ValidationError

from benchmarks.compression_build import Builder
from benchmarks.compression_cases import CASES
from benchmarks.compression_cuda import CUDA_CASES
from benchmarks.compression_results import CaseResult, Results
from benchmarks.compression_table import markdown
from benchmarks.errors import BenchmarkError
from cluster.artifact.store import default_store
from cluster.compression import origin
from cluster.errors import HeadraceError
from cluster.program import node

EVERYWHERE = {**CASES, **CUDA_CASES}


def main() -> int:
    """The command line; returns the exit status."""
    options = _options()
    signal.signal(signal.SIGTERM, _interrupt)  # so that it, too, stops what was started
    builder = Builder(options.store, options.tiny)
    failed = []
    try:
        results = _read(options.json, options.tiny)
        for key in options.only:
            if key in results.cases and not options.again:
                print(f"{key}: measured before, see {options.json}", flush=True)
                continue
            try:
                case = measure(key, builder)
            except (BenchmarkError, HeadraceError) as error:
                print(f"error: {key}: {error}", file=sys.stderr, flush=True)
                failed.append(key)
                continue
            results = results.model_copy(update={"cases": {**results.cases, key: case}})
            _write(options.json, results.model_dump_json(indent=1) + "\n")
    except (BenchmarkError, HeadraceError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print(f"interrupted; what is done stands in {options.json}", file=sys.stderr)
        return 130
    text = markdown(results)
    print(f"\n{text}")
    if options.markdown is not None:
        _write(options.markdown, text)
    for line in results.missed:
        print(f"missed: {line}", file=sys.stderr)
    return 1 if failed or results.missed else 0


def measure(key: str, builder: Builder) -> CaseResult:
    """Run one case. BenchmarkError or HeadraceError if it cannot be run to its end."""
    case = EVERYWHERE[key]
    print(f"\n=== {case.title} (about {case.minutes} minutes)", flush=True)
    started = time.monotonic()
    builds, goals = case.run(builder)
    return CaseResult(
        key=key,
        title=case.title,
        builds=builds,
        goals=goals,
        tiny=builder.tiny,
        seconds=round(time.monotonic() - started, 1),
        date=datetime.now(UTC).isoformat(timespec="seconds"),
    )


def _read(file: Path, tiny: bool) -> Results:
    """What an earlier run left, or nothing yet; BenchmarkError if it does not go with this run."""
    fresh = Results(machine=_machine())
    if not file.exists():
        return fresh
    try:
        found = Results.model_validate_json(file.read_bytes())
    except ValidationError as error:
        raise BenchmarkError(
            f"{file} is not a result of this benchmark: {error}; name another with --json"
        ) from error
    if found.machine["cpu"] != fresh.machine["cpu"]:
        raise BenchmarkError(
            f"{file} was measured on {found.machine['cpu']}, this is {fresh.machine['cpu']}; name "
            "another with --json"
        )
    if any(case.tiny != tiny for case in found.cases.values()):
        raise BenchmarkError(
            f"{file} holds {'full' if tiny else 'tiny'} runs; name another with --json"
        )
    return found


def _write(file: Path, text: str) -> None:
    # A rename, so that a run that is stopped here leaves the cases before this one.
    beside = file.with_name(file.name + ".new")
    beside.write_text(text)
    beside.replace(file)


def _machine() -> dict[str, Any]:
    return {
        "cpu": node.cpu_name(),
        "cores": len(os.sched_getaffinity(0)),
        "targets": list(node.targets()),
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "versions": origin.versions(),
    }


def _interrupt(number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.compression")
    parser.add_argument("--only", nargs="+", choices=list(EVERYWHERE), default=list(CASES))
    parser.add_argument("--tiny", action="store_true", help="few samples: does everything run?")
    parser.add_argument("--again", action="store_true", help="measure what was measured before")
    parser.add_argument("--store", default=default_store(), help="where artifacts are kept")
    parser.add_argument("--json", type=Path, default=Path("compression.json"))
    parser.add_argument("--markdown", type=Path, help="write the tables here")
    options = parser.parse_args()
    options.store = str(Path(options.store).absolute())
    return options


if __name__ == "__main__":
    sys.exit(main())
