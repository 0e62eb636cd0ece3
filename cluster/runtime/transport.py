"""What moves between the processes of a sharded model, and what has to move it.

    Frame(number, arrays) → send(to) → … → receive(source) → Frame(number, arrays)

Two transports exist: :mod:`cluster.runtime.gloo` between processes, on one node or several, and
:mod:`cluster.runtime.in_process` between threads. Both hand over copies, in the order sent.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Protocol

import numpy as np

from cluster.errors import ProgramError
from cluster.tensors import DATATYPES

STOP = -1
"""The number of the frame after which nothing comes: whoever receives it passes it on and ends."""

_DTYPES = frozenset(DATATYPES.values())


@dataclass(frozen=True, eq=False)
class Frame:
    """One micro-batch between two stages. Raises ProgramError for arrays that cannot travel."""

    number: int
    """Of the micro-batch, given where it entered the pipeline; or :data:`STOP`."""
    arrays: tuple[np.ndarray, ...] = ()
    """C-contiguous, each of a dtype of :data:`cluster.tensors.DATATYPES`."""
    error: str | None = None
    """Why a stage refused this micro-batch; it goes on to the pipeline's end without arrays."""
    entered_at: float = 0.0
    """Wall-clock seconds at which it entered the pipeline, by the clock of that node."""
    stage_s: tuple[float, ...] = ()
    """Seconds that every stage so far has computed it."""
    arriving_s: float = field(default=0.0, compare=False)
    """How long the last hop took from the frame's announcement to its last byte."""

    def __post_init__(self) -> None:
        for array in self.arrays:
            if array.dtype not in _DTYPES or not array.flags.c_contiguous:
                raise ProgramError(
                    f"an array {array.dtype}{list(array.shape)}"
                    f"{'' if array.flags.c_contiguous else ' with gaps'} cannot travel between "
                    f"shards: expected C-contiguous and one of {', '.join(map(str, _DTYPES))}; "
                    "convert it in the stage that makes it"
                )

    @property
    def stops(self) -> bool:
        return self.number == STOP


class Transport(Protocol):
    """One process's end. Its threads may send and receive at the same time."""

    def send(self, to: int, frame: Frame) -> None:
        """Hand a frame over to rank ``to``, without waiting until it is there; it may wait until
        the one before it is.

        The arrays belong to the transport from here on: write to them again only once an answer
        that was computed from them is back. Any thread may send. Raises TransportError when the
        peer is known to be gone; it may just as well come out at a later call.
        """
        ...

    def receive(self, source: int) -> Frame:
        """The next frame of rank ``source``, with arrays that nobody else holds.

        Waits without a deadline, by one thread per source. Raises TransportError when the peer's
        process is gone or this end was closed.
        """
        ...

    def close(self) -> None:
        """Deliver what was sent, then part from every peer: they and our threads stop waiting."""
        ...
