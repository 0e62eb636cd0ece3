"""``headrace plan``: which cut of an artifact goes onto which devices, and what it would reach."""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict

from cluster.artifact.layout import name_of
from cluster.artifact.lookup import open_artifact
from cluster.compression.report.table import table
from cluster.parallel.devices import cores_of_this_machine, parse_devices, size_text
from cluster.parallel.plan import Placement, ShardPlan, plan
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
    found = plan(
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
            "latency_ms": found.latency_ms,
            "items_per_s": found.items_per_s,
            "memory_bytes": found.memory_bytes,
        }
        print(json.dumps({**asdict(found), **figures}, indent=1))
    else:
        print(described(found))
        if explain:
            print(f"\n{explained(found)}")
    return 0


def described(found: ShardPlan) -> str:
    """What the plan is and reaches."""
    name = name_of(found.pipeline, found.tensor)
    how = "measured, stage by stage" if found.layout else "of the whole program, as measured"
    if not found.built:
        cut = f"{{pipeline: {found.pipeline}, tensor: {found.tensor}}}"
        how = f"estimated; not built yet: add `parallel: [{cut}]` to the recipe"
    bundles = [_resources(bundle) for bundle in found.bundles]
    return "\n".join(
        [
            f"{found.model}  {found.layout or f'{found.target} {name}'}",
            f"cut        {found.pipeline} stages × {found.tensor} tensor ranks on "
            f"{found.devices} devices ({how})",
            f"predicted  {found.latency_ms:.2f} ms for a micro-batch of {found.batch}, "
            f"{found.items_per_s:.0f} items/s with the pipeline full",
            f"memory     {size_text(found.memory_bytes)} on the fullest device",
            f"bundles    {', '.join(bundles)}  ({found.placement})",
        ]
    )


def explained(found: ShardPlan) -> str:
    """The stages as a table, each with a bar as long as it takes."""
    slowest = max(found.stage_ms)
    rows = []
    for shard in found.shards:
        ms = found.stage_ms[shard.stage]
        rows.append(
            (
                f"stage {shard.stage}" + (f", rank {shard.tp_rank}" if found.tensor > 1 else ""),
                f"device {shard.device} of node {shard.node}",
                size_text(shard.weight_bytes),
                size_text(shard.activation_bytes),
                size_text(shard.buffer_bytes),
                f"{found.hop_ms[shard.stage]:.2f} ms",
                f"{ms:.2f} ms",
                "█" * max(1, round(_BAR * ms / slowest)),
            )
        )
    header = ("", "on", "weights", "activations", "transport", "arrival", "compute", "")
    mean = sum(found.stage_ms) / len(found.stage_ms)
    last = (
        f"answer back {found.hop_ms[-1]:.2f} ms; slowest stage {slowest / mean - 1:.1%} over the "
        "mean"
    )
    return f"{table(rows, header)}\n{last}"


def _resources(bundle: dict[str, float]) -> str:
    return "{" + ", ".join(f"{name}: {amount:g}" for name, amount in bundle.items()) + "}"
