"""The artifact's program beside OpenVINO's own loop and the float model, in one process, in turn.

python -m benchmarks.programs [--rounds 3] [--runs 50] [--json FILE] [--markdown FILE]

    resnet18.yaml → artifact → program.load, as a replica loads it  ┐
                             → its IR, compiled as benchmark_app does ┤→ batch 1 and 8, in turn
    torchvision resnet18, float32, eager                             ┘

Bar: the loaded program needs at most 1.05 times what OpenVINO's loop needs, at both batch sizes.
Exit status: 0 measured and within the bar, 1 failed or beyond it.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from benchmarks import artifact, machine
from benchmarks.errors import BenchmarkError
from benchmarks.images import CLASSES, request_images
from benchmarks.in_process import COMPUTE_THREADS
from cluster.artifact.artifact import Artifact
from cluster.errors import HeadraceError
from cluster.program import node
from cluster.program import program as programs

BATCHES = (1, 8)
BAR = 1.05
"""Times what OpenVINO's own loop needs."""

OURS, THEIRS, FLOAT = "Headrace, loaded program", "OpenVINO's own loop", "PyTorch eager float32"
_WARM_UP_RUNS = 5

Run = Callable[[], object]


@dataclass(frozen=True)
class Timing:
    """One contender at one batch size in one round, over back-to-back runs."""

    contender: str
    batch: int
    number: int
    p50_ms: float
    p99_ms: float


def main() -> int:
    """The command line; returns the exit status."""
    options = _options()
    try:
        content = measure(options.rounds, options.runs)
    except (BenchmarkError, HeadraceError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    text = markdown(content)
    print(f"\n{text}")
    if options.json is not None:
        options.json.write_text(json.dumps(content, indent=1) + "\n")
    if options.markdown is not None:
        options.markdown.write_text(text)
    return 0 if all(ratio <= BAR for ratio in content["ratios"].values()) else 1


def measure(rounds: int, runs: int) -> dict[str, Any]:
    """Time every contender ``runs`` times per batch size and round, one run each in turn."""
    if node.version_of("openvino") is None:
        raise BenchmarkError("openvino is not installed: pip install -e '.[openvino]'")
    described = machine.describe()
    built = artifact.find_or_build()
    loaded = programs.load(built, COMPUTE_THREADS)
    timings = []
    for batch in BATCHES:
        images = request_images(batch)
        contenders = {
            OURS: lambda images=images: loaded.run([images]),
            THEIRS: _openvino_loop(built, images),
            FLOAT: _eager(images),
        }
        for number in range(1, rounds + 1):
            timings += _in_turn(contenders, batch, number, runs)
            print(f"round {number}  batch {batch}  " + _line(timings[-len(contenders) :]))
    return {
        "machine": described | {"openvino": node.version_of("openvino")},
        "settings": {
            "rounds": rounds, "runs": runs, "batches": BATCHES,
            "compute_threads": COMPUTE_THREADS, "artifact": built.id,
            "program": loaded.entry.key,
            "static_batches": [each.batch for each in loaded.entry.static_files],
        },
        "timings": [asdict(each) for each in timings],
        "ratios": {
            str(batch): _middle(timings, OURS, batch) / _middle(timings, THEIRS, batch)
            for batch in BATCHES
        },
    }  # fmt: skip


def _in_turn(contenders: dict[str, Run], batch: int, number: int, runs: int) -> list[Timing]:
    times_ms: dict[str, list[float]] = {name: [] for name in contenders}
    for repeat in range(-_WARM_UP_RUNS, runs):
        for name, run in contenders.items():
            started = time.perf_counter()
            run()
            if repeat >= 0:
                times_ms[name].append((time.perf_counter() - started) * 1e3)
    return [
        Timing(name, batch, number, *map(float, np.percentile(taken, [50, 99])))
        for name, taken in times_ms.items()
    ]


def _openvino_loop(built: Artifact, images: np.ndarray) -> Run:
    """What ``benchmark_app -hint latency -nthreads 1 -api sync -shape [N,...]`` runs: static
    shapes, one infer request, the input set once, nothing copied."""
    import openvino

    entry = next((e for e in built.manifest.programs if e.kind == "openvino"), None)
    if entry is None:
        raise BenchmarkError(f"artifact {built.id} has no OpenVINO program; build it again")
    core = openvino.Core()
    model = core.read_model(built.file(entry.file), built.file(entry.other_files[0]))
    model.reshape(list(images.shape))
    options = {"PERFORMANCE_HINT": "LATENCY", "NUM_STREAMS": "1",
               "INFERENCE_NUM_THREADS": COMPUTE_THREADS}  # fmt: skip
    request = core.compile_model(model, "CPU", options).create_infer_request()
    request.set_input_tensor(openvino.Tensor(images, shared_memory=True))
    infer: Run = request.infer
    return infer


def _eager(images: np.ndarray) -> Run:
    import torch
    from torchvision.models import resnet18

    torch.set_num_threads(COMPUTE_THREADS)
    torch.manual_seed(0)
    model, tensor = resnet18(num_classes=CLASSES).eval(), torch.from_numpy(images)

    def run() -> object:
        with torch.inference_mode():
            return model(tensor)

    return run


def markdown(content: dict[str, Any]) -> str:
    """The medians over rounds as a table, with the machine above it."""
    timings = [Timing(**each) for each in content["timings"]]
    found, settings = content["machine"], content["settings"]
    static = settings["static_batches"] or "none"
    lines = [
        f"int8 ResNet-18 at 224×224, {settings['compute_threads']} thread, medians of "
        f"{settings['rounds']} rounds of {settings['runs']} runs, contenders in turn. "
        f"{found['cpu']}, {found['date'][:10]}, OpenVINO {found['openvino']}, PyTorch "
        f"{found['versions']['torch']}. Loaded: {settings['program']}, static batches: {static}.",
        "",
        "| | " + " | ".join(f"batch {batch}, p50 / p99 ms" for batch in BATCHES) + " |",
        "| --- |" + " ---: |" * len(BATCHES),
    ]
    for name in (OURS, THEIRS, FLOAT):
        cells = [
            f"{_middle(timings, name, batch):.2f} / {_middle(timings, name, batch, 'p99_ms'):.2f}"
            for batch in BATCHES
        ]
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    ratios = [f"{content['ratios'][str(batch)]:.3f}×" for batch in BATCHES]
    lines.append(f"| Headrace to OpenVINO's loop (bar {BAR}×) | " + " | ".join(ratios) + " |")
    return "\n".join(lines) + "\n"


def _middle(timings: Sequence[Timing], name: str, batch: int, value: str = "p50_ms") -> float:
    return median(
        getattr(each, value) for each in timings if (each.contender, each.batch) == (name, batch)
    )


def _line(timings: Sequence[Timing]) -> str:
    return ", ".join(f"{each.contender}: {each.p50_ms:.2f} ms" for each in timings)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.programs")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--runs", type=int, default=50, help="per contender, batch and round")
    parser.add_argument("--json", type=Path, help="write every timing here")
    parser.add_argument("--markdown", type=Path, help="write the table here")
    options = parser.parse_args()
    if options.rounds < 1 or options.runs < 1:
        parser.error(f"--rounds {options.rounds} --runs {options.runs}: both must be 1 or more")
    return options


if __name__ == "__main__":
    sys.exit(main())
