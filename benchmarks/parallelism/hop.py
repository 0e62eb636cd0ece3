"""Cost of a pipeline stage that computes nothing: the hop from shard to shard.

python -m benchmarks.parallelism.hop

    this process: ShardGroup.run ─→ shard ─→ … ─→ shard ─→ back      every shard forwards
    beside it, in the same processes: the same bytes through bare gloo, with prepared buffers

Both alternate in every round, so that other work of the machine affects both.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import sys
import threading
import time
from collections.abc import Callable
from datetime import timedelta
from functools import partial
from typing import Any

import numpy as np

from benchmarks.harness.case import ROUNDS, Benchmark, Case, Context, PreparedCase, Setting
from benchmarks.harness.command import main
from benchmarks.harness.errors import BenchmarkError
from benchmarks.harness.results import Figures, Reading, Run
from benchmarks.harness.table import report, table
from cluster.runtime.gloo import Address, GlooTransport, Rendezvous
from cluster.runtime.shard import ShardLoop
from cluster.runtime.shard_group import ShardGroup
from cluster.runtime.topology import Topology

SHARDS = (1, 2, 3)
PAYLOADS = {"4 KB": 4 * 1024, "6.4 MB": 6_400 * 1024}
"""Activation of a small batch of a small model, and of a full batch of a large one."""

FRAMES, BARE = "", "bare gloo "
"""Prefixes of the figures."""

_IP = "127.0.0.1"
_START_S = 60.0
_ANSWER_S = 30.0
_FOREVER = timedelta(days=1)


def prepare(context: Context) -> PreparedCase:
    """Return a turn per number of shards."""
    passes = int(context.settings["passes"])
    return PreparedCase({f"{n} shards": partial(measure, n, passes) for n in SHARDS})


def measure(shards: int, passes: int) -> list[Reading]:
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
        readings = [
            Reading(
                subject=_subject(payload, shards),
                figures=_timed(group, bare, payload, shards, passes),
            )
            for payload in PAYLOADS
        ]
        group.close()
        for process in processes:
            process.join(_ANSWER_S)
        return readings
    finally:
        for process in processes:
            process.kill()
        rendezvous.close()


def markdown(run: Run) -> str:
    """Return a row per ring; a stage's cost is the difference to the ring with one shard fewer."""
    medians = run.cases[0].medians
    rows = []
    for payload in PAYLOADS:
        for shards in SHARDS:
            figures = medians[_subject(payload, shards)]
            fewer = medians.get(_subject(payload, shards - 1))
            added = [
                "" if fewer is None else f"{figures[name] - fewer[name]:.2f}"
                for name in (f"{FRAMES}p50 ms", f"{BARE}p50 ms")
            ]
            times = [
                f"{figures[f'{way}p50 ms']:.2f} / {figures[f'{way}p99 ms']:.2f}"
                for way in (FRAMES, BARE)
            ]
            rows.append([payload, str(shards), *times, *added])
    header = [
        "activation",
        "shards",
        "round trip p50 / p99 (ms)",
        "bare gloo p50 / p99 (ms)",
        "a stage adds (ms)",
        "bare",
    ]
    return report(run, f"{run.settings['passes']} round trips per round.", [table(header, rows)])


def _subject(payload: str, shards: int) -> str:
    return f"{payload}, {shards} shards"


def _timed(group: ShardGroup, bare: Any, payload: str, shards: int, passes: int) -> Figures:
    import torch

    size = PAYLOADS[payload]
    tag = list(PAYLOADS).index(payload)
    array = np.random.default_rng(0).random(size // 4, np.float32).reshape(1, -1)
    sent = torch.from_numpy(array).view(torch.uint8).reshape(-1)
    received = torch.empty_like(sent)

    def frames() -> None:
        (answer,) = group.run([array])
        if answer[0, -1] != array[0, -1]:
            raise BenchmarkError("the shards answered other bytes than they were sent")

    def bytes_only() -> None:
        pending = bare.recv([received], shards, tag)
        bare.send([sent], 1, tag).wait(_FOREVER)
        pending.wait(_FOREVER)

    figures: Figures = {}
    ways: dict[str, Callable[[], None]] = {FRAMES: frames, BARE: bytes_only}
    for way, once in ways.items():
        times_ms = []
        for number in range(-(passes // 10), passes):  # buffers and caches warm up again first
            started = time.perf_counter()
            once()
            if number >= 0:
                times_ms.append((time.perf_counter() - started) * 1e3)
        p50, p99 = (float(value) for value in np.percentile(times_ms, [50, 99]))
        figures |= {f"{way}p50 ms": p50, f"{way}p99 ms": p99}
    return figures


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
    ShardLoop(list, transport, source, targets).serve()


def _forward_bare(bare: Any, rank: int, size: int, tag: int, payload: int) -> None:
    import torch

    buffer = torch.empty(payload, dtype=torch.uint8)
    with contextlib.suppress(RuntimeError):  # the ring is closed
        while True:
            bare.recv([buffer], rank - 1, tag).wait(_FOREVER)
            bare.send([buffer], (rank + 1) % size, tag).wait(_FOREVER)


BENCHMARK = Benchmark(
    name="parallelism.hop",
    cases={"hop": Case("Hop between shards", prepare)},
    markdown=markdown,
    packages=("torch", "numpy"),
    settings=(ROUNDS, Setting("passes", 400, "round trips per round")),
)

if __name__ == "__main__":
    sys.exit(main(BENCHMARK))
