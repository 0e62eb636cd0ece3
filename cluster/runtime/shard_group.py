"""The replica's side of its shards: several micro-batches in flight at once.

    run(arrays), from several threads
      → a place among max_inflight → number → sender thread ──→ shards ──┐
      ← answer of that number ←────────────── receiver thread ←──────────┘

A group works as a whole or not at all. When a shard is lost, all requests in flight and all later
ones raise GroupLostError, and the owner of the group replaces it. The transport may wait for a
frozen shard without end, so no caller waits for the transport.
"""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Sequence
from dataclasses import replace
from queue import Empty, SimpleQueue

import numpy as np

from cluster.errors import GroupLostError, ProgramError, RequestError
from cluster.runtime.topology import Topology
from cluster.runtime.transport import STOP, Frame, Transport

_Reply = SimpleQueue[Frame | GroupLostError]


class ShardGroup:
    """Pipeline of ``stages`` × ``tensor_ranks`` shards, fed with micro-batches.

    ``transport`` is that of rank 0, owned by the group from here on. A micro-batch without an
    answer after ``timeout_s`` seconds breaks the group: its shards are considered frozen.
    """

    def __init__(
        self,
        transport: Transport,
        stages: int,
        tensor_ranks: int,
        max_inflight: int,
        timeout_s: float,
    ) -> None:
        if max_inflight < 1:
            raise ValueError(f"max_inflight={max_inflight}: expected 1 or more micro-batches")
        self.topology = Topology(stages, tensor_ranks)
        self.max_inflight = max_inflight
        self._transport = transport
        self._timeout_s = timeout_s
        # Guards the requests in flight, and wakes callers that wait for a place among them.
        self._changed = threading.Condition()
        self._replies: dict[int, _Reply] = {}
        self._broken: str | None = None
        self._closing = False
        self._numbers = itertools.count()
        self._entering: SimpleQueue[Frame | None] = SimpleQueue()
        self._threads = [
            threading.Thread(target=body, name=body.__name__, daemon=True)
            for body in (self._send, self._receive)
        ]
        for thread in self._threads:
            thread.start()

    def run(self, arrays: Sequence[np.ndarray]) -> list[np.ndarray]:
        """Return the program's outputs for one micro-batch; see :meth:`run_timed`."""
        return self.run_timed(arrays)[0]

    def run_timed(self, arrays: Sequence[np.ndarray]) -> tuple[list[np.ndarray], tuple[float, ...]]:
        """Return the program's outputs for one micro-batch, and the seconds computed in each stage.

        Any thread may call it. Raises ProgramError if a shard fails on this micro-batch,
        RequestError if one refuses its input, and GroupLostError if the group is broken or closed,
        or breaks during the call.
        """
        frame = Frame(next(self._numbers), tuple(arrays))
        reply: _Reply = SimpleQueue()
        self._enter(frame, reply)
        try:
            answer = reply.get(timeout=self._timeout_s)
        except Empty:
            self.fail(f"micro-batch {frame.number} took longer than {self._timeout_s:g} s")
            answer = reply.get()  # the answer may have arrived at the last moment
        if isinstance(answer, GroupLostError):
            raise answer
        if answer.error is not None:
            raise (RequestError if answer.refuses_input else ProgramError)(answer.error)
        return list(answer.arrays), answer.stage_s

    def fail(self, reason: str) -> None:
        """Break the group, from any thread, and end all waits for it at once."""
        with self._changed:
            if self._broken is None:
                self._broken = reason
            for reply in self._replies.values():
                reply.put(self._lost())
            self._replies.clear()
            self._changed.notify_all()

    @property
    def broken(self) -> str | None:
        """Reason for which the group is broken, or None while it works."""
        return self._broken

    @property
    def inflight(self) -> int:
        """Number of micro-batches in the pipeline."""
        return len(self._replies)

    def close(self, timeout_s: float | None = None) -> None:
        """Wait for the requests in flight, stop the shards and close the transport.

        After ``timeout_s`` (default: the timeout of a micro-batch), or at once if the group is
        broken, disconnect from the shards: those that still run notice it and end.
        """
        timeout_s = self._timeout_s if timeout_s is None else timeout_s
        with self._changed:
            first, self._closing = not self._closing, True
            self._changed.notify_all()
        if not first:
            return
        with self._changed:
            drained = self._changed.wait_for(lambda: not self._replies, timeout_s)
        if drained and self._broken is None:
            self._entering.put(Frame(STOP))
            for thread in self._threads:
                thread.join(timeout_s)
        self.fail("it was closed")
        self._entering.put(None)
        self._transport.close()
        for thread in self._threads:
            thread.join()

    def _enter(self, frame: Frame, reply: _Reply) -> None:
        """Wait for a place in the pipeline and send the micro-batch."""
        with self._changed:
            self._changed.wait_for(
                lambda: self._refuses() or len(self._replies) < self.max_inflight
            )
            if self._refuses():
                raise self._lost()
            self._replies[frame.number] = reply
        self._entering.put(replace(frame, entered_at=time.time()))

    def _refuses(self) -> bool:
        return self._closing or self._broken is not None

    def _lost(self) -> GroupLostError:
        return GroupLostError(
            f"a shard of this replica is unavailable: {self._broken or 'it is shutting down'}; "
            "send the request again, another replica answers it"
        )

    def _send(self) -> None:
        # One thread only: all tensor ranks must receive the micro-batches in the same order, or
        # their reductions would combine different ones.
        try:
            while (frame := self._entering.get()) is not None:
                for entry in self.topology.entries:
                    self._transport.send(entry, frame)
                if frame.stops:
                    return
        except Exception as error:  # noqa: BLE001 - e.g. no memory: notify all callers
            self.fail(str(error))

    def _receive(self) -> None:
        try:
            while not (frame := self._transport.receive(self.topology.exit)).stops:
                with self._changed:
                    reply = self._replies.pop(frame.number, None)
                    self._changed.notify_all()
                if reply is not None:
                    reply.put(frame)
        except Exception as error:  # noqa: BLE001 - as above
            self.fail(str(error))
