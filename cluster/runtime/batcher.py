"""Dynamic batching: many awaiting requests, one compute thread, one program.

    submit(arrays) → queue → gather → one batch buffer → program.run → rows back → await returns

The compute thread never waits while there is work: a batch is whatever arrived during the one
before it, up to ``max_batch_size``. Only an idle thread may hold a request back, for at most
``max_wait_ms``. The program runs without Python's lock, so the event loop reads and decodes
the next requests meanwhile.
"""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from queue import Empty, SimpleQueue

import numpy as np

from cluster.config.serving import Batching
from cluster.errors import ProgramError, RequestError
from cluster.tensors import TensorSpec

logger = logging.getLogger(__name__)

Run = Callable[[list[np.ndarray]], list[np.ndarray]]


@dataclass(frozen=True)
class Answer:
    """The outputs for one request and how it fared, in seconds and items."""

    outputs: tuple[np.ndarray, ...]
    queue_s: float
    compute_s: float
    batch_size: int


@dataclass(eq=False)
class _Item:
    arrays: Sequence[np.ndarray]
    future: asyncio.Future[Answer]
    queued_at: float = field(default_factory=time.perf_counter)
    abandoned: bool = False

    @property
    def rows(self) -> int:
        return int(self.arrays[0].shape[0])


class Batcher:
    """Joins requests into batches for one program. Use it from one event loop."""

    def __init__(self, run: Run, inputs: Sequence[TensorSpec], batching: Batching) -> None:
        self._run = run
        self._batching = batching
        # One row block per input, filled anew for every batch: nothing is allocated per run.
        self._buffers = [spec.zeros(batching.max_batch_size) for spec in inputs]
        self._queue: SimpleQueue[_Item | None] = SimpleQueue()
        self._held: _Item | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self.last_finished = time.monotonic()
        """When the compute thread last finished a batch, on the monotonic clock."""
        self._thread = threading.Thread(target=self._compute, name="compute", daemon=True)
        self._thread.start()

    async def submit(self, arrays: Sequence[np.ndarray]) -> Answer:
        """Run one request's arrays ``[rows, ...]``, one per input and all with the same rows.

        Raises RequestError if there are more rows than a batch holds and ProgramError if the
        program fails on these arrays. A cancelled caller's request is dropped before it runs.
        """
        if arrays[0].shape[0] > self._batching.max_batch_size:
            raise RequestError(
                f"the request holds {arrays[0].shape[0]} items, this model takes at most "
                f"{self._batching.max_batch_size} in one request; split it"
            )
        self._loop = asyncio.get_running_loop()
        item = _Item(arrays, self._loop.create_future())
        self._queue.put(item)
        try:
            return await item.future
        except asyncio.CancelledError:
            item.abandoned = True
            raise

    @property
    def alive(self) -> bool:
        """Whether the compute thread runs."""
        return self._thread.is_alive()

    def close(self) -> None:
        """Let the batch under way finish, fail what still waits, and end the compute thread."""
        self._queue.put(None)
        self._thread.join()

    # ------------------------------------------------------------------ the compute thread

    def _compute(self) -> None:
        while (batch := self._gather()) is not None:
            if live := [item for item in batch if not item.abandoned]:
                self._answer(live)
            self.last_finished = time.monotonic()
        waiting = [self._held] if self._held else []
        while not self._queue.empty():
            if (item := self._queue.get()) is not None:
                waiting.append(item)
        if waiting:
            gone = ProgramError("the replica is shutting down; send the request again")
            self._deliver([(item, gone) for item in waiting])

    def _gather(self) -> list[_Item] | None:
        """The next batch, or None when the batcher was closed."""
        first = self._held or self._queue.get()
        self._held = None
        if first is None:
            return None
        batch, rows = [first], first.rows
        deadline = time.perf_counter() + self._batching.max_wait_ms / 1e3
        while rows < self._batching.max_batch_size:
            try:
                wait_s = deadline - time.perf_counter()
                item = self._queue.get(timeout=wait_s) if wait_s > 0 else self._queue.get_nowait()
            except Empty:
                break
            if item is None:
                self._queue.put(None)  # closing: this batch is the last
                break
            if rows + item.rows > self._batching.max_batch_size:
                self._held = item
                break
            batch.append(item)
            rows += item.rows
        return batch

    def _answer(self, batch: list[_Item]) -> None:
        started = time.perf_counter()
        rows = sum(item.rows for item in batch)
        try:
            outputs = self._run(self._joined(batch, rows))
        except Exception as error:
            if len(batch) > 1:
                # One request may have made the program fail; its mates still get answers.
                for item in batch:
                    self._answer([item])
                return
            logger.exception("the program failed on a batch of %d", rows)
            failure = error if isinstance(error, ProgramError) else ProgramError(str(error))
            self._deliver([(batch[0], failure)])
            return
        compute_s = time.perf_counter() - started
        results: list[tuple[_Item, Answer | ProgramError]] = []
        start = 0
        for item in batch:
            taken = tuple(output[start : start + item.rows] for output in outputs)
            results.append((item, Answer(taken, started - item.queued_at, compute_s, rows)))
            start += item.rows
        self._deliver(results)

    def _joined(self, batch: list[_Item], rows: int) -> list[np.ndarray]:
        """The batch as one array per input, padded with zeros up to its bucket."""
        size = self._bucket(rows)
        if len(batch) == 1 and size == rows and all(a.flags.aligned for a in batch[0].arrays):
            return list(batch[0].arrays)  # already whole: nothing to copy
        joined = []
        for index, buffer in enumerate(self._buffers):
            start = 0
            for item in batch:
                buffer[start : start + item.rows] = item.arrays[index]
                start += item.rows
            buffer[start:size] = 0
            joined.append(buffer[:size])
        return joined

    def _bucket(self, rows: int) -> int:
        buckets = self._batching.buckets
        return rows if buckets is None else next(size for size in buckets if size >= rows)

    def _deliver(self, results: Sequence[tuple[_Item, Answer | ProgramError]]) -> None:
        """Hand the results to the event loop in one go: waking it costs more than one result."""
        if self._loop is None or self._loop.is_closed():
            return
        self._loop.call_soon_threadsafe(_settle, results)


def _settle(results: Sequence[tuple[_Item, Answer | ProgramError]]) -> None:
    for item, result in results:
        if item.future.done():
            continue  # the client went away while its answer was computed
        if isinstance(result, Answer):
            item.future.set_result(result)
        else:
            item.future.set_exception(result)
