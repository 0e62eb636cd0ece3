"""One shard: a stage of a pipelined program, or its part on one tensor rank.

    receiver thread: transport.receive → one frame ahead ─┐
    serve():                        take → run → transport.send to the next stage

The next frame arrives and the last one leaves while this one is computed. A batch that the
program refuses goes on as a frame with an error in place of its arrays; the shard lives.

All tensor ranks of a stage are expected to refuse the same batches. If one refuses what
another computes, that one waits in a reduction for a mate that never comes, until the replica
gives the group up.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from queue import SimpleQueue

import numpy as np

from cluster.errors import ProgramError
from cluster.runtime.transport import Frame, Transport

Run = Callable[[list[np.ndarray]], list[np.ndarray]]
"""C-contiguous arrays ``[batch, ...]`` → new arrays. Raises ProgramError for a bad batch."""


@dataclass(frozen=True)
class ShardFigures:
    """What a shard has done since it started. Seconds add up over micro-batches."""

    micro_batches: int = 0
    """Computed, or refused by this shard's program."""
    items: int = 0
    compute_s: float = 0.0
    wait_s: float = 0.0
    """Time without a frame to compute, up to now."""
    bubble_s: float = 0.0
    """The part of ``wait_s`` during which the next frame was inside the pipeline already. Across
    nodes it is as good as their clocks agree."""
    transfer_s: float = 0.0
    """Time that frames took to arrive once announced, and to hand over to the transport."""


class Shard:
    """Computes what ``source`` sends and passes it on to each of ``targets``.

    At most ``ahead`` frames wait here while another one is computed. ``figures``: what the shard
    has done before, with other peers or in another process.
    """

    def __init__(
        self,
        run: Run,
        transport: Transport,
        source: int,
        targets: Sequence[int],
        ahead: int = 1,
        figures: ShardFigures = ShardFigures(),
    ) -> None:
        if ahead < 1:
            raise ValueError(f"ahead={ahead}: expected 1 or more frames")
        self._run = run
        self._transport = transport
        self._source = source
        self._targets = tuple(targets)
        self._arrived: SimpleQueue[Frame | Exception] = SimpleQueue()
        self._places = threading.Semaphore(ahead)
        self._ended = False
        # The figures, and since when it has been waiting. Replaced as a whole by serve() alone, so
        # that any thread reads what belongs together.
        self._so_far: tuple[ShardFigures, float | None] = (figures, None)

    def figures(self) -> ShardFigures:
        """The figures so far, from any thread."""
        figures, since = self._so_far
        if since is None:
            return figures
        return replace(figures, wait_s=figures.wait_s + time.perf_counter() - since)

    def serve(self) -> None:
        """Compute until a stop frame comes, and pass that on as well. Closes the transport.

        Raises TransportError when a peer is gone, and whatever the program raises that is not a
        ProgramError: the transport is closed then, too, so that the whole group learns of it.
        """
        receiver = threading.Thread(target=self._receive, name="receive", daemon=True)
        receiver.start()
        try:
            while not (frame := self._take()).stops:
                self._pass_on(frame if frame.error is not None else self._computed(frame))
            self._pass_on(frame)
        finally:
            self._ended = True
            self._places.release()
            self._transport.close()
            receiver.join()

    def _receive(self) -> None:
        while True:
            self._places.acquire()
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
        figures, _ = self._so_far
        self._so_far = (figures, started)
        frame = self._arrived.get()
        wait_s = time.perf_counter() - started
        self._places.release()
        if isinstance(frame, Exception):
            raise frame
        inside_s = 0.0 if frame.stops else max(0.0, time.time() - frame.entered_at)
        figures = replace(
            figures,
            wait_s=figures.wait_s + wait_s,
            bubble_s=figures.bubble_s + min(wait_s, inside_s),
            transfer_s=figures.transfer_s + frame.arriving_s,
        )
        self._so_far = (figures, None)
        return frame

    def _computed(self, frame: Frame) -> Frame:
        started = time.perf_counter()
        try:
            computed = replace(frame, arrays=tuple(self._run(list(frame.arrays))))
        except ProgramError as error:
            computed = replace(frame, arrays=(), error=str(error))
        took_s = time.perf_counter() - started
        figures, _ = self._so_far
        figures = replace(
            figures,
            micro_batches=figures.micro_batches + 1,
            items=figures.items + (len(frame.arrays[0]) if frame.arrays else 0),
            compute_s=figures.compute_s + took_s,
        )
        self._so_far = (figures, None)
        return replace(computed, stage_s=(*frame.stage_s, took_s))

    def _pass_on(self, frame: Frame) -> None:
        started = time.perf_counter()
        for target in self._targets:
            self._transport.send(target, frame)
        figures, _ = self._so_far
        spent_s = time.perf_counter() - started
        self._so_far = (replace(figures, transfer_s=figures.transfer_s + spent_s), None)
