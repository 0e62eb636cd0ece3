"""Launcher of ``cluster.compression.launch`` on a Ray cluster: actors and tasks.

    gang → a placement group of equal bundles → one actor in each → all results, or the error
    each → Ray tasks, a limited number at once → results in the order of completion

Every process gets the number of its CPUs (``HEADRACE_CPUS``), so that processes on one machine do
not use all of its cores each. Actors, tasks and the placement group end with the call, also after
an error.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Any, TypeVar

from cluster.compression.launch import TaskResult
from cluster.errors import CompressionError, HeadraceError, LostProcessError
from cluster.program.node import CPUS_VARIABLE

T = TypeVar("T")
R = TypeVar("R")

_LOOPBACK = "127.0.0.1"
_WAIT_FOR_CPUS_S = 300.0
_END_S = 10.0
"""Timeout for the end of processes, killed ones or their peers, in seconds."""

_POLL_S = 0.1


class RayLauncher:
    """Launcher that runs functions in processes of a Ray cluster.

    It connects to the cluster at its first use. As a context manager, it disconnects at the end,
    if it has connected itself.
    """

    def __init__(self, address: str = "auto") -> None:
        self._address = address
        self._joined = False

    def __enter__(self) -> RayLauncher:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._joined:
            self._ray().shutdown()
            self._joined = False

    @property
    def address(self) -> str:
        """Address for the processes' connections: loopback if the cluster has one node.

        On loopback no other machine can connect.
        """
        ray = self._ray()
        single_node = len(_nodes(ray)) == 1
        return _LOOPBACK if single_node else str(ray.util.get_node_ip_address())

    def gang(self, function: Callable[[T], R], tasks: Sequence[T]) -> list[R]:
        """See :class:`cluster.compression.launch.Launcher`.

        CPUs and GPUs are divided evenly; the processes share a node if possible. Returns when the
        CPUs are free again, so that the next gang gets as many CPUs and threads.
        """
        ray = self._ray()
        free = _free_cpus(ray)
        share = _share(ray, len(tasks))
        group = ray.util.placement_group(share.bundles(ray, len(tasks)), strategy="PACK")
        actors: list[Any] = []
        try:
            if not group.wait(_WAIT_FOR_CPUS_S):
                raise CompressionError(
                    f"processes={len(tasks)} needs {share.cpus * len(tasks)} free CPUs, which "
                    f"did not become free within {_WAIT_FOR_CPUS_S:.0f} s; lower processes, or "
                    "stop other work on the cluster"
                )
            strategy = ray.util.scheduling_strategies.PlacementGroupSchedulingStrategy
            process = ray.remote(_Process)
            actors = [
                process.options(
                    **share.options(), max_restarts=0, scheduling_strategy=strategy(group, index)
                ).remote()
                for index in range(len(tasks))
            ]
            running = [
                actor.run.remote(function, task) for actor, task in zip(actors, tasks, strict=True)
            ]
            return _all(ray, running)
        finally:
            for actor in actors:
                ray.kill(actor)
            ray.util.remove_placement_group(group)
            deadline = time.monotonic() + _END_S
            while _free_cpus(ray) < free and time.monotonic() < deadline:
                time.sleep(_POLL_S)

    def map_unordered(
        self, function: Callable[[T], R], tasks: Sequence[T], at_once: int
    ) -> Iterator[TaskResult]:
        """See :class:`cluster.compression.launch.Launcher`.

        Each task gets an equal part of the free CPUs. With fewer CPUs than ``at_once``, fewer
        tasks run at once.
        """
        ray = self._ray()
        at_once = min(at_once, max(len(tasks), 1), max(_cpus(ray), 1))
        run = ray.remote(_run).options(**_share(ray, at_once).options(), max_retries=0)
        running: dict[Any, int] = {}
        waiting = iter(enumerate(tasks))
        try:
            while True:
                while len(running) < at_once and (following := next(waiting, None)) is not None:
                    index, task = following
                    running[run.remote(function, task)] = index
                if not running:
                    return
                (ended,), _ = ray.wait(list(running), num_returns=1)
                index = running.pop(ended)
                try:
                    finished = TaskResult(index, ray.get(ended))
                except ray.exceptions.RayError as error:
                    reason = _reason(ray, error, f"task {index}")
                    if not isinstance(reason, LostProcessError):
                        raise reason from None
                    finished = TaskResult(index, lost=reason)
                yield finished
        finally:
            for unfinished in running:
                ray.cancel(unfinished, force=True)
            if running:
                ray.wait(list(running), num_returns=len(running), timeout=_END_S)

    def _ray(self) -> Any:
        # Imported late: Ray reads its settings from the environment at its import, and the caller
        # may set them after importing this module.
        import ray
        import ray.util.scheduling_strategies

        if not ray.is_initialized():
            try:
                ray.init(
                    address=self._address,
                    log_to_driver=False,
                    logging_level=logging.WARNING,
                )
            except (ConnectionError, ValueError, RuntimeError) as error:
                raise CompressionError(
                    f"no Ray cluster answers at {self._address!r}: {error}; run the recipe with "
                    "`headrace compress`"
                ) from error
            self._joined = True
        return ray


class _Process:
    """Actor that runs one function."""

    def run(self, function: Callable[[T], R], task: T) -> R:
        return function(task)


def _run(function: Callable[[T], R], task: T) -> R:
    return function(task)


@dataclass(frozen=True)
class _Share:
    """Resources of each of several processes."""

    cpus: int
    gpus: float

    def options(self) -> dict[str, Any]:
        """Return the options of a Ray actor or task; it inherits the job's environment, too."""
        variables = {CPUS_VARIABLE: str(self.cpus), "OMP_NUM_THREADS": str(self.cpus)}
        return {
            "num_cpus": self.cpus,
            "num_gpus": self.gpus,
            "runtime_env": {"env_vars": variables},
        }

    def bundles(self, ray: Any, count: int) -> list[dict[str, float]]:
        """Return the bundles of a placement group; the first one is on this node, if it fits."""
        bundle = {"CPU": float(self.cpus), **({"GPU": self.gpus} if self.gpus else {})}
        bundles = [dict(bundle) for _ in range(count)]
        node_id = ray.get_runtime_context().get_node_id()
        here = next((node for node in _nodes(ray) if node["NodeID"] == node_id), None)
        if here is not None and all(here["Resources"].get(k, 0) >= v for k, v in bundle.items()):
            bundles[0][f"node:{here['NodeManagerAddress']}"] = 0.001
        return bundles


def _share(ray: Any, count: int) -> _Share:
    """Return an equal part of the free CPUs, and of the GPUs, for each of ``count`` processes.

    Raises CompressionError if the cluster has fewer CPUs than processes.
    """
    total = _cpus(ray)
    if total < count:
        raise CompressionError(
            f"processes={count} needs {count} CPUs, the cluster has {total}; lower processes, or "
            "add nodes"
        )
    cpus = max(min(_free_cpus(ray), total) // count, 1)
    # A process is not split over nodes.
    while sum(int(node["Resources"].get("CPU", 0)) // cpus for node in _nodes(ray)) < count:
        cpus -= 1
    gpus = ray.cluster_resources().get("GPU", 0.0) / count
    return _Share(cpus, float(int(gpus)) if gpus >= 1 else round(gpus, 3))


def _free_cpus(ray: Any) -> int:
    return int(ray.available_resources().get("CPU", 0))


def _cpus(ray: Any) -> int:
    return sum(int(node["Resources"].get("CPU", 0)) for node in _nodes(ray))


def _nodes(ray: Any) -> list[dict[str, Any]]:
    return [node for node in ray.nodes() if node["Alive"]]


def _all(ray: Any, running: list[Any]) -> list[Any]:
    """Return the results of all; raise the error of the first that fails."""
    pending = list(running)
    while pending:
        (ended,), pending = ray.wait(pending, num_returns=1)
        try:
            ray.get(ended)
        except ray.exceptions.RayError as error:
            reason = _reason(ray, error, _name(running, ended))
            if isinstance(error, ray.exceptions.RayTaskError) and not _cause(error):
                # A process whose peer dies or fails reports only a broken connection.
                reason = _reason_of_peers(ray, running, pending) or reason
            raise reason from None
    return ray.get(running)


def _reason_of_peers(ray: Any, running: list[Any], pending: list[Any]) -> HeadraceError | None:
    """Return the first error of pending tasks that has a reason, within the timeout.

    That is the death of a process, or an error of Headrace's.
    """
    if not pending:
        return None
    ended, _ = ray.wait(pending, num_returns=len(pending), timeout=_END_S)
    for task in ended:
        try:
            ray.get(task)
        except ray.exceptions.RayError as error:
            reason = _reason(ray, error, _name(running, task))
            if isinstance(reason, LostProcessError) or _cause(error) is not None:
                return reason
    return None


def _name(running: list[Any], task: Any) -> str:
    return f"process {running.index(task) + 1} of {len(running)}"


def _reason(ray: Any, error: Exception, process: str) -> HeadraceError:
    """Return a task's error if it is one of Headrace's, else one that names its process."""
    if not isinstance(error, ray.exceptions.RayTaskError):
        first_line = str(error).strip().partition("\n")[0]
        return LostProcessError(f"{process} died: {first_line}")
    if (cause := _cause(error)) is not None:
        return cause
    return CompressionError(f"{process} raised {type(error.cause).__name__}: {error.cause}")


def _cause(error: Any) -> HeadraceError | None:
    return error.cause if isinstance(error.cause, HeadraceError) else None
