"""What goes down the tree of a route with a request, and what comes back up.

Items  the inputs, and the Body to ask for them with
Call   deadline, request id, priority, headers    every node hands it on, with less time
Reply  outputs, and a Report for every target that was asked
NoAnswerError  why there is none, with the same reports
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, Protocol

import numpy as np

from cluster.errors import HeadraceError
from cluster.protocol.client import request_parts
from cluster.routing.branches import Ended
from cluster.routing.contracts import Contract
from cluster.routing.deadline import left_s
from cluster.runtime.lent_bodies import Bodies, LentBody
from cluster.tensors import TensorSpec


class Body:
    """The request for some items, in the two ways in which it is sent."""

    def __init__(self, headers: dict[str, str], parts: tuple[bytes | memoryview, ...]) -> None:
        self.headers = headers
        self._parts = parts
        self._lent: LentBody | None = None

    @property
    def size(self) -> int:
        """In bytes."""
        return sum(len(part) for part in self._parts)

    @cached_property
    def joined(self) -> bytes:
        """To be sent as it is."""
        return b"".join(self._parts)

    def lent(self, bodies: Bodies) -> str:
        """To be read from memory: a reference, as long as this object is there."""
        if self._lent is None:
            self._lent = bodies.lend(self._parts)
        return self._lent.reference


class Items:
    """The inputs of one request, or of a part of it: arrays ``[count, ...]``."""

    def __init__(self, arrays: Sequence[np.ndarray]) -> None:
        self.arrays = tuple(arrays)
        self._bodies: dict[tuple[TensorSpec, ...], Body] = {}

    @property
    def count(self) -> int:
        """How many items there are."""
        return int(self.arrays[0].shape[0])

    def rows(self, which: slice | np.ndarray) -> Items:
        """Some of the items."""
        return Items([array[which] for array in self.arrays])

    def inputs(self, positions: Sequence[int]) -> Items:
        """Some of the inputs, or all of them in another order."""
        if tuple(positions) == tuple(range(len(self.arrays))):
            return self
        return Items([self.arrays[position] for position in positions])

    def body(self, specs: tuple[TensorSpec, ...]) -> Body:
        """The request for these items; made once, however many are asked."""
        if specs not in self._bodies:
            self._bodies[specs] = Body(*request_parts(self.arrays, specs))
        return self._bodies[specs]


@dataclass(frozen=True)
class Call:
    """One request on its way."""

    deadline: float
    """On the monotonic clock, in seconds."""

    request_id: str
    headers: Mapping[str, str] = field(default_factory=dict)
    """Sent to every model as they are: priority, trace, who the router is."""

    patient: bool = True
    """Whether a model without replicas is waited for: no, where the answer can do without it."""

    asked: set[str] | None = None
    """Takes the addresses that are asked, for who wants to know."""

    apart: frozenset[str] = frozenset()
    """Addresses that are not to be asked: another one's answer is wanted."""

    def within(self, timeout_s: float | None) -> Call:
        """With so many seconds at most."""
        if timeout_s is None:
            return self
        return replace(self, deadline=min(self.deadline, time.monotonic() + timeout_s))

    def impatient(self) -> Call:
        """The same, where others may answer instead."""
        return replace(self, patient=False)

    def with_headers(self, headers: Mapping[str, str]) -> Call:
        """With these headers, too, or instead."""
        return replace(self, headers={**self.headers, **headers}) if headers else self

    @property
    def left_s(self) -> float:
        """What is left of its time."""
        return left_s(self.deadline, time.monotonic())


@dataclass(frozen=True)
class Report:
    """One target that was asked."""

    name: str
    ended: Ended
    ms: float
    reason: str | None = None
    timing: Mapping[str, float] = field(default_factory=dict)
    """Parts of ``ms`` by name, as the target itself says."""

    below: tuple[Report, ...] = ()
    """Whom it asked in turn."""

    def plain(self) -> dict[str, Any]:
        """As plain data, for JSON."""
        said: dict[str, Any] = {
            "target": self.name,
            "outcome": self.ended.value,
            "ms": round(self.ms, 3),
        }
        if self.reason is not None:
            said["reason"] = self.reason
        if self.below:
            said["branches"] = [each.plain() for each in self.below]
        return said


@dataclass(frozen=True)
class Reply:
    """An answer."""

    outputs: tuple[np.ndarray, ...]
    reports: tuple[Report, ...] = ()
    timing: Mapping[str, float] = field(default_factory=dict)
    """Milliseconds by name: of a model its queue and its run, of a route what it did itself."""

    partial: bool = False
    """Whether an answer is missing that the route would have combined."""

    missing: frozenset[str] = frozenset()
    """Outputs that nobody answered: there are only zeros in their place."""

    facts: Mapping[str, str | float | bool] = field(default_factory=dict)
    """What else the client is told."""


class NoAnswerError(HeadraceError):
    """A target has no answer: 4xx when the request is why, 504 in time, 503 nobody there, 502."""

    def __init__(self, status: int, message: str, reports: Sequence[Report] = ()) -> None:
        super().__init__(message)
        self.http_status = status
        self.reports = tuple(reports)

    @property
    def ended(self) -> Ended:
        """How a branch that raised this has ended."""
        return Ended.LATE if self.http_status == 504 else Ended.FAILED


class Node(Protocol):
    """A model or a route: whatever can be asked."""

    name: str
    contract: Contract

    async def answer(self, items: Items, call: Call) -> Reply:
        """The outputs for the items, whose arrays are the contract's inputs.

        NoAnswerError if there are none. Cancelled, it cancels whatever it asks.
        """

    @property
    def there(self) -> bool:
        """Whether there is anybody to ask, without asking."""
