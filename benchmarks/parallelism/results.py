"""What was measured: rounds, their medians, and the goals that they are held to."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from statistics import median
from typing import Any

from benchmarks.goal import Goal
from benchmarks.results import Load

SERVED_BATCH = 2
"""Items of a micro-batch, at most, over HTTP, and of every peer.

16 requests under way then fill the 3 micro-batches that are inside a pipeline of 2 stages, and the
next ones are there when a place gets free."""

BATCHES = (1, SERVED_BATCH, 4)
"""Micro-batches that are fed in-process."""

CONCURRENCIES = (1, 16)
"""Requests under way at once over HTTP."""

WHOLE, CUT = "whole", "cut"
"""Headrace's replica with the whole program, and with its shards."""

SPEED_UP, TENSOR_LATENCY, IMBALANCE, OFF = 1.75, 0.70, 0.10, 0.15


@dataclass(frozen=True)
class Fed:
    """Fed in-process: by the process that a request would have come to."""

    latency_ms: float
    """Of one item, nothing else under way."""

    items_per_s: dict[int, float]
    """By items of a micro-batch, with as many under way as the pipeline takes."""

    stage_ms: tuple[float, ...] = ()
    """Mean computing time of a micro-batch in each stage, over all that it was fed."""

    @property
    def best_items_per_s(self) -> float:
        return max(self.items_per_s.values())


@dataclass(frozen=True)
class Round:
    """One subject in one round; ``loads`` by concurrency, none for what serves no HTTP."""

    subject: str
    number: int
    fed: Fed
    loads: dict[int, Load]


@dataclass(frozen=True)
class Predicted:
    """What ``headrace plan`` says of the cut, from its manifest alone."""

    latency_ms: float
    items_per_s: float
    """At micro-batches of :data:`SERVED_BATCH`."""

    built_stage_ms: tuple[float, ...]
    """Of one item, measured while the artifact was built."""


@dataclass(frozen=True)
class CaseResult:
    """One model, cut one way, and everything beside it."""

    key: str
    title: str
    artifact: str
    layout: str
    pipeline: int
    tensor: int
    after: tuple[str, ...]
    predicted: Predicted
    rounds: tuple[Round, ...]
    failures: dict[str, str] = field(default_factory=dict)
    """Peers that could not be measured, and why."""

    @property
    def subjects(self) -> tuple[str, ...]:
        """In the order in which they first ran."""
        return tuple(dict.fromkeys(one.subject for one in self.rounds))

    def middle(self, subject: str, value: Callable[[Round], float]) -> float:
        """Median over the subject's rounds."""
        return median(value(one) for one in self.rounds if one.subject == subject)

    def latency_ms(self, subject: str) -> float:
        """Fed in-process, one item."""
        return self.middle(subject, lambda one: one.fed.latency_ms)

    def items_per_s(self, subject: str, items: int) -> float:
        """Fed in-process, micro-batches of ``items``."""
        return self.middle(subject, lambda one: one.fed.items_per_s[items])

    def best(self, subject: str) -> tuple[int, float]:
        """The micro-batch with the most items per second, and these."""
        sizes = next(one for one in self.rounds if one.subject == subject).fed.items_per_s
        return max(((n, self.items_per_s(subject, n)) for n in sizes), key=lambda each: each[1])

    def requests_per_s(self, subject: str, concurrency: int) -> float:
        """Over HTTP."""
        return self.middle(subject, lambda one: one.loads[concurrency].requests_per_s)

    @property
    def imbalance(self) -> float:
        """How much longer than the mean stage the slowest took, as a share, while it was fed."""
        return self.middle(CUT, lambda one: over_mean(one.fed.stage_ms))

    @property
    def errors(self) -> int:
        return sum(load.errors for one in self.rounds for load in one.loads.values())

    @property
    def goals(self) -> tuple[Goal, ...]:
        """What the cut must reach; none without both of Headrace's replicas."""
        if not {WHOLE, CUT} <= set(self.subjects):
            return ()
        own = self._pipeline_goals() if self.pipeline > 1 else (self._tensor_goal(),)
        latency, throughput = self.latency_ms(CUT), self.items_per_s(CUT, SERVED_BATCH)
        return (
            *own,
            _at_most("predicted latency, off by", off(self.predicted.latency_ms, latency), OFF),
            _at_most(
                "predicted throughput, off by", off(self.predicted.items_per_s, throughput), OFF
            ),
        )

    def _pipeline_goals(self) -> tuple[Goal, ...]:
        (_, cut), (_, whole) = self.best(CUT), self.best(WHOLE)
        many = CONCURRENCIES[-1]
        served = self.requests_per_s(CUT, many) / self.requests_per_s(WHOLE, many)
        return (
            _at_least("throughput, fed in-process, to one replica", cut / whole, SPEED_UP),
            _at_least(f"throughput over HTTP, c={many}, to one replica", served, SPEED_UP),
            _at_most("slowest stage over the mean", self.imbalance, IMBALANCE),
        )

    def _tensor_goal(self) -> Goal:
        share = self.latency_ms(CUT) / self.latency_ms(WHOLE)
        return Goal(
            claim="latency of one item, to one replica", measured=share, limit=TENSOR_LATENCY,
            at_least=False, unit="×",
        )  # fmt: skip


@dataclass(frozen=True)
class Run:
    """Everything that was measured, the machine, and what could not be."""

    machine: dict[str, Any]
    settings: dict[str, Any]
    cases: tuple[CaseResult, ...] = ()
    failures: tuple[str, ...] = ()


def over_mean(stage_ms: tuple[float, ...]) -> float:
    """How much longer than the mean the slowest stage takes, as a share."""
    return max(stage_ms) / (sum(stage_ms) / len(stage_ms)) - 1


def off(predicted: float, measured: float) -> float:
    """How far a prediction is from what was measured, as a share of that."""
    return abs(predicted / measured - 1)


def _at_least(claim: str, measured: float, limit: float) -> Goal:
    return Goal(claim=claim, measured=measured, limit=limit, at_least=True, unit="×")


def _at_most(claim: str, share: float, limit: float) -> Goal:
    return Goal(claim=claim, measured=share * 100, limit=limit * 100, at_least=False, unit=" %")
