"""Running functions in other processes: what the steps and the search ask of a cluster.

    job.run(..., launcher) → job.launcher.gang(...)  data-parallel training
                           → job.launcher.each(...)  trials side by side

The library knows no Ray: `deployments.jobs.launcher` brings the cluster's actors and tasks, and
:class:`InProcess` stands for them where there is none. Functions are named at the top of their
module and take one picklable task.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

from cluster.errors import CompressionError, LostProcessError

T = TypeVar("T")
R = TypeVar("R")


@dataclass(frozen=True)
class Finished:
    """One task of :meth:`Launcher.each`: its position, and its result or why there is none."""

    index: int
    result: Any = None
    lost: LostProcessError | None = None


class Launcher(Protocol):
    """Where functions run."""

    @property
    def address(self) -> str:
        """IP address at which the processes of a gang reach this one."""

    def gang(self, function: Callable[[T], R], tasks: Sequence[T]) -> list[R]:
        """Run all tasks at once, each in a process of its own, and wait for all.

        The first one runs on this machine, if this machine takes tasks.

        Raises what a task raised, if it is a HeadraceError; LostProcessError if a process died,
        after ending the others; CompressionError if so many processes do not fit the cluster.
        """

    def each(
        self, function: Callable[[T], R], tasks: Sequence[T], at_once: int
    ) -> Iterator[Finished]:
        """Run the tasks, at most ``at_once`` side by side, and yield each as it finishes.

        Closing the iterator ends what still runs. A task that raises a HeadraceError raises it
        here; one whose process died is yielded as ``lost``.
        """


class InProcess:
    """Runs everything in this process, one after the other."""

    address = "127.0.0.1"

    def gang(self, function: Callable[[T], R], tasks: Sequence[T]) -> list[R]:
        if len(tasks) > 1:
            raise CompressionError(
                f"processes={len(tasks)} needs a Ray cluster; run the recipe with "
                "`headrace compress`, or set processes to 1"
            )
        return [function(task) for task in tasks]

    def each(
        self, function: Callable[[T], R], tasks: Sequence[T], at_once: int
    ) -> Iterator[Finished]:
        for index, task in enumerate(tasks):
            yield Finished(index, function(task))
