"""Routes over HTTP, held against their goals.

python -m benchmarks.router [--only CASE ...] [--rounds 3] [--seconds 8] [--store DIRECTORY]
                            [--json FILE] [--markdown FILE]

Exit status: 0 every goal met, 1 a case failed or missed a goal, 130 interrupted.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import signal
import sys
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import FrameType

from benchmarks import load, machine
from benchmarks.compression_build import Builder
from benchmarks.errors import BenchmarkError
from benchmarks.goal import Goal
from benchmarks.router import cascade, fan_out, hedge, rate
from benchmarks.router.results import CaseResult, Figures, Run, medians
from benchmarks.router.table import ENOUGH_ROUNDS, markdown
from cluster.artifact.store import default_store
from cluster.errors import HeadraceError

_STORE_VARIABLE = "HEADRACE_STORE"


@dataclasses.dataclass(frozen=True)
class Case:
    """What is measured, and what is asked of it."""

    title: str
    prepared: Callable[[Builder, Path, int], Callable[[], Figures]]
    goals: Callable[[Figures], tuple[Goal, ...]]
    notes: tuple[str, ...] = ()


CASES = {
    "fan-out": Case("Ensemble of two int8 ResNet-18", fan_out.prepared, fan_out.goals),
    "rate": Case("A model that costs nothing", rate.prepared, rate.goals),
    "cascade": Case(
        "Cascade on CIFAR-10: ResNet-20 in int8, ResNet-56",
        partial(cascade.prepared, True, False), cascade.goals, cascade.NOTES,
    ),
    "cascade-float32": Case(
        "Cascade on CIFAR-10: ResNet-20, ResNet-56",
        partial(cascade.prepared, False, False), cascade.goals, cascade.NOTES,
    ),
    "cascade-int8": Case(
        "Cascade on CIFAR-10: ResNet-20 in int8, ResNet-56 in int8",
        partial(cascade.prepared, True, True), cascade.goals, cascade.NOTES,
    ),
    "hedge": Case(
        "Two replicas of ResNet-18, one ten times slower", hedge.prepared, hedge.goals,
        ("One request at a time.",),
    ),
}  # fmt: skip


def main() -> int:
    """The command line; returns the exit status."""
    options = _options()
    signal.signal(signal.SIGTERM, _interrupt)  # so that it, too, stops what was started
    os.environ[_STORE_VARIABLE] = options.store  # of everything that is started
    settings = {"rounds": options.rounds, "seconds": options.seconds}
    try:
        load.wrk()
        run = Run(machine.describe(), settings)
        for key in options.only:
            run = dataclasses.replace(run, cases=(*run.cases, measure(key, options)))
            if options.json is not None:
                options.json.write_text(_plain(run))
    except (BenchmarkError, HeadraceError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("interrupted; everything that was started is stopped", file=sys.stderr)
        return 130
    text = markdown(run)
    print(f"\n{text}")
    if options.markdown is not None:
        options.markdown.write_text(text)
    for line in run.missed:
        print(f"missed: {line}", file=sys.stderr)
    return 1 if run.missed else 0


def measure(key: str, options: argparse.Namespace) -> CaseResult:
    """Build what the case stands on, or find it, and run it once per round."""
    case = CASES[key]
    print(f"\n=== {case.title}", flush=True)
    rounds: list[Figures] = []
    with tempfile.TemporaryDirectory(prefix="headrace-") as directory:
        one_round = case.prepared(Builder(options.store), Path(directory), options.seconds)
        for number in range(1, options.rounds + 1):
            rounds.append(one_round())
            for who, found in rounds[-1].items():
                said = ", ".join(f"{what} {value:.2f}" for what, value in found.items())
                print(f"round {number}  {who:<20}{said}", flush=True)
    goals = case.goals(medians(tuple(rounds)))
    return CaseResult(key, case.title, tuple(rounds), goals, case.notes)


def _plain(run: Run) -> str:
    plain = dataclasses.asdict(run)
    for case, found in zip(plain["cases"], run.cases, strict=True):
        case["goals"] = [goal.model_dump() for goal in found.goals]
    return json.dumps(plain, indent=1) + "\n"


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.router")
    parser.add_argument("--only", nargs="+", choices=list(CASES), default=list(CASES))
    parser.add_argument("--rounds", type=int, default=ENOUGH_ROUNDS)
    parser.add_argument("--seconds", type=int, default=8, help="of every measurement")
    parser.add_argument("--store", default=default_store(), help="where artifacts are kept")
    parser.add_argument("--json", type=Path, help="write every round here")
    parser.add_argument("--markdown", type=Path, help="write the tables here")
    options = parser.parse_args()
    if options.rounds < 1 or options.seconds < 1:
        parser.error(
            f"--rounds {options.rounds} --seconds {options.seconds}: both must be 1 or more"
        )
    options.store = str(Path(options.store).expanduser().absolute())
    return options


def _interrupt(number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt


if __name__ == "__main__":
    sys.exit(main())
