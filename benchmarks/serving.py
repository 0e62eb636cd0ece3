"""Headrace beside its peers and the in-process limit, on this machine, in one run.

python -m benchmarks.serving [--rounds 3] [--seconds 8] [--only NAME ...]
                             [--json FILE] [--markdown FILE]

Exit status: 0 measured, 1 failed or some request was not answered with 200, 130 interrupted.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import signal
import sys
import tempfile
from importlib import util
from pathlib import Path
from types import FrameType

import numpy as np

from benchmarks import artifact, in_process, load, machine, one_round, reference, table
from benchmarks.contenders import CONTENDERS
from benchmarks.errors import BenchmarkError
from benchmarks.images import request_images
from benchmarks.results import CONCURRENCIES, Limit, Round, Run
from cluster.errors import HeadraceError


def main() -> int:
    """The command line; returns the exit status."""
    options = _options()
    signal.signal(signal.SIGTERM, _interrupt)  # so that it, too, stops what was started
    try:
        run = measure(options.only, options.rounds, options.seconds)
    except (BenchmarkError, HeadraceError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("interrupted; everything that was started is stopped", file=sys.stderr)
        return 130
    text = table.markdown(run)
    print(f"\n{text}")
    if options.json is not None:
        options.json.write_text(json.dumps(dataclasses.asdict(run), indent=1) + "\n")
    if options.markdown is not None:
        options.markdown.write_text(text)
    if run.errors:
        print(f"error: {run.errors} requests were not answered with 200", file=sys.stderr)
        return 1
    return 0


def measure(keys: list[str], rounds: int, seconds: int) -> Run:
    """Run every contender once per round, one at a time.

    Each round begins with another one, so that none always has the machine just warmed up.
    """
    load.wrk()
    _require_installed(keys)
    described = machine.describe()
    artifact_id = artifact.find_or_build().id
    if artifact_id is None:
        raise BenchmarkError("the artifact has no id")
    limits: list[Limit] = []
    measured: list[Round] = []
    with tempfile.TemporaryDirectory(prefix="headrace-") as directory:
        scratch = Path(directory)
        bodies = _write_bodies(scratch)
        expected = {
            weights: reference.logits(artifact_id, weights, scratch)
            for weights in dict.fromkeys(CONTENDERS[key].weights for key in keys)
        }
        for number in range(1, rounds + 1):
            limits.append(in_process.measure(artifact_id, seconds))
            _say(number, "in-process", _limit_line(limits[-1]))
            first = (number - 1) % len(keys)
            for key in keys[first:] + keys[:first]:
                contender = CONTENDERS[key]
                answers = expected[contender.weights]
                one = one_round.measure(contender, number, artifact_id, bodies, answers, seconds)
                measured.append(one)
                _say(number, key, _round_line(one))
    settings = {
        "rounds": rounds,
        "seconds": seconds,
        "concurrencies": CONCURRENCIES,
        "compute_threads": in_process.COMPUTE_THREADS,
        "artifact": artifact_id,
        "body_bytes": request_images(1).nbytes,
    }
    return Run(described, settings, tuple(limits), tuple(measured))


def _write_bodies(scratch: Path) -> list[Path]:
    bodies = []
    for number, image in enumerate(request_images(reference.IMAGES)):
        bodies.append(scratch / f"body-{number}")
        bodies[-1].write_bytes(np.ascontiguousarray(image).tobytes())
    return bodies


def _require_installed(keys: list[str]) -> None:
    missing = [key for key in ("litserve", "mosec") if key in keys and util.find_spec(key) is None]
    if missing:
        raise BenchmarkError(
            f"{' and '.join(missing)} not installed: .uv/bin/uv pip install -e '.[bench]', "
            "or leave out with --only"
        )


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.serving")
    parser.add_argument("--rounds", type=int, default=table.ENOUGH_ROUNDS)
    parser.add_argument("--seconds", type=int, default=8, help="of load, per concurrency")
    parser.add_argument("--only", nargs="+", choices=list(CONTENDERS), default=list(CONTENDERS))
    parser.add_argument("--json", type=Path, help="write every round here")
    parser.add_argument("--markdown", type=Path, help="write the tables here")
    options = parser.parse_args()
    if options.rounds < 1 or options.seconds < 1:
        parser.error(
            f"--rounds {options.rounds} --seconds {options.seconds}: both must be 1 or more"
        )
    return options


def _interrupt(number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt


def _say(number: int, who: str, what: str) -> None:
    print(f"round {number}  {who:<16} {what}", flush=True)


def _limit_line(limit: Limit) -> str:
    return f"p50 {limit.batch_1_p50_ms:.2f} ms, {limit.best_images_per_s:.0f} images/s"


def _round_line(one: Round) -> str:
    loads = [
        f"c={n}: p50 {load.p50_ms:.2f} ms, {load.requests_per_s:.0f} req/s, {load.errors} errors"
        for n, load in one.loads.items()
    ]
    return "; ".join([*loads, f"ready after {one.start.process_to_ready_s:.2f} s"])


if __name__ == "__main__":
    sys.exit(main())
