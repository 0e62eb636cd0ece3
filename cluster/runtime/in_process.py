"""Transport between threads of one process, over queues.

connect(3) → [transport 0, transport 1, transport 2], one for each thread
"""

from __future__ import annotations

from dataclasses import replace
from queue import SimpleQueue

from cluster.errors import TransportError
from cluster.runtime.transport import Frame

_Pipes = dict[tuple[int, int], "SimpleQueue[Frame | None]"]


def connect(size: int) -> list[InProcessTransport]:
    """Return ``size`` transports, each connected to all others; list index is the rank."""
    pipes: _Pipes = {(a, b): SimpleQueue() for a in range(size) for b in range(size) if a != b}
    return [InProcessTransport(rank, size, pipes) for rank in range(size)]


class InProcessTransport:
    """See :class:`cluster.runtime.transport.Transport`."""

    def __init__(self, rank: int, size: int, pipes: _Pipes) -> None:
        self.rank = rank
        self.size = size
        self._pipes = pipes
        self._closed = False

    def send(self, to: int, frame: Frame) -> None:
        """See :class:`~cluster.runtime.transport.Transport`."""
        if self._closed:
            raise self._unavailable(to)
        # Copies, as between processes: receiver and sender may each write to their arrays.
        copies = tuple(array.copy() for array in frame.arrays)
        self._pipe(self.rank, to).put(replace(frame, arrays=copies))

    def receive(self, source: int) -> Frame:
        """See :class:`~cluster.runtime.transport.Transport`."""
        pipe = self._pipe(source, self.rank)
        frame = pipe.get()
        if frame is None:
            pipe.put(None)  # for the next call
            raise self._unavailable(source)
        return frame

    def close(self) -> None:
        """See :class:`~cluster.runtime.transport.Transport`."""
        self._closed = True
        for ends, pipe in self._pipes.items():
            if self.rank in ends:
                pipe.put(None)

    def _pipe(self, source: int, target: int) -> SimpleQueue[Frame | None]:
        if (source, target) not in self._pipes:
            raise ValueError(f"rank {self.rank} of {self.size}: no pipe from {source} to {target}")
        return self._pipes[source, target]

    def _unavailable(self, peer: int) -> TransportError:
        closed = "this transport" if self._closed else "its transport"
        return TransportError(
            f"rank {self.rank} of {self.size}: rank {peer} is unavailable: {closed} was closed"
        )
