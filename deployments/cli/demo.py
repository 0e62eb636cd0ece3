"""``headrace demo``: build, prove and serve a classifier of handwritten digits.

local cluster → two compression jobs (trained once, bf16 and int8) → table
    → serve the int8 artifact → every held-out digit as a PNG over HTTP → figures → stop
"""

from __future__ import annotations

import argparse
import json
import os
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

from cluster.artifact.artifact import Artifact
from cluster.artifact.lookup import absolute
from cluster.artifact.store import default_store, open_store
from cluster.compression.programs import requirements
from cluster.compression.report.baseline import baseline_name
from cluster.compression.report.table import header, row
from cluster.data import load_data
from cluster.errors import CompressionError, ConfigError
from cluster.program import node
from cluster.text_table import table
from deployments.cli import compress
from deployments.cli.demo_client import Requests, ask
from deployments.jobs.result import ACCEPTED
from deployments.local import LocalCluster

_HERE = Path(__file__).parents[1]
RECIPES = (_HERE / "recipes" / "digits-bf16.yaml", _HERE / "recipes" / "digits-int8.yaml")
SERVED = _HERE / "configs" / "digits.yaml"
CONNECTIONS = (1, 8)
TARGET = "cpu-x86"
SAMPLE_LABEL = "7"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of ``headrace demo``."""
    parser.add_argument("--keep", action="store_true", help="leave it serving")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures there too")


def run(args: argparse.Namespace) -> int:
    """Run the command with its parsed arguments and return the exit status."""
    return demo(args.keep, args.json)


def demo(keep: bool, json_file: Path | None) -> int:
    """Run the demo; ``keep`` leaves it serving, ``json_file`` gets the figures as JSON."""
    started = time.monotonic()
    for recipe in RECIPES:
        requirements.check(compress.read(recipe).programs)
    if json_file is not None and not json_file.absolute().parent.is_dir():
        raise ConfigError(f"--json {json_file}: no such directory: {json_file.parent}")
    store = absolute(default_store())
    os.environ["HEADRACE_STORE"] = store  # the replicas look there too, from other directories
    print("starting a local Ray cluster with Serve behind HAProxy", flush=True)
    cluster = LocalCluster.start()
    try:
        compress.reach(cluster)
        artifacts = [_build(recipe, store, cluster) for recipe in RECIPES]
        print(f"\n{_table(artifacts)}\n", flush=True)
        cluster.deploy(SERVED)
        served, sample = _ask(cluster, artifacts[-1])
    except BaseException:
        cluster.stop()
        raise
    if not keep:
        cluster.stop()
    took = time.monotonic() - started
    _conclude(cluster, artifacts, served, sample, keep, took)
    if json_file is not None:
        json_file.write_text(json.dumps(_figures(artifacts, served, took), indent=1) + "\n")
    return 0


def _build(recipe_path: Path, store: str, cluster: LocalCluster) -> Artifact:
    recipe = compress.read(recipe_path)
    print(f"\n== headrace compress {recipe_path.name}", flush=True)
    status = compress.submit(recipe, recipe_path.parent, store, cluster.dashboard).status
    if status != ACCEPTED:
        raise CompressionError(f"the job for {recipe_path.name} ended with exit status {status}")
    return open_store(store).open(recipe.name)


def _table(artifacts: list[Artifact]) -> str:
    manifest = artifacts[-1].manifest
    baseline = manifest.baseline
    if baseline is None:
        raise CompressionError("the artifact holds no baseline measurement; build it again")
    rows = [row(baseline_name(manifest.recipe), baseline, baseline)]
    for artifact in artifacts:
        # Each against the baseline that ran in turn with it.
        reference = artifact.manifest.baseline or baseline
        rows.append(row(artifact.manifest.name, artifact.manifest.winner(TARGET), reference))
    return table(rows, header(baseline))


def _ask(cluster: LocalCluster, artifact: Artifact) -> tuple[dict[int, Requests], Path]:
    """Send the held-out digits at each number of connections; also keep one as a file.

    CompressionError if the answers are not those of the evaluated artifact.
    """
    recipe = compress.read(RECIPES[-1])
    test = load_data(recipe.data, recipe.seed).test
    names = artifact.manifest.labels
    images = [raw for index in range(len(test)) if isinstance(raw := test.raw(index), bytes)]
    labels = [names[label] for label in test.labels]
    sample = Path.home() / ".headrace" / "seven.png"
    sample.parent.mkdir(exist_ok=True)
    sample.write_bytes(images[labels.index(SAMPLE_LABEL)])
    url = f"{cluster.http}/v2/models/digits/predict"
    print(f"sending {len(images)} held-out digits as PNG files to {url}", flush=True)
    ask(url, images[:32], labels[:32], connections=1)  # the first requests open connections
    served = {count: ask(url, images, labels, count) for count in CONNECTIONS}
    evaluated = artifact.manifest.winner(TARGET)
    for count, answers in served.items():
        if answers.accuracy != evaluated.accuracy:
            raise CompressionError(
                f"with {count} connections {answers.right} of {answers.requests} answers were "
                f"right, a share of {answers.accuracy:.4f}; evaluated were {evaluated.accuracy:.4f}"
            )
    return served, sample


def _conclude(
    cluster: LocalCluster,
    artifacts: list[Artifact],
    served: dict[int, Requests],
    sample: Path,
    keep: bool,
    took: float,
) -> None:
    evaluated = artifacts[-1].manifest.winner(TARGET)
    one = next(iter(served.values()))
    print(
        f"accuracy as served {one.accuracy:.4f} ({one.right} of {one.requests}), "
        f"as evaluated {evaluated.accuracy:.4f}"
    )
    rows = [
        (str(count), f"{s.p50_ms:.2f} ms", f"{s.p99_ms:.2f} ms", f"{s.requests_per_s:.0f}")
        for count, s in served.items()
    ]
    print(table(rows, ("connections", "p50", "p99", "requests/s")))
    if not keep:
        print(f"\nstopped cleanly ({took:.0f} s in all); `headrace demo --keep` leaves it serving")
        return
    print(f"\n{artifacts[-1].manifest.name} is serving ({took:.0f} s in all). Try:")
    print(
        f"  curl --data-binary @{sample} -H 'Content-Type: image/png' "
        f"{cluster.http}/v2/models/digits/predict"
    )
    print("Stop it with `headrace down`.")


def _figures(artifacts: list[Artifact], served: dict[int, Requests], took: float) -> dict[str, Any]:
    return {
        "machine": {"cpu": node.cpu_name(), "torch": node.torch_version()},
        "seconds": round(took, 1),
        "baseline": artifacts[-1].manifest.model_dump(mode="json")["baseline"],
        "artifacts": {
            artifact.manifest.name: {
                "id": artifact.id,
                "program": artifact.manifest.fastest[TARGET],
                "measured": artifact.manifest.winner(TARGET).model_dump(mode="json"),
                "quantized_operators": artifact.manifest.quantized_operators,
            }
            for artifact in artifacts
        },
        "served": {
            str(count): {**asdict(entry), "accuracy": entry.accuracy}
            for count, entry in served.items()
        },
    }
