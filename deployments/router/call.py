"""Requests and replies in the tree of a route's nodes.

Items  inputs, and the Body of a request for them
Call   deadline, request id, priority, headers    every node hands it down, with less time
Reply  outputs, and a Report of every target that was called
NoAnswerError  reason that there is no reply, with the same reports
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
from cluster.routing.branches import BranchOutcome
from cluster.routing.contracts import Contract
from cluster.routing.deadline import left_s
from cluster.runtime.lent_bodies import Bodies, LentBody
from cluster.tensors import TensorSpec


class Body:
    """Body of a request to a model: sent as bytes, or read from shared memory."""

    def __init__(self, headers: dict[str, str], parts: tuple[bytes | memoryview, ...]) -> None:
        self.headers = headers
        self._parts = parts
        self._lent: LentBody | None = None

    @property
    def size(self) -> int:
        """Size in bytes."""
        return sum(len(part) for part in self._parts)

    @cached_property
    def joined(self) -> bytes:
        """The whole body as bytes, to be sent over the connection."""
        return b"".join(self._parts)

    def lent(self, bodies: Bodies) -> str:
        """Return a reference to the body in memory, valid as long as this object exists."""
        if self._lent is None:
            self._lent = bodies.lend(self._parts)
        return self._lent.reference


class Items:
    """Inputs of one request, or of a part of it: arrays ``[count, ...]``."""

    def __init__(self, arrays: Sequence[np.ndarray]) -> None:
        self.arrays = tuple(arrays)
        self._bodies: dict[tuple[TensorSpec, ...], Body] = {}

    @property
    def count(self) -> int:
        """Number of items."""
        return int(self.arrays[0].shape[0])

    def rows(self, which: slice | np.ndarray) -> Items:
        """Return the selected items."""
        return Items([array[which] for array in self.arrays])

    def inputs(self, positions: Sequence[int]) -> Items:
        """Return the inputs at those positions, in that order."""
        if tuple(positions) == tuple(range(len(self.arrays))):
            return self
        return Items([self.arrays[position] for position in positions])

    def body(self, specs: tuple[TensorSpec, ...]) -> Body:
        """Return the body for these items: encoded once, shared by all targets."""
        if specs not in self._bodies:
            self._bodies[specs] = Body(*request_parts(self.arrays, specs))
        return self._bodies[specs]


@dataclass(frozen=True)
class Call:
    """Context of one request: deadline, id, headers, and the choice of replicas."""

    deadline: float
    """Deadline on the monotonic clock, in seconds."""

    request_id: str
    headers: Mapping[str, str] = field(default_factory=dict)
    """Headers for every model: priority, trace, the router's key."""

    waits: bool = True
    """Whether to wait for a replica of a model that has none.

    False where the route can answer without this model."""

    addresses: set[str] | None = None
    """Collects the addresses of the replicas that were called; None: they are not collected."""

    excluded: frozenset[str] = frozenset()
    """Addresses of replicas that must not be called: a hedge needs a second replica."""

    def within(self, timeout_s: float | None) -> Call:
        """Return the call with its deadline at most ``timeout_s`` from now; None: unchanged."""
        if timeout_s is None:
            return self
        return replace(self, deadline=min(self.deadline, time.monotonic() + timeout_s))

    def without_waiting(self) -> Call:
        """Return the call for a target that others can replace: see ``waits``."""
        return replace(self, waits=False)

    def with_headers(self, headers: Mapping[str, str]) -> Call:
        """Return the call with these headers added; they replace headers of the same name."""
        return replace(self, headers={**self.headers, **headers}) if headers else self

    @property
    def remaining_s(self) -> float:
        """Seconds until the deadline, at least 0."""
        return left_s(self.deadline, time.monotonic())


@dataclass(frozen=True)
class Report:
    """Report of one target that was called: outcome and latency."""

    name: str
    outcome: BranchOutcome
    ms: float
    reason: str | None = None
    timing: Mapping[str, float] = field(default_factory=dict)
    """Parts of ``ms`` by name, measured by the target itself."""

    branches: tuple[Report, ...] = ()
    """Reports of the targets that it called in turn."""

    @classmethod
    def of(cls, name: str, result: Reply | NoAnswerError, latency_s: float) -> Report:
        """Return the report of a target that answered or failed after ``latency_s`` seconds."""
        ms = latency_s * 1e3
        if isinstance(result, Reply):
            return cls(name, BranchOutcome.ANSWERED, ms, None, result.timing, result.reports)
        return cls(name, result.outcome, ms, str(result), {}, result.reports)

    def plain(self) -> dict[str, Any]:
        """Return the report as plain data, for JSON."""
        fields: dict[str, Any] = {
            "target": self.name,
            "outcome": self.outcome.value,
            "ms": round(self.ms, 3),
        }
        if self.reason is not None:
            fields["reason"] = self.reason
        if self.branches:
            fields["branches"] = [branch.plain() for branch in self.branches]
        return fields


@dataclass(frozen=True)
class Reply:
    """Answer of a node."""

    outputs: tuple[np.ndarray, ...]
    reports: tuple[Report, ...] = ()
    timing: Mapping[str, float] = field(default_factory=dict)
    """Milliseconds by name: a model's queue and run, a route's own work."""

    partial: bool = False
    """Whether the answer of a target that the route combines is missing."""

    missing: frozenset[str] = frozenset()
    """Names of outputs without an answer; zeros stand in their place."""

    facts: Mapping[str, str | float | bool] = field(default_factory=dict)
    """Further parameters of the answer to the client."""


class NoAnswerError(HeadraceError):
    """A target has no answer, for the reason in the message.

    4xx: an invalid request. 504: the deadline passed. 503: no replica is available. 502: it failed.
    """

    def __init__(self, status: int, message: str, reports: Sequence[Report] = ()) -> None:
        super().__init__(message)
        self.http_status = status
        self.reports = tuple(reports)

    @property
    def outcome(self) -> BranchOutcome:
        """Outcome of a branch that raised this error."""
        return BranchOutcome.LATE if self.http_status == 504 else BranchOutcome.FAILED


class Node(Protocol):
    """Target of a request: a model or a route."""

    name: str
    contract: Contract

    async def answer(self, items: Items, call: Call) -> Reply:
        """Return the outputs for the items, whose arrays are the contract's inputs.

        Raises NoAnswerError. When cancelled, it cancels its own requests.
        """

    @property
    def available(self) -> bool:
        """Whether a replica is known that could answer; no request is sent."""
