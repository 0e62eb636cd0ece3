"""Dynamic batching: many awaiting requests, one program, a compute thread per lane.

    submit(arrays) → queue → gather ─┬→ its batch buffer → program.run → rows back → await returns
                     one at a time   └→ another lane's …

A compute thread never waits while there is work: a batch is whatever arrived since the one
before it was gathered, up to ``max_batch_size``. Only an idle thread may hold a request back, for
at most ``max_wait_ms``. The program runs without Python's lock, so the event loop reads and
decodes the next requests meanwhile. A pipelined program takes several lanes: one batch each is
under way in it.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from queue import Empty

import numpy as np

from cluster.config.serving import Batching
from cluster.errors import GroupLostError, HeadraceError, ProgramError, RequestError
from cluster.runtime.waiting_line import Priority, WaitingLine
from cluster.tensors import TensorSpec

logger = logging.getLogger(__name__)

Run = Callable[[list[np.ndarray]], tuple[Sequence[np.ndarray], tuple[float, ...]]]
"""Inputs → outputs, and the seconds that each stage computed: none of a program that is whole."""

_CLOSED = "the replica is shutting down; send the request again"


@dataclass(frozen=True)
class Answer:
    """The outputs for one request and how it fared, in seconds and items."""

    outputs: tuple[np.ndarray, ...]
    queue_s: float
    compute_s: float
    stage_s: tuple[float, ...]
    """The part of ``compute_s`` in every stage of a pipelined program."""

    batch_size: int
    first: bool
    """Whether this is the first answer of its batch: the one to count the batch by."""


@dataclass(eq=False)
class _Item:
    arrays: Sequence[np.ndarray]
    future: asyncio.Future[Answer]
    queued_at: float = field(default_factory=time.perf_counter)
    _taken: bool = False
    abandoned: bool = False

    @property
    def rows(self) -> int:
        return int(self.arrays[0].shape[0])

    def abandon(self) -> None:
        """Its caller is gone: it takes no place in a batch, nor memory while it waits."""
        self.abandoned = True
        if not self._taken:
            self.arrays = ()

    def take(self) -> bool:
        """Whether it is still wanted; its arrays stay, even if it is abandoned after this."""
        # Marked before it looks, as abandon() does the other way round: one of them always sees.
        self._taken = True
        return not self.abandoned


class Batcher:
    """Joins requests into batches for one program. Use it from one event loop."""

    def __init__(
        self, run: Run, inputs: Sequence[TensorSpec], batching: Batching, lanes: int = 1
    ) -> None:
        if lanes < 1:
            raise ValueError(f"lanes={lanes}: expected 1 or more")
        self._run = run
        self._inputs = tuple(inputs)
        self._batching = batching
        self._queue: WaitingLine[_Item | None] = WaitingLine()
        self._gathering = threading.Lock()
        self._held: _Item | None = None
        self._closed = False
        self._closing = threading.Lock()
        self.last_finished = time.monotonic()
        """When a program last computed a batch without an error, on the monotonic clock."""
        self._threads = [
            threading.Thread(target=self._compute, name=f"compute-{lane}", daemon=True)
            for lane in range(lanes)
        ]
        for thread in self._threads:
            thread.start()

    async def submit(
        self, arrays: Sequence[np.ndarray], priority: Priority = Priority.INTERACTIVE
    ) -> Answer:
        """Run one request's arrays ``[rows, ...]``, one per input and all with the same rows.

        Raises RequestError if the arrays are not the inputs' or hold more rows than a batch, and
        ProgramError if the program fails on them or the batcher is closed; GroupLostError if the
        program's shards are lost. A cancelled caller's request is dropped before it runs.
        """
        self._check(arrays)
        if arrays[0].shape[0] > self._batching.max_batch_size:
            raise RequestError(
                f"the request holds {arrays[0].shape[0]} items, this model takes at most "
                f"{self._batching.max_batch_size} in one request; split it"
            )
        item = _Item(arrays, asyncio.get_running_loop().create_future())
        with self._closing:  # nothing may enter the queue after a thread has emptied it
            if self._closed:
                raise ProgramError(_CLOSED)
            self._queue.put(item, priority)
        try:
            return await item.future
        except asyncio.CancelledError:
            item.abandon()
            raise

    def _check(self, arrays: Sequence[np.ndarray]) -> None:
        # Writing into the batch would stretch or convert what does not fit, silently.
        given = [(array.dtype, array.shape) for array in arrays]
        rows = arrays[0].shape[:1] if arrays else ()
        if given != [(spec.dtype, (*rows, *spec.item_shape)) for spec in self._inputs]:
            expected = ", ".join(f"{s.name} {s.dtype}{list(s.shape)}" for s in self._inputs)
            raise RequestError(
                f"expected {expected} with one number of items, got "
                + (", ".join(f"{dtype}{list(shape)}" for dtype, shape in given) or "nothing")
            )

    @property
    def alive(self) -> bool:
        """Whether every compute thread runs."""
        return all(thread.is_alive() for thread in self._threads)

    def close(self) -> None:
        """Let the batches under way finish, fail what still waits, end the compute threads."""
        with self._closing:
            self._closed = True
            self._queue.put(None)  # wakes an idle thread
        for thread in self._threads:
            thread.join()

    # ------------------------------------------------------------------ the compute threads

    def _compute(self) -> None:
        # One row block per input, filled anew for every batch: nothing is allocated per run.
        buffers = [spec.zeros(self._batching.max_batch_size) for spec in self._inputs]
        while (batch := self._next_batch()) is not None:
            if live := [item for item in batch if not item.abandoned]:
                self._answer(live, buffers)

    def _next_batch(self) -> list[_Item] | None:
        with self._gathering:
            if (batch := self._gather()) is None:
                self._refuse_waiting()
            return batch

    def _refuse_waiting(self) -> None:
        waiting = [self._held] if self._held else []
        self._held = None
        while not self._queue.empty():
            if (item := self._queue.get()) is not None:
                waiting.append(item)
        _deliver([(item, ProgramError(_CLOSED)) for item in waiting])

    def _gather(self) -> list[_Item] | None:
        """The next batch, or None when the batcher was closed."""
        if self._closed:
            return None
        first = self._held or self._queue.get()
        self._held = None
        while first is not None and not first.take():
            first = self._queue.get()
        if first is None:
            return None
        batch, rows = [first], first.rows
        # From its arrival: what waited for the run before this one is not held back again.
        deadline = first.queued_at + self._batching.max_wait_ms / 1e3
        while rows < self._batching.max_batch_size:
            try:
                wait_s = deadline - time.perf_counter()
                item = self._queue.get(max(0.0, wait_s))
            except Empty:
                break
            if item is None:
                break  # closing: this batch is the last
            if not item.take():
                continue
            if rows + item.rows > self._batching.max_batch_size:
                self._held = item
                break
            batch.append(item)
            rows += item.rows
        return batch

    def _answer(self, batch: list[_Item], buffers: Sequence[np.ndarray]) -> None:
        started = time.perf_counter()
        rows = sum(item.rows for item in batch)
        try:
            outputs, stage_s = self._run(self._joined(batch, rows, buffers))
        except GroupLostError as error:
            # No request did that, and there is nothing left to try one by one on.
            _deliver([(item, error) for item in batch])
            return
        except Exception as error:
            if len(batch) > 1:
                # One request may have made the program fail; its mates still get answers.
                for item in batch:
                    self._answer([item], buffers)
                return
            logger.exception("the program failed on a batch of %d", rows)
            failure = error if isinstance(error, ProgramError) else ProgramError(str(error))
            _deliver([(batch[0], failure)])
            return
        compute_s = time.perf_counter() - started
        self.last_finished = time.monotonic()
        results: list[tuple[_Item, Answer | HeadraceError]] = []
        start = 0
        for item in batch:
            taken = tuple(output[start : start + item.rows] for output in outputs)
            queue_s = started - item.queued_at
            first = item is batch[0]
            results.append((item, Answer(taken, queue_s, compute_s, stage_s, rows, first)))
            start += item.rows
        _deliver(results)

    def _joined(
        self, batch: list[_Item], rows: int, buffers: Sequence[np.ndarray]
    ) -> list[np.ndarray]:
        """The batch as one array per input, padded with zeros up to its bucket."""
        size = self._bucket(rows)
        if len(batch) == 1 and size == rows and all(map(_usable, batch[0].arrays)):
            return list(batch[0].arrays)  # already whole: nothing to copy
        joined = []
        for index, buffer in enumerate(buffers):
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


def _usable(array: np.ndarray) -> bool:
    return array.flags.c_contiguous and array.flags.aligned


def _deliver(results: Sequence[tuple[_Item, Answer | HeadraceError]]) -> None:
    """Hand the results to the event loop in one go: waking it costs more than one result."""
    if results:
        # A loop that has ended takes nothing, and nobody waits there.
        with contextlib.suppress(RuntimeError):
            results[0][0].future.get_loop().call_soon_threadsafe(_settle, results)


def _settle(results: Sequence[tuple[_Item, Answer | HeadraceError]]) -> None:
    for item, result in results:
        if item.future.done():
            continue  # the client went away while its answer was computed
        if isinstance(result, Answer):
            item.future.set_result(result)
        else:
            item.future.set_exception(result)
