"""What a run measured: one Round per contender and round, and the medians over the rounds."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

CONCURRENCIES = (1, 16)
"""Requests under way at once, in the order in which they are measured."""


@dataclass(frozen=True)
class Limit:
    """The in-process limit in one round, ``images_per_s`` by batch size."""

    batch_1_p50_ms: float
    batch_1_p99_ms: float
    images_per_s: dict[int, float]

    @property
    def best_images_per_s(self) -> float:
        return max(self.images_per_s.values())


@dataclass(frozen=True)
class Load:
    """One run of the load generator at one concurrency."""

    requests: int
    requests_per_s: float
    p50_ms: float
    p99_ms: float
    max_ms: float
    non_200: int
    socket_errors: int
    """Refused, broken or timed out connections."""

    @property
    def errors(self) -> int:
        return self.non_200 + self.socket_errors


@dataclass(frozen=True)
class Footprint:
    """What the processes of a contender look like after the load.

    The compute process is the one that has libtorch loaded and used the most CPU time.
    """

    compute_peak_mib: float
    """Peak resident memory (VmHWM) of the compute process, plus that of its descendants."""
    all_pss_mib: float
    """Proportional memory (Pss) of all processes: a page shared by two counts half for each."""
    processes: int
    compute_pid: int
    torch_python_loaded: bool
    """Whether the compute process has PyTorch's Python package in memory."""


@dataclass(frozen=True)
class Start:
    """How a contender came up."""

    launch_to_ready_s: float
    """From the command that starts it, with all its processes, to the first answer."""
    process_to_ready_s: float
    """From the start of the compute process, as the kernel noted it, to the first answer."""
    compilers: tuple[str, ...]
    """Compilers and linkers that ran among its processes until it was ready."""


@dataclass(frozen=True)
class Round:
    """One contender in one round; ``loads`` by concurrency."""

    contender: str
    number: int
    largest_difference: float
    """Between its answers and the in-process ones, as a share of the largest logit."""
    start: Start
    loads: dict[int, Load]
    footprint: Footprint


@dataclass(frozen=True)
class Run:
    """Everything: raw rounds, the limit of each round, the machine."""

    machine: dict[str, Any]
    settings: dict[str, Any]
    limits: tuple[Limit, ...]
    rounds: tuple[Round, ...]

    @property
    def contenders(self) -> tuple[str, ...]:
        """Keys in the order in which they first ran."""
        return tuple(dict.fromkeys(one.contender for one in self.rounds))

    def of(self, contender: str) -> list[Round]:
        return [one for one in self.rounds if one.contender == contender]

    def middle(self, contender: str, value: Callable[[Round], float]) -> float:
        """Median over the contender's rounds."""
        return median(value(one) for one in self.of(contender))

    def middle_limit(self, value: Callable[[Limit], float]) -> float:
        """Median over the rounds of the in-process limit."""
        return median(value(one) for one in self.limits)

    @property
    def best_batch(self) -> int:
        """The batch size with the most images per second, by its median."""
        sizes: Sequence[int] = tuple(self.limits[0].images_per_s)
        return max(sizes, key=lambda size: self.middle_limit(lambda one: one.images_per_s[size]))

    @property
    def best_images_per_s(self) -> float:
        size = self.best_batch
        return self.middle_limit(lambda one: one.images_per_s[size])

    @property
    def errors(self) -> int:
        return sum(load.errors for one in self.rounds for load in one.loads.values())
