"""Interface of a contender, a server that is started on a port.

Contender.endpoint(port) is known before the server runs, so that its start can be observed.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass

from benchmarks.artifacts.reference import Weights
from deployments.local.processes import Process


@dataclass(frozen=True)
class Endpoint:
    """URL and headers of an inference request whose body is one raw tensor."""

    url: str
    headers: dict[str, str]
    ready_url: str | None
    """URL that answers 200 to a GET once the model is ready; None if there is no such path."""


@dataclass(frozen=True)
class Server:
    """A started server."""

    mark: str
    """Value of the environment variable that marks all of its processes."""
    find: Callable[[], list[Process]]
    """Return its running processes."""
    require_alive: Callable[[], None]
    """Raise BenchmarkError, with the end of its log, if it has ended."""


@dataclass(frozen=True)
class Contender:
    """One row of the table. ``start(artifact_id, port)`` stops the server on exit."""

    key: str
    title: str
    weights: Weights
    """Model whose answers its own must equal."""
    endpoint: Callable[[int], Endpoint]
    start: Callable[[str, int], AbstractContextManager[Server]]
