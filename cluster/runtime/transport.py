"""Frames, and the transport that moves them between the processes of a sharded model.

    Frame(number, arrays) → send(to) → … → receive(source) → Frame(number, arrays)

:mod:`cluster.runtime.gloo` connects processes, on one node or several. A transport delivers copies,
in the order of sending.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Protocol

import numpy as np

from cluster.errors import ProgramError
from cluster.tensors import DATATYPES

STOP = -1
"""Number of the last frame: its receiver passes it on and ends."""

_DTYPES = frozenset(DATATYPES.values())


@dataclass(frozen=True, eq=False)
class Frame:
    """One micro-batch between two stages. Raises ProgramError for arrays that cannot be sent."""

    number: int
    """Number of the micro-batch, assigned at the entry of the pipeline; or :data:`STOP`."""
    arrays: tuple[np.ndarray, ...] = ()
    """C-contiguous arrays, each of a dtype of :data:`cluster.tensors.DATATYPES`."""
    error: str | None = None
    """Reason of a stage's refusal. Later stages pass the frame on without arrays."""
    entered_at: float = 0.0
    """Wall-clock time of entry into the pipeline, in seconds, by the clock of that node."""
    stage_s: tuple[float, ...] = ()
    """Seconds of computation in every stage so far."""
    refuses_input: bool = False
    """Whether the stage's refusal is the input's fault, not the program's."""
    arriving_s: float = field(default=0.0, compare=False)
    """Seconds of the last hop, from the frame's announcement to its last byte."""

    def __post_init__(self) -> None:
        for array in self.arrays:
            if array.dtype not in _DTYPES or not array.flags.c_contiguous:
                gaps = "" if array.flags.c_contiguous else " (not C-contiguous)"
                raise ProgramError(
                    f"an array {array.dtype}{list(array.shape)}{gaps} cannot be sent between "
                    f"shards: expected C-contiguous and one of {', '.join(map(str, _DTYPES))}; "
                    "convert it in the stage that produces it"
                )

    @property
    def stops(self) -> bool:
        return self.number == STOP


class Transport(Protocol):
    """One process's endpoint. Its threads may send and receive at the same time."""

    def send(self, to: int, frame: Frame) -> None:
        """Queue a frame for rank ``to``; wait at most for the delivery of the frame before it.

        The transport owns the arrays from here on: reuse them only after the answer that was
        computed from them has arrived. Any thread may send. Raises TransportError when the peer is
        known to be unavailable; a later call may raise it instead.
        """
        ...

    def receive(self, source: int) -> Frame:
        """Return the next frame of rank ``source``, with arrays that are not shared.

        Waits without a deadline, in one thread per source. Raises TransportError when the peer's
        process is unavailable or this endpoint is closed.
        """
        ...

    def close(self) -> None:
        """Flush sent frames, then disconnect from every peer and end all waits, here and there."""
        ...
