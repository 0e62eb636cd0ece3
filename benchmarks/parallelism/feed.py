"""Feeding of a model in a running cluster, in a process that is the cluster's driver.

feed(cluster, model, …) → python -m benchmarks.parallelism.feed TASK → placement group → Feeder
                       ← FeedResult ←───────────────────────────── RESULT ←──────────┘
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from dataclasses import asdict
from pathlib import Path
from typing import Any

from benchmarks.harness.errors import BenchmarkError
from benchmarks.parallelism.fed import FeedResult
from cluster.config.base import parse
from cluster.config.serving import ModelArgs
from deployments.local import LocalCluster

_READY_S = 120.0
_SLOW = 20
"""Timeout of a feeding as a multiple of its seconds, besides the start."""


def feed(
    cluster: LocalCluster,
    args: dict[str, Any],
    model: str,
    batches: tuple[int, ...],
    seconds: float,
) -> FeedResult:
    """Feed the model of these ModelArgs; BenchmarkError if that fails."""
    with tempfile.TemporaryDirectory(prefix="headrace-") as directory:
        task, result = Path(directory) / "task.json", Path(directory) / "fed.json"
        content = {"args": args, "model": model, "batches": batches, "seconds": seconds}
        task.write_text(json.dumps(content))
        command = [sys.executable, "-m", "benchmarks.parallelism.feed", str(task), str(result)]
        environment = os.environ | cluster.environment()
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
        if done.returncode != 0:
            raise BenchmarkError(f"{args['name']} could not be fed:\n{done.stderr[-3000:]}")
        return FeedResult.read(json.loads(result.read_text()))


def main(task: Path, result: Path) -> None:
    """Place the actor as the replica would be, feed it, and write its figures to ``result``."""
    import ray
    from ray.util.placement_group import placement_group, remove_placement_group
    from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

    from benchmarks.parallelism.feeder import Feeder
    from deployments.shards.placement import place

    content = json.loads(task.read_text())
    args = parse(content["args"], ModelArgs, "args")
    ray.init(log_to_driver=False)
    placement = place(args)
    layout = None if placement is None else placement.layout
    bundles = [{"CPU": 1.0}] if placement is None else placement.bundles
    group = placement_group(bundles, "PACK" if placement is None else placement.strategy)
    if not group.wait(_READY_S):
        sys.exit(f"the cluster has no free resources for {bundles}")
    strategy = PlacementGroupSchedulingStrategy(group, placement_group_bundle_index=0)
    feeder = ray.remote(Feeder).options(
        num_cpus=bundles[0].get("CPU", 0), scheduling_strategy=strategy
    )
    actor: Any = feeder.remote(args, layout)
    timeout_s = _READY_S + _SLOW * (content["seconds"] + 1) * (1 + len(content["batches"]))
    pending = actor.feed.remote(content["model"], content["batches"], content["seconds"])
    fed: FeedResult = ray.get(pending, timeout=timeout_s)
    result.write_text(json.dumps(asdict(fed)))
    ray.get(actor.close.remote(), timeout=_READY_S)
    remove_placement_group(group)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
