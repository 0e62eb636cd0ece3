"""Eager PyTorch in two gloo processes: torch.distributed.pipelining, and Accelerate around it.

    rank 0: batch → micro-batches → stage 0 ─→ rank 1: stage 1 ─→ answers back to rank 0

Each rank: python -m benchmarks.parallelism.ranks PEER MODEL SECONDS RESULT, RANK and the like in
the environment. The model is cut before the block where eager computing is half done. A batch
enters the pipeline before the one ahead of it has been answered.
"""

from __future__ import annotations

import copy
import json
import os
import sys
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from statistics import median
from typing import Any

import torch
import torch.distributed as dist
from torch import nn

from benchmarks.in_process import COMPUTE_THREADS
from benchmarks.parallelism import pace
from benchmarks.parallelism.inputs import items
from benchmarks.parallelism.models import FACTORIES, blocks
from benchmarks.parallelism.results import SERVED_BATCH, Fed

ITEMS = 8 * SERVED_BATCH
"""Of one call: 8 micro-batches, over which the pipeline's filling and draining is spread."""

TOLERANCE = 1e-3

Step = Callable[[torch.Tensor], Any]
"""The batch in on rank 0, where other ranks ignore it; on the last rank, what it answers."""

_WARM_UP = 3
_MOST_CALLS = 10_000


def main(peer: str, model: str, seconds: float, result: Path) -> None:
    """One rank; the first writes what both did."""
    torch.set_num_threads(COMPUTE_THREADS)
    rank = int(os.environ["RANK"])
    module = FACTORIES[model]()
    batch = torch.from_numpy(items(model, ITEMS))
    with torch.no_grad():
        expected = module(batch)
        build, size = _PEERS[peer]
        start(peer)
        before = _agreed_cut(module, batch[:1], rank)
        several = build(module, before, batch[:size], ITEMS // size, rank)
        alone = build(module, before, batch[:1], 1, rank)
        found = [
            _calls(step, given, awaited, rank, seconds, overlapping)
            for step, given, awaited, overlapping in (
                (alone, batch[:1], expected[:1], False),
                (several, batch, expected, True),
            )
        ]
    if rank == 0:
        latency = median(b - a for a, b in zip(found[0], found[0][1:], strict=False)) * 1e3
        fed = Fed(latency, {size: pace.rate(found[1], ITEMS, 2)})
        result.write_text(json.dumps({**asdict(fed), "before": before}))
    dist.barrier()
    dist.destroy_process_group()


def start(peer: str) -> None:
    """Join the process group as the peer does it."""
    if peer == "accelerate":
        from accelerate import PartialState

        PartialState(cpu=True, backend="gloo")
    else:
        dist.init_process_group("gloo")


def gpipe(
    module: nn.Module, before: str, example: torch.Tensor, micro_batches: int, rank: int
) -> Step:
    """PyTorch's own: ScheduleGPipe over a PipelineStage of ``pipeline()``."""
    from torch.distributed.pipelining import ScheduleGPipe, SplitPoint, pipeline

    cut = {before: SplitPoint.BEGINNING}
    pipe = pipeline(copy.deepcopy(module), mb_args=(example,), split_spec=cut)
    schedule = ScheduleGPipe(pipe.build_stage(rank, torch.device("cpu")), micro_batches)
    return lambda batch: schedule.step(batch) if rank == 0 else schedule.step()


def prepared(
    module: nn.Module, before: str, example: torch.Tensor, micro_batches: int, rank: int
) -> Step:
    """Accelerate's ``prepare_pippy``. Its ``gather_output`` does not work over gloo."""
    from accelerate.inference import prepare_pippy

    made = prepare_pippy(
        copy.deepcopy(module), split_points=[before], example_args=(example,),
        num_chunks=micro_batches,
    )  # fmt: skip
    return lambda batch: made(batch) if rank == 0 else made()


# A batch that it could divide evenly is padded by Accelerate all the same, unless every
# micro-batch holds one item.
_PEERS = {"torch-pipelining": (gpipe, SERVED_BATCH), "accelerate": (prepared, 1)}


def _agreed_cut(module: nn.Module, one: torch.Tensor, rank: int) -> str:
    """The block before which half of the time is spent, as the first rank measures it."""
    names = blocks(module)
    index = torch.tensor([_half(module, names, one) if rank == 0 else 0])
    dist.broadcast(index, 0)
    return names[int(index)]


def _half(module: nn.Module, names: list[str], one: torch.Tensor) -> int:
    reached: dict[str, list[float]] = {name: [] for name in names}
    taken = []
    hooks = [
        module.get_submodule(name).register_forward_pre_hook(
            lambda *_, name=name: reached[name].append(time.perf_counter() - started)
        )
        for name in names
    ]
    for _ in range(_WARM_UP + pace.LEAST):
        started = time.perf_counter()
        module(one)
        taken.append(time.perf_counter() - started)
    for hook in hooks:
        hook.remove()
    half = median(taken[_WARM_UP:]) / 2
    return min(range(1, len(names)), key=lambda n: abs(median(reached[names[n]][_WARM_UP:]) - half))


def _calls(
    step: Step, batch: torch.Tensor, expected: torch.Tensor, rank: int, seconds: float,
    overlapping: bool,
) -> list[float]:  # fmt: skip
    """When each answer came; on the first rank.

    ``overlapping``: a call begins before the one ahead of it is answered.
    """
    asked = _Asked(step, batch, expected, rank)
    started = time.perf_counter()
    for _ in range(_WARM_UP):
        asked.call()
        asked.answered()
    each = (time.perf_counter() - started) / _WARM_UP
    calls = torch.tensor([min(_MOST_CALLS, max(2 * pace.LEAST, round(seconds / each)))])
    dist.broadcast(calls, 0)
    asked.ended.clear()
    for number in range(int(calls)):
        asked.call()
        if not overlapping or number > 0:
            asked.answered()
    if overlapping:
        asked.answered()
    return asked.ended


class _Asked:
    """Calls of one step and their answers, which the last rank sends to the first."""

    def __init__(self, step: Step, batch: torch.Tensor, expected: torch.Tensor, rank: int) -> None:
        self._step, self._batch, self._expected, self._rank = step, batch, expected, rank
        self._pending: list[tuple[Any, torch.Tensor]] = []
        self.ended: list[float] = []

    def call(self) -> None:
        answer = self._step(self._batch)
        if self._rank == 0:
            room = torch.empty_like(self._expected)
            self._pending.append((dist.irecv(room, 1), room))
        else:
            dist.send(answer.contiguous(), 0)

    def answered(self) -> None:
        """Wait for the oldest answer and check it; nothing on the other ranks."""
        if self._rank != 0:
            return
        work, answer = self._pending.pop(0)
        work.wait()
        self.ended.append(time.perf_counter())
        far = (answer - self._expected).abs().max() / self._expected.abs().max()
        if far > TOLERANCE:
            sys.exit(f"the pipeline answers something else than the model: off by {far:.2g}")


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], float(sys.argv[3]), Path(sys.argv[4]))
