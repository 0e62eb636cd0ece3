"""What a pipeline stage costs before it computes anything: the hop from shard to shard.

    replica process: ShardGroup.run ─→ shard ─→ … ─→ shard ─→ back      every shard forwards
    beside it, in the same processes: the same bytes through bare gloo, buffers ready made

Both take turns, so that whatever else the machine does hits both.

    python -m benchmarks.hop [--passes 400] [--rounds 4] [--json FILE]
"""

from __future__ import annotations

import argparse
import contextlib
import json
import multiprocessing
import statistics
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import machine
from cluster.runtime.gloo import Address, GlooTransport, Rendezvous
from cluster.runtime.shard import Shard
from cluster.runtime.shard_group import ShardGroup
from cluster.runtime.topology import Topology

SHARDS = (1, 2, 3)
PAYLOADS = {"4 KB": 4 * 1024, "6.4 MB": 6_400 * 1024}
"""An activation of a small batch of a small model, and of a full batch of a large one."""

_IP = "127.0.0.1"
_START_S = 60.0
_ANSWER_S = 30.0
_FOREVER = timedelta(days=1)


@dataclass(frozen=True)
class Ring:
    """Round trips through ``shards`` forwarding shards, in milliseconds."""

    payload: str
    shards: int
    p50_ms: float
    p99_ms: float
    bare_p50_ms: float
    bare_p99_ms: float


def main() -> None:
    parser = argparse.ArgumentParser(description="The latency that a pipeline stage adds.")
    parser.add_argument("--passes", type=int, default=400, help="round trips per round")
    parser.add_argument("--rounds", type=int, default=4, help="turns of the frames and bare gloo")
    parser.add_argument("--json", type=Path, help="where to write every figure")
    options = parser.parse_args()
    rings = [ring for shards in SHARDS for ring in measure(shards, options.passes, options.rounds)]
    print(markdown(rings))
    if options.json:
        found = {"machine": machine.describe(), "rings": [asdict(ring) for ring in rings]}
        options.json.write_text(json.dumps(found, indent=2) + "\n")


def measure(shards: int, passes: int, rounds: int) -> list[Ring]:
    """Start ``shards`` processes, time both ways through them, and end them."""
    context = multiprocessing.get_context("spawn")
    size = Topology(shards).size
    rendezvous = Rendezvous(_IP)
    processes = [
        context.Process(target=_forward, args=(rendezvous.address, stage, shards), daemon=True)
        for stage in range(shards)
    ]
    for process in processes:
        process.start()
    try:
        transport = GlooTransport(rendezvous.address, 0, size, _IP, _START_S)
        bare = transport.sub_group(range(size))
        group = ShardGroup(transport, shards, 1, max_inflight=1, timeout_s=_ANSWER_S)
        rings = [_timed(group, bare, payload, shards, passes, rounds) for payload in PAYLOADS]
        group.close()
        for process in processes:
            process.join(_ANSWER_S)
        return rings
    finally:
        for process in processes:
            process.kill()
        rendezvous.close()


def markdown(rings: Sequence[Ring]) -> str:
    """A row per ring; what a stage adds is the difference to the ring with one shard fewer."""
    rows = [
        "| activation | shards | round trip p50 / p99 (ms) | bare gloo p50 / p99 (ms) "
        "| a stage adds (ms) | bare |",
        "| --- | ---: | ---: | ---: | ---: | ---: |",
    ]
    before = {(ring.payload, ring.shards): ring for ring in rings}
    for ring in sorted(rings, key=lambda ring: (PAYLOADS[ring.payload], ring.shards)):
        fewer = before.get((ring.payload, ring.shards - 1))
        added = ["", ""]
        if fewer:
            added = [
                f"{ring.p50_ms - fewer.p50_ms:.2f}",
                f"{ring.bare_p50_ms - fewer.bare_p50_ms:.2f}",
            ]
        rows.append(
            f"| {ring.payload} | {ring.shards} | {ring.p50_ms:.2f} / {ring.p99_ms:.2f} "
            f"| {ring.bare_p50_ms:.2f} / {ring.bare_p99_ms:.2f} | {added[0]} | {added[1]} |"
        )
    return "\n".join(rows)


def _timed(
    group: ShardGroup, bare: Any, payload: str, shards: int, passes: int, rounds: int
) -> Ring:
    import torch

    size = PAYLOADS[payload]
    tag = list(PAYLOADS).index(payload)
    array = np.random.default_rng(0).random(size // 4, np.float32).reshape(1, -1)
    sent = torch.from_numpy(array).view(torch.uint8).reshape(-1)
    received = torch.empty_like(sent)

    def frames() -> None:
        (answer,) = group.run([array])
        assert answer[0, -1] == array[0, -1]

    def bytes_alone() -> None:
        awaited = bare.recv([received], shards, tag)
        bare.send([sent], 1, tag).wait(_FOREVER)
        awaited.wait(_FOREVER)

    seconds: dict[Callable[[], None], list[float]] = {frames: [], bytes_alone: []}
    for _ in range(rounds):
        for once, found in seconds.items():
            for _ in range(passes // 10):
                once()  # buffers and caches get warm again after the other's turn
            for _ in range(passes):
                started = time.perf_counter()
                once()
                found.append(time.perf_counter() - started)
    return Ring(payload, shards, *_middle_and_tail(seconds[frames]),
                *_middle_and_tail(seconds[bytes_alone]))  # fmt: skip


def _middle_and_tail(seconds: Sequence[float]) -> tuple[float, float]:
    return statistics.median(seconds) * 1e3, statistics.quantiles(seconds, n=100)[98] * 1e3


# ---------------------------------------------------------------- in the shards' processes


def _forward(address: Address, stage: int, shards: int) -> None:
    import torch

    torch.set_num_threads(1)
    topology = Topology(shards)
    rank = topology.rank(stage, 0)
    transport = GlooTransport(address, rank, topology.size, _IP, _START_S)
    bare = transport.sub_group(range(topology.size))
    for tag, size in enumerate(PAYLOADS.values()):
        ring = (bare, rank, topology.size, tag, size)
        threading.Thread(target=_forward_bare, args=ring, daemon=True).start()
    source, targets = topology.source(stage, 0), topology.targets(stage, 0)
    Shard(list, transport, source, targets).serve()


def _forward_bare(bare: Any, rank: int, size: int, tag: int, payload: int) -> None:
    import torch

    buffer = torch.empty(payload, dtype=torch.uint8)
    with contextlib.suppress(RuntimeError):  # the ring is parted
        while True:
            bare.recv([buffer], rank - 1, tag).wait(_FOREVER)
            bare.send([buffer], (rank + 1) % size, tag).wait(_FOREVER)


if __name__ == "__main__":
    main()
