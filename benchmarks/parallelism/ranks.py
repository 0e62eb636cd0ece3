"""Eager PyTorch in two gloo processes: torch.distributed.pipelining, and Accelerate around it.

    rank 0: batch → micro-batches → stage 0 ─→ rank 1: stage 1 ─→ answers back to rank 0

Each rank: python -m benchmarks.parallelism.ranks PEER MODEL SECONDS RESULT, with RANK and the other
variables of torch.distributed in the environment. The model is cut before the block where half of
the eager time is spent. A batch enters the pipeline before the batch ahead of it is answered.
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

from benchmarks.artifacts.program import COMPUTE_THREADS
from benchmarks.parallelism import pace
from benchmarks.parallelism.fed import SERVED_BATCH, FeedResult
from benchmarks.parallelism.inputs import items
from benchmarks.parallelism.models import FACTORIES, blocks

ITEMS = 8 * SERVED_BATCH
"""Items of one call: 8 micro-batches share the cost of filling and draining the pipeline."""

TOLERANCE = 1e-3

Step = Callable[[torch.Tensor], Any]
"""Send the batch on rank 0, which other ranks ignore; return the answer on the last rank."""

_WARM_UP = 3
_MOST_CALLS = 10_000


def main(peer: str, model: str, seconds: float, result: Path) -> None:
    """Run one rank; the first writes the figures to ``result``."""
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
        ended = [
            _calls(step, inputs, outputs, rank, seconds, overlapping)
            for step, inputs, outputs, overlapping in (
                (alone, batch[:1], expected[:1], False),
                (several, batch, expected, True),
            )
        ]
    if rank == 0:
        latency = median(b - a for a, b in zip(ended[0], ended[0][1:], strict=False)) * 1e3
        fed = FeedResult(latency, {size: pace.rate(ended[1], ITEMS, 2)})
        result.write_text(json.dumps({**asdict(fed), "before": before}))
    dist.barrier()
    dist.destroy_process_group()


def start(peer: str) -> None:
    """Join the process group as the peer does."""
    if peer == "accelerate":
        from accelerate import PartialState

        PartialState(cpu=True, backend="gloo")
    else:
        dist.init_process_group("gloo")


def gpipe(
    module: nn.Module, before: str, example: torch.Tensor, micro_batches: int, rank: int
) -> Step:
    """Return the step of PyTorch's ScheduleGPipe over a PipelineStage of ``pipeline()``."""
    from torch.distributed.pipelining import ScheduleGPipe, SplitPoint, pipeline

    cut = {before: SplitPoint.BEGINNING}
    pipe = pipeline(copy.deepcopy(module), mb_args=(example,), split_spec=cut)
    schedule = ScheduleGPipe(pipe.build_stage(rank, torch.device("cpu")), micro_batches)
    return lambda batch: schedule.step(batch) if rank == 0 else schedule.step()


def prepared(
    module: nn.Module, before: str, example: torch.Tensor, micro_batches: int, rank: int
) -> Step:
    """Return the step of Accelerate's ``prepare_pippy``.

    ``gather_output`` is off: it fails over gloo.
    """
    from accelerate.inference import prepare_pippy

    module = prepare_pippy(
        copy.deepcopy(module),
        split_points=[before],
        example_args=(example,),
        num_chunks=micro_batches,
    )
    return lambda batch: module(batch) if rank == 0 else module()


# Accelerate pads even a batch that divides evenly, unless every micro-batch holds one item.
_PEERS = {"torch-pipelining": (gpipe, SERVED_BATCH), "accelerate": (prepared, 1)}


def _agreed_cut(module: nn.Module, one: torch.Tensor, rank: int) -> str:
    """Return the block before which half of the time is spent, measured on the first rank."""
    names = blocks(module)
    index = torch.tensor([_half(module, names, one) if rank == 0 else 0])
    dist.broadcast(index, 0)
    return names[int(index)]


def _half(module: nn.Module, names: list[str], one: torch.Tensor) -> int:
    reached: dict[str, list[float]] = {name: [] for name in names}
    durations: list[float] = []
    started = time.perf_counter()
    hooks = [
        module.get_submodule(name).register_forward_pre_hook(
            lambda *_, name=name: reached[name].append(time.perf_counter() - started)
        )
        for name in names
    ]
    for _ in range(_WARM_UP + pace.LEAST):
        started = time.perf_counter()
        module(one)
        durations.append(time.perf_counter() - started)
    for hook in hooks:
        hook.remove()
    half = median(durations[_WARM_UP:]) / 2
    return min(range(1, len(names)), key=lambda n: abs(median(reached[names[n]][_WARM_UP:]) - half))


def _calls(
    step: Step,
    batch: torch.Tensor,
    expected: torch.Tensor,
    rank: int,
    seconds: float,
    overlapping: bool,
) -> list[float]:
    """Return when each answer arrived, on the first rank.

    ``overlapping``: a call starts before the previous call is answered.
    """
    calls = _Calls(step, batch, expected, rank)
    started = time.perf_counter()
    for _ in range(_WARM_UP):
        calls.call()
        calls.wait()
    duration = (time.perf_counter() - started) / _WARM_UP
    count = torch.tensor([min(_MOST_CALLS, max(2 * pace.LEAST, round(seconds / duration)))])
    dist.broadcast(count, 0)
    calls.ended.clear()
    for number in range(int(count)):
        calls.call()
        if not overlapping or number > 0:
            calls.wait()
    if overlapping:
        calls.wait()
    return calls.ended


class _Calls:
    """Calls of one step and their answers, which the last rank sends to the first."""

    def __init__(self, step: Step, batch: torch.Tensor, expected: torch.Tensor, rank: int) -> None:
        self._step, self._batch, self._expected, self._rank = step, batch, expected, rank
        self._pending: list[tuple[Any, torch.Tensor]] = []
        self.ended: list[float] = []

    def call(self) -> None:
        answer = self._step(self._batch)
        if self._rank == 0:
            received = torch.empty_like(self._expected)
            self._pending.append((dist.irecv(received, 1), received))
        else:
            dist.send(answer.contiguous(), 0)

    def wait(self) -> None:
        """Wait for the oldest answer and check it; return at once on the other ranks."""
        if self._rank != 0:
            return
        work, answer = self._pending.pop(0)
        work.wait()
        self.ended.append(time.perf_counter())
        difference = (answer - self._expected).abs().max() / self._expected.abs().max()
        if difference > TOLERANCE:
            sys.exit(
                f"the pipeline answers other outputs than the model: the difference is "
                f"{difference:.2g} of the largest, at most {TOLERANCE:g} is allowed"
            )


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], float(sys.argv[3]), Path(sys.argv[4]))
