"""The cluster behind ``cluster.compression.launch.Launcher``: Ray actors and tasks.

    gang → a placement group of equal bundles → one actor in each → all results, or the reason
    each → Ray tasks, at most so many at once → results as they come

Every process is told how many CPUs it was given (``HEADRACE_CPUS``), so that those beside it on
a machine do not compute with all of its cores each. Nothing is left behind: actors, tasks and the
placement group end with the call, however it ends.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Any, TypeVar

from cluster.compression.launch import Finished
from cluster.errors import CompressionError, HeadraceError, LostProcessError
from cluster.program.node import CPUS_VARIABLE

T = TypeVar("T")
R = TypeVar("R")

_LOOPBACK = "127.0.0.1"
_WAIT_FOR_CPUS_S = 300.0
_END_S = 10.0
"""How long to wait for what is ending: a process that was killed, or one that notices it."""

_POLL_S = 0.1


class RayLauncher:
    """Runs functions in the processes of a Ray cluster, which it joins when it is first used.

    A context manager: at its end it leaves the cluster, if it was the one that joined.
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
        """Loopback, where no other machine can listen in, unless the cluster has several nodes."""
        ray = self._ray()
        alone = len(_nodes(ray)) == 1
        return _LOOPBACK if alone else str(ray.util.get_node_ip_address())

    def gang(self, function: Callable[[T], R], tasks: Sequence[T]) -> list[R]:
        """See :class:`cluster.compression.launch.Launcher`.

        CPUs and GPUs are divided evenly; the processes share a node where they can. Returns when
        the CPUs are free again, so that the same gang would get as many, and compute with as many
        threads, if it were started next.
        """
        ray = self._ray()
        free = _free_cpus(ray)
        share = _share(ray, len(tasks))
        group = ray.util.placement_group(share.bundles(ray, len(tasks)), strategy="PACK")
        actors: list[Any] = []
        try:
            if not group.wait(_WAIT_FOR_CPUS_S):
                raise CompressionError(
                    f"processes={len(tasks)} needs {share.cpus * len(tasks)} free CPUs, and they "
                    f"did not become free within {_WAIT_FOR_CPUS_S:.0f} s; lower processes, or "
                    "stop what else runs on the cluster"
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

    def each(
        self, function: Callable[[T], R], tasks: Sequence[T], at_once: int
    ) -> Iterator[Finished]:
        """See :class:`cluster.compression.launch.Launcher`.

        Each task gets an equal part of the CPUs that are free now. Where there are fewer CPUs
        than ``at_once``, fewer tasks run at once.
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
                    finished = Finished(index, ray.get(ended))
                except ray.exceptions.RayError as error:
                    reason = _reason(ray, error, f"task {index}")
                    if not isinstance(reason, LostProcessError):
                        raise reason from None
                    finished = Finished(index, lost=reason)
                yield finished
        finally:
            for left in running:
                ray.cancel(left, force=True)
            if running:
                ray.wait(list(running), num_returns=len(running), timeout=_END_S)

    def _ray(self) -> Any:
        # Imported late: Ray reads its settings from the environment when it is imported, which
        # whoever imports this module may still have to prepare.
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
    """An actor that runs one function."""

    def run(self, function: Callable[[T], R], task: T) -> R:
        return function(task)


def _run(function: Callable[[T], R], task: T) -> R:
    return function(task)


@dataclass(frozen=True)
class _Share:
    """What each of several processes gets of the cluster."""

    cpus: int
    gpus: float

    def options(self) -> dict[str, Any]:
        """For a Ray actor or task. The job's own environment, as ``PYTHONPATH``, stays in it."""
        variables = {CPUS_VARIABLE: str(self.cpus), "OMP_NUM_THREADS": str(self.cpus)}
        return {
            "num_cpus": self.cpus,
            "num_gpus": self.gpus,
            "runtime_env": {"env_vars": variables},
        }

    def bundles(self, ray: Any, count: int) -> list[dict[str, float]]:
        """For a placement group; the first one lies on this node, if this node takes tasks."""
        bundle = {"CPU": float(self.cpus), **({"GPU": self.gpus} if self.gpus else {})}
        bundles = [dict(bundle) for _ in range(count)]
        own = ray.get_runtime_context().get_node_id()
        here = next((node for node in _nodes(ray) if node["NodeID"] == own), None)
        if here is not None and all(here["Resources"].get(k, 0) >= v for k, v in bundle.items()):
            bundles[0][f"node:{here['NodeManagerAddress']}"] = 0.001
        return bundles


def _share(ray: Any, count: int) -> _Share:
    """An equal part of the free CPUs, and of the GPUs, for each of ``count`` processes.

    CompressionError if the cluster has fewer CPUs than processes.
    """
    total = _cpus(ray)
    if total < count:
        raise CompressionError(
            f"processes={count} needs {count} CPUs, the cluster has {total}; lower processes, or "
            "add nodes"
        )
    each = max(min(_free_cpus(ray), total) // count, 1)
    # Nothing is split over nodes.
    while sum(int(node["Resources"].get("CPU", 0)) // each for node in _nodes(ray)) < count:
        each -= 1
    gpus = ray.cluster_resources().get("GPU", 0.0) / count
    return _Share(each, float(int(gpus)) if gpus >= 1 else round(gpus, 3))


def _free_cpus(ray: Any) -> int:
    return int(ray.available_resources().get("CPU", 0))


def _cpus(ray: Any) -> int:
    return sum(int(node["Resources"].get("CPU", 0)) for node in _nodes(ray))


def _nodes(ray: Any) -> list[dict[str, Any]]:
    return [node for node in ray.nodes() if node["Alive"]]


def _all(ray: Any, running: list[Any]) -> list[Any]:
    """The results of all, or the reason why one has none."""
    left = list(running)
    while left:
        (ended,), left = ray.wait(left, num_returns=1)
        try:
            ray.get(ended)
        except ray.exceptions.RayError as error:
            reason = _reason(ray, error, _name(running, ended))
            if isinstance(error, ray.exceptions.RayTaskError) and not _cause(error):
                # What a process sees when one beside it dies is a broken connection.
                reason = _death(ray, running, left) or reason
            raise reason from None
    return ray.get(running)


def _death(ray: Any, running: list[Any], left: list[Any]) -> LostProcessError | None:
    """The first of the others whose process died, waiting a little for the news."""
    ended, _ = ray.wait(left, num_returns=len(left), timeout=_END_S) if left else ([], [])
    for each in ended:
        try:
            ray.get(each)
        except ray.exceptions.RayError as error:
            reason = _reason(ray, error, _name(running, each))
            if isinstance(reason, LostProcessError):
                return reason
    return None


def _name(running: list[Any], each: Any) -> str:
    return f"process {running.index(each) + 1} of {len(running)}"


def _reason(ray: Any, error: Exception, who: str) -> HeadraceError:
    """What a task raised, if that is Headrace's own; else what happened to its process."""
    if not isinstance(error, ray.exceptions.RayTaskError):
        first_line = str(error).strip().partition("\n")[0]
        return LostProcessError(f"{who} died: {first_line}")
    if (cause := _cause(error)) is not None:
        return cause
    raised = error.cause
    return CompressionError(f"{who} raised {type(raised).__name__}: {raised}")


def _cause(error: Any) -> HeadraceError | None:
    return error.cause if isinstance(error.cause, HeadraceError) else None
