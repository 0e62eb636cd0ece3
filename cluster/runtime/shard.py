"""One shard: a stage of a pipelined program, or one tensor rank's part of it.

    receiver thread: transport.receive → one prefetched frame ─┐
    serve():                              take → run → transport.send to the next stage

While a frame is computed, the next one is received and the previous one is sent. A batch that
the program refuses is passed on as a frame with an error instead of arrays; the shard continues.

All tensor ranks of a stage are expected to refuse the same batches. If one rank refuses a batch
that another computes, the other rank blocks in its reduction until the replica breaks the group.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from queue import SimpleQueue

import numpy as np

from cluster.errors import ProgramError, RequestError
from cluster.runtime.transport import Frame, Transport

Run = Callable[[list[np.ndarray]], list[np.ndarray]]
"""C-contiguous arrays ``[batch, ...]`` → new arrays. ProgramError or RequestError: a bad batch."""


@dataclass(frozen=True)
class ShardCounters:
    """Counters of one shard since its start. Seconds are summed over micro-batches."""

    micro_batches: int = 0
    """Micro-batches that were computed or refused by this shard's program."""
    items: int = 0
    compute_s: float = 0.0
    wait_s: float = 0.0
    """Time without a frame to compute, up to now."""
    bubble_s: float = 0.0
    """Part of ``wait_s`` during which the next frame was already inside the pipeline. Across nodes
    it is as accurate as their clocks agree."""
    transfer_s: float = 0.0
    """Time to receive frames once announced, and to hand frames to the transport."""


class ShardLoop:
    """A compute loop between one ``source`` and its ``targets``.

    At most ``ahead`` frames are prefetched while another one is computed. ``counters``: those
    to continue from, of earlier connections or of another process.
    """

    def __init__(
        self,
        run: Run,
        transport: Transport,
        source: int,
        targets: Sequence[int],
        ahead: int = 1,
        counters: ShardCounters = ShardCounters(),
    ) -> None:
        if ahead < 1:
            raise ValueError(f"ahead={ahead}: expected 1 or more frames")
        self._run = run
        self._transport = transport
        self._source = source
        self._targets = tuple(targets)
        self._arrived: SimpleQueue[Frame | Exception] = SimpleQueue()
        self._prefetch = threading.Semaphore(ahead)
        self._ended = False
        # Counters and the start of the current wait. Only serve() replaces the pair, as a whole, so
        # that any thread reads a consistent state.
        self._state: tuple[ShardCounters, float | None] = (counters, None)

    def counters(self) -> ShardCounters:
        """Return the counters up to now; from any thread."""
        counters, since = self._state
        if since is None:
            return counters
        return replace(counters, wait_s=counters.wait_s + time.perf_counter() - since)

    def serve(self) -> None:
        """Compute until a stop frame arrives, pass that on as well, and close the transport.

        Raises TransportError when a peer is unavailable, and any error of the program except those
        of :data:`Run`. The transport is closed in both cases, so that the whole group is notified.
        """
        receiver = threading.Thread(target=self._receive, name="receive", daemon=True)
        receiver.start()
        try:
            while not (frame := self._take()).stops:
                self._pass_on(frame if frame.error is not None else self._compute(frame))
            self._pass_on(frame)
        finally:
            self._ended = True
            self._prefetch.release()
            self._transport.close()
            receiver.join()

    def _receive(self) -> None:
        while True:
            self._prefetch.acquire()
            if self._ended:
                return
            try:
                frame = self._transport.receive(self._source)
            except Exception as error:  # noqa: BLE001 - raised again by serve()
                self._arrived.put(error)
                return
            self._arrived.put(frame)
            if frame.stops:
                return

    def _take(self) -> Frame:
        started = time.perf_counter()
        counters, _ = self._state
        self._state = (counters, started)
        frame = self._arrived.get()
        wait_s = time.perf_counter() - started
        self._prefetch.release()
        if isinstance(frame, Exception):
            raise frame
        inside_s = 0.0 if frame.stops else max(0.0, time.time() - frame.entered_at)
        counters = replace(
            counters,
            wait_s=counters.wait_s + wait_s,
            bubble_s=counters.bubble_s + min(wait_s, inside_s),
            transfer_s=counters.transfer_s + frame.arriving_s,
        )
        self._state = (counters, None)
        return frame

    def _compute(self, frame: Frame) -> Frame:
        started = time.perf_counter()
        try:
            result = replace(frame, arrays=tuple(self._run(list(frame.arrays))))
        except (ProgramError, RequestError) as error:
            refuses_input = isinstance(error, RequestError)
            result = replace(frame, arrays=(), error=str(error), refuses_input=refuses_input)
        took_s = time.perf_counter() - started
        counters, _ = self._state
        counters = replace(
            counters,
            micro_batches=counters.micro_batches + 1,
            items=counters.items + (len(frame.arrays[0]) if frame.arrays else 0),
            compute_s=counters.compute_s + took_s,
        )
        self._state = (counters, None)
        return replace(result, stage_s=(*frame.stage_s, took_s))

    def _pass_on(self, frame: Frame) -> None:
        started = time.perf_counter()
        for target in self._targets:
            self._transport.send(target, frame)
        counters, _ = self._state
        spent_s = time.perf_counter() - started
        self._state = (replace(counters, transfer_s=counters.transfer_s + spent_s), None)
