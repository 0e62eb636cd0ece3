"""Program for tests of the batcher, and functions that await its answers."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable

import numpy as np
import pytest

from cluster.errors import ProgramError
from cluster.runtime.batcher import Answer, Batcher
from cluster.tensors import TensorSpec

INPUT = TensorSpec(name="input", datatype="FP32", shape=(-1, 2))
WAIT_S = 20
"""Timeout of an answer in seconds: a test fails instead of hanging."""


def whole(run: Callable) -> Callable:
    """Return an undivided program in the batcher's form: outputs and no stage times."""
    return lambda arrays: (run(arrays), ())


class Doubler:
    """Program that doubles its input, records its batches and can be blocked."""

    def __init__(self) -> None:
        self.batches: list[np.ndarray] = []
        self.free = threading.Event()
        self.free.set()
        self.entered = threading.Event()
        self._hold_next = False

    def hold_next(self) -> None:
        """Let the current run finish and block the next one."""
        self._hold_next = True
        self.free.set()

    def __call__(self, arrays: list[np.ndarray]) -> list[np.ndarray]:
        self.batches.append(arrays[0].copy())
        self.entered.set()
        assert self.free.wait(WAIT_S)
        if self._hold_next:
            self._hold_next = False
            self.free.clear()
        if (arrays[0] < 0).any():
            raise ProgramError("a value is negative")
        return [arrays[0] * 2]

    @property
    def sizes(self) -> list[int]:
        return [len(batch) for batch in self.batches]


def row(value: float, rows: int = 1) -> list[np.ndarray]:
    return [np.full((rows, 2), value, np.float32)]


async def answer(batcher: Batcher, arrays: list[np.ndarray]) -> Answer:
    return await asyncio.wait_for(batcher.submit(arrays), WAIT_S)


async def submitted() -> None:
    """Let every created task run up to its place in the queue.

    It gets there in two turns of the event loop, the second being wait_for's in Python 3.11: submit
    waits for nothing before.
    """
    for _ in range(2):
        await asyncio.sleep(0)


async def until(true: Callable[[], bool]) -> None:
    for _ in range(int(WAIT_S / 0.005)):
        if true():
            return
        await asyncio.sleep(0.005)
    pytest.fail("it did not happen")


async def occupy(batcher: Batcher, program: Doubler) -> asyncio.Task[Answer]:
    """Block the compute thread in a run, so that later requests have to queue."""
    program.entered.clear()
    program.free.clear()
    task = asyncio.create_task(answer(batcher, row(1)))
    await until(program.entered.is_set)
    return task
