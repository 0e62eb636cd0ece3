"""Dynamic batching: many concurrent requests, one program, a compute thread per lane.

    submit(arrays) → queue → gather ─┬→ its batch buffer → program.run → rows back → await returns
                     one at a time   └→ another lane's …

A compute thread never waits while there is work: a batch holds the requests that arrived since
the previous one was gathered, up to ``max_batch_size``. Only an idle thread may delay a request,
for at most ``max_wait_ms``. The program runs without Python's lock, so the event loop reads and
decodes the next requests meanwhile. A pipelined program has several lanes, with one batch in
flight for each.
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
from typing import Protocol

import numpy as np

from cluster.config.serving import Batching
from cluster.errors import GroupLostError, HeadraceError, ProgramError, RequestError
from cluster.runtime.priority_queue import Priority, PriorityQueue
from cluster.tensors import TensorSpec

logger = logging.getLogger(__name__)

Run = Callable[[list[np.ndarray]], tuple[Sequence[np.ndarray], tuple[float, ...]]]
"""Inputs → outputs, and the seconds computed in each stage, empty for an undivided program."""

_CLOSED = "the replica is shutting down; send the request again"


@dataclass(frozen=True)
class Answer:
    """Outputs of one request, with its times in seconds and its batch size in items."""

    outputs: tuple[np.ndarray, ...]
    queue_s: float
    compute_s: float
    stage_s: tuple[float, ...]
    """Part of ``compute_s`` in each stage of a pipelined program."""

    batch_size: int
    first: bool
    """Whether this is the first answer of its batch, by which batches are counted."""


class Mark(Protocol):
    """Mark of a request that a batch runs, for other processes; see `fatal_requests.py`."""

    alone: bool
    """Whether the request must share its batch with no other."""

    def begin(self) -> None: ...

    def end(self) -> None: ...


@dataclass(eq=False)
class _Item:
    arrays: Sequence[np.ndarray]
    future: asyncio.Future[Answer]
    mark: Mark | None
    queued_at: float = field(default_factory=time.perf_counter)
    _claimed: bool = False
    abandoned: bool = False

    @property
    def rows(self) -> int:
        return int(self.arrays[0].shape[0])

    @property
    def alone(self) -> bool:
        return self.mark is not None and self.mark.alone

    def abandon(self) -> None:
        """Mark the request as cancelled: it takes no place in a batch, and releases its memory."""
        self.abandoned = True
        if not self._claimed:
            self.arrays = ()

    def claim(self) -> bool:
        """Claim the request for a batch; return False if it was abandoned before.

        The arrays of a claimed request stay, even if it is abandoned later.
        """
        # Write, then read, in the opposite order of abandon(): one of them always sees the other.
        self._claimed = True
        return not self.abandoned


class Batcher:
    """Dynamic batcher of one program. For one event loop."""

    def __init__(
        self,
        run: Run,
        inputs: Sequence[TensorSpec],
        batching: Batching,
        lanes: int = 1,
        *,
        one_by_one: bool = False,
    ) -> None:
        """``one_by_one``: the program computes one item per run; requests are neither joined nor
        padded.
        """
        if lanes < 1:
            raise ValueError(f"lanes={lanes}: expected 1 or more")
        self._run = run
        self._inputs = tuple(inputs)
        self._batching = batching
        self._one_by_one = one_by_one
        self._queue: PriorityQueue[_Item | None] = PriorityQueue()
        self._gathering = threading.Lock()
        self._overflow: _Item | None = None
        self._closed = False
        self._closing = threading.Lock()
        self.last_finished = time.monotonic()
        """Monotonic time of the last batch that was computed without an error."""
        self._threads = [
            threading.Thread(target=self._compute, name=f"compute-{lane}", daemon=True)
            for lane in range(lanes)
        ]
        for thread in self._threads:
            thread.start()

    async def submit(
        self,
        arrays: Sequence[np.ndarray],
        priority: Priority = Priority.INTERACTIVE,
        mark: Mark | None = None,
    ) -> Answer:
        """Run one request's arrays ``[rows, ...]``, one per input, with equal numbers of rows.

        ``mark`` begins before the program runs on the request, and ends after it.

        Raises RequestError if the arrays do not match the inputs or exceed a batch, ProgramError if
        the program fails on them or the batcher is closed, and GroupLostError if the program's
        shards are lost. The request of a cancelled caller is dropped before it runs.
        """
        self._check(arrays)
        if arrays[0].shape[0] > self._batching.max_batch_size:
            raise RequestError(
                f"the request holds {arrays[0].shape[0]} items, this model takes at most "
                f"{self._batching.max_batch_size} in one request; split it"
            )
        item = _Item(arrays, asyncio.get_running_loop().create_future(), mark)
        with self._closing:  # no request may enter the queue after a thread has drained it
            if self._closed:
                raise ProgramError(_CLOSED)
            self._queue.put(item, priority)
        try:
            return await item.future
        except asyncio.CancelledError:
            item.abandon()
            raise

    def _check(self, arrays: Sequence[np.ndarray]) -> None:
        # Copying into the batch would silently broadcast or convert arrays that do not match.
        actual = [(array.dtype, array.shape) for array in arrays]
        rows = arrays[0].shape[:1] if arrays else ()
        if actual != [(spec.dtype, (*rows, *spec.item_shape)) for spec in self._inputs]:
            expected = ", ".join(f"{s.name} {s.dtype}{list(s.shape)}" for s in self._inputs)
            raise RequestError(
                f"expected {expected} with equal numbers of items, got "
                + (", ".join(f"{dtype}{list(shape)}" for dtype, shape in actual) or "no arrays")
            )

    @property
    def alive(self) -> bool:
        """Whether every compute thread runs."""
        return all(thread.is_alive() for thread in self._threads)

    def close(self) -> None:
        """Finish the batches in flight, fail pending requests and end the compute threads."""
        with self._closing:
            self._closed = True
            self._queue.put(None)  # wakes an idle thread
        for thread in self._threads:
            thread.join()

    # ------------------------------------------------------------------ the compute threads

    def _compute(self) -> None:
        # One row block per input, refilled for every batch: nothing is allocated per run.
        buffers = [spec.zeros(self._batching.max_batch_size) for spec in self._inputs]
        while (batch := self._next_batch()) is not None:
            if live := [item for item in batch if not item.abandoned]:
                self._answer(live, buffers)

    def _next_batch(self) -> list[_Item] | None:
        with self._gathering:
            if (batch := self._gather()) is None:
                self._refuse_pending()
            return batch

    def _refuse_pending(self) -> None:
        pending = [self._overflow] if self._overflow else []
        self._overflow = None
        while not self._queue.empty():
            if (item := self._queue.get()) is not None:
                pending.append(item)
        _deliver([(item, ProgramError(_CLOSED)) for item in pending])

    def _gather(self) -> list[_Item] | None:
        """Return the next batch, or None once the batcher is closed."""
        if self._closed:
            return None
        first = self._overflow or self._queue.get()
        self._overflow = None
        while first is not None and not first.claim():
            first = self._queue.get()
        if first is None:
            return None
        batch, rows = [first], first.rows
        if self._one_by_one:
            return batch
        # Counted from its arrival: a request that waited for the previous run is not delayed again.
        deadline = first.queued_at + self._batching.max_wait_ms / 1e3
        while rows < self._batching.max_batch_size and not first.alone:
            try:
                wait_s = deadline - time.perf_counter()
                item = self._queue.get(max(0.0, wait_s))
            except Empty:
                break
            if item is None:
                break  # closed: this batch is the last
            if not item.claim():
                continue
            if rows + item.rows > self._batching.max_batch_size or item.alone:
                self._overflow = item
                break
            batch.append(item)
            rows += item.rows
        return batch

    def _answer(self, batch: list[_Item], buffers: Sequence[np.ndarray]) -> None:
        started = time.perf_counter()
        rows = sum(item.rows for item in batch)
        marks = [item.mark for item in batch if item.mark is not None]
        for mark in marks:
            mark.begin()
        try:
            outputs, stage_s = self._run(self._join(batch, rows, buffers))
        except GroupLostError as error:
            # No group remains to retry them on one by one. The marks stay: one of the requests may
            # have ended a shard, and this process ends with it.
            _deliver([(item, error) for item in batch])
            return
        except Exception as error:
            for mark in marks:
                mark.end()
            if len(batch) > 1:
                # One request may have caused the failure; the others still get answers.
                for item in batch:
                    if not item.abandoned:  # else its mark may be gone
                        self._answer([item], buffers)
                return
            failure = error if isinstance(error, HeadraceError) else ProgramError(str(error))
            if not isinstance(error, RequestError):
                logger.exception("the program failed on a batch of %d", rows)
            _deliver([(batch[0], failure)])
            return
        for mark in marks:
            mark.end()
        compute_s = time.perf_counter() - started
        self.last_finished = time.monotonic()
        results: list[tuple[_Item, Answer | HeadraceError]] = []
        start = 0
        for item in batch:
            item_outputs = tuple(output[start : start + item.rows] for output in outputs)
            queue_s = started - item.queued_at
            first = item is batch[0]
            results.append((item, Answer(item_outputs, queue_s, compute_s, stage_s, rows, first)))
            start += item.rows
        _deliver(results)

    def _join(
        self, batch: list[_Item], rows: int, buffers: Sequence[np.ndarray]
    ) -> list[np.ndarray]:
        """Return the batch as one array per input, padded with zeros up to its bucket."""
        size = self._bucket(rows)
        if len(batch) == 1 and size == rows and all(map(_usable, batch[0].arrays)):
            return list(batch[0].arrays)  # already one array: nothing to copy
        inputs = []
        for index, buffer in enumerate(buffers):
            start = 0
            for item in batch:
                buffer[start : start + item.rows] = item.arrays[index]
                start += item.rows
            buffer[start:size] = 0
            inputs.append(buffer[:size])
        return inputs

    def _bucket(self, rows: int) -> int:
        buckets = self._batching.buckets
        if buckets is None or self._one_by_one:
            return rows
        return next(size for size in buckets if size >= rows)


def _usable(array: np.ndarray) -> bool:
    return array.flags.c_contiguous and array.flags.aligned


def _deliver(results: Sequence[tuple[_Item, Answer | HeadraceError]]) -> None:
    """Hand all results to the event loop in one call: a wake-up costs more than a result."""
    if results:
        # A closed loop has no callers left to answer.
        with contextlib.suppress(RuntimeError):
            results[0][0].future.get_loop().call_soon_threadsafe(_settle, results)


def _settle(results: Sequence[tuple[_Item, Answer | HeadraceError]]) -> None:
    for item, result in results:
        if item.future.done():
            continue  # the client disconnected during the computation
        if isinstance(result, Answer):
            item.future.set_result(result)
        else:
            item.future.set_exception(result)
