"""``headrace plan``: the placement of an artifact on devices, and its predicted speed."""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict

from cluster.artifact.layout import name_of
from cluster.artifact.lookup import open_artifact
from cluster.parallel.devices import cores_of_this_machine, parse_devices, size_text
from cluster.parallel.plan import Placement, ShardPlan, plan
from cluster.text_table import table
from deployments.cli.arguments import add_json, add_store, count

_BAR = 24


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of ``headrace plan``."""
    parser.add_argument("artifact", help="name, id, beginning of an id, or directory")
    parser.add_argument(
        "--devices",
        help="COUNTxTARGET[:MEMORY][@NODES], such as 2xcpu-x86:4GiB or 8xcuda-sm90:80GiB@2; "
        "default: the cores of this machine",
    )
    parser.add_argument("--pipeline", type=count, help="stages; default: the fewest devices")
    parser.add_argument("--tensor", type=count, help="tensor ranks of a stage")
    parser.add_argument("--batch", type=count, default=8, help="items of a micro-batch; default 8")
    parser.add_argument("--placement", choices=("PACK", "STRICT_PACK", "SPREAD"), default="PACK")
    parser.add_argument("--explain", action="store_true", help="show every stage")
    add_store(parser)
    add_json(parser)


def run(args: argparse.Namespace) -> int:
    """Run the command with its parsed arguments and return the exit status."""
    return show(
        args.artifact,
        args.store,
        args.devices,
        args.pipeline,
        args.tensor,
        args.batch,
        args.placement,
        args.explain,
        args.json,
    )


def show(
    ref: str,
    store: str | None,
    devices: str | None,
    pipeline: int | None,
    tensor: int | None,
    batch: int,
    placement: Placement,
    explain: bool,
    as_json: bool,
) -> int:
    """Print the plan; PlanError, with what would fit, if there is none."""
    artifact = open_artifact(ref, store)
    manifest = artifact.manifest
    shard_plan = plan(
        manifest,
        parse_devices(devices) if devices is not None else cores_of_this_machine(),
        pipeline=pipeline,
        tensor=tensor,
        batch=batch,
        placement=placement,
    )
    if as_json:
        figures = {
            "artifact": artifact.id,
            "latency_ms": shard_plan.latency_ms,
            "items_per_s": shard_plan.items_per_s,
            "memory_bytes": shard_plan.memory_bytes,
        }
        print(json.dumps({**asdict(shard_plan), **figures}, indent=1))
    else:
        print(description(shard_plan))
        if explain:
            print(f"\n{stage_table(shard_plan)}")
    return 0


def description(shard_plan: ShardPlan) -> str:
    """Return a plan and its prediction as text."""
    name = name_of(shard_plan.pipeline, shard_plan.tensor)
    basis = "measured, stage by stage" if shard_plan.layout else "of the whole program, as measured"
    if not shard_plan.built:
        cut = f"{{pipeline: {shard_plan.pipeline}, tensor: {shard_plan.tensor}}}"
        basis = f"estimated; not built yet: add `parallel: [{cut}]` to the recipe"
    bundles = [_resources(bundle) for bundle in shard_plan.bundles]
    return "\n".join(
        [
            f"{shard_plan.model}  {shard_plan.layout or f'{shard_plan.target} {name}'}",
            f"cut        {shard_plan.pipeline} stages × {shard_plan.tensor} tensor ranks on "
            f"{shard_plan.devices} devices ({basis})",
            f"predicted  {shard_plan.latency_ms:.2f} ms for a micro-batch of {shard_plan.batch}, "
            f"{shard_plan.items_per_s:.0f} items/s with the pipeline full",
            f"memory     {size_text(shard_plan.memory_bytes)} on the fullest device",
            f"bundles    {', '.join(bundles)}  ({shard_plan.placement})",
        ]
    )


def stage_table(shard_plan: ShardPlan) -> str:
    """Return the stages as a table, with a bar for the time of each."""
    slowest = max(shard_plan.stage_ms)
    is_sliced = shard_plan.tensor > 1
    rows = []
    for shard in shard_plan.shards:
        ms = shard_plan.stage_ms[shard.stage]
        rows.append(
            (
                f"stage {shard.stage}" + (f", rank {shard.tp_rank}" if is_sliced else ""),
                f"device {shard.device} of node {shard.node}",
                size_text(shard.weight_bytes),
                size_text(shard.activation_bytes),
                size_text(shard.buffer_bytes),
                f"{shard_plan.hop_ms[shard.stage]:.2f} ms",
                f"{ms:.2f} ms",
                "█" * max(1, round(_BAR * ms / slowest)),
            )
        )
    header = ("", "on", "weights", "activations", "transport", "arrival", "compute", "")
    mean = sum(shard_plan.stage_ms) / len(shard_plan.stage_ms)
    last = (
        f"answer back {shard_plan.hop_ms[-1]:.2f} ms; slowest stage {slowest / mean - 1:.1%} over "
        "the mean"
    )
    return f"{table(rows, header)}\n{last}"


def _resources(bundle: dict[str, float]) -> str:
    return "{" + ", ".join(f"{name}: {amount:g}" for name, amount in bundle.items()) + "}"
