"""Interface to run functions in other processes, for steps and the search.

    job.run(..., launcher) → job.launcher.gang(...)           data-parallel training
                           → job.launcher.map_unordered(...)  concurrent trials

The library does not import Ray: `deployments.jobs.launcher` implements this with actors and tasks
of a cluster, :class:`InProcess` without one. A function is defined at the top level of its module
and takes one picklable task.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

from cluster.errors import CompressionError, LostProcessError

T = TypeVar("T")
R = TypeVar("R")


@dataclass(frozen=True)
class TaskResult:
    """Result of a task of :meth:`Launcher.map_unordered`: position, and result or error."""

    index: int
    result: Any = None
    lost: LostProcessError | None = None


class Launcher(Protocol):
    """Runs functions in other processes."""

    @property
    def address(self) -> str:
        """IP address at which a gang's processes reach this process."""

    def gang(self, function: Callable[[T], R], tasks: Sequence[T]) -> list[R]:
        """Run all tasks at once, each in its own process, and return their results in order.

        The first task runs on this machine, if this machine accepts tasks.

        A task's HeadraceError is raised again. LostProcessError if a process died; the others are
        ended first. CompressionError if the cluster has no room for so many processes.
        """

    def map_unordered(
        self, function: Callable[[T], R], tasks: Sequence[T], at_once: int
    ) -> Iterator[TaskResult]:
        """Run the tasks, at most ``at_once`` concurrently, and yield each when it finishes.

        Closing the iterator ends running tasks. A task's HeadraceError is raised again. A task
        whose process died is yielded as ``lost``.
        """


class InProcess:
    """Runs all tasks in this process, one after the other."""

    address = "127.0.0.1"

    def gang(self, function: Callable[[T], R], tasks: Sequence[T]) -> list[R]:
        if len(tasks) > 1:
            raise CompressionError(
                f"processes={len(tasks)} needs a Ray cluster; run the recipe with "
                "`headrace compress`, or set processes to 1"
            )
        return [function(task) for task in tasks]

    def map_unordered(
        self, function: Callable[[T], R], tasks: Sequence[T], at_once: int
    ) -> Iterator[TaskResult]:
        for index, task in enumerate(tasks):
            yield TaskResult(index, function(task))
