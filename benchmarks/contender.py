"""What a contender is: a server that can be started on a port, asked, and looked at.

Contender.endpoint(port) is known before the server runs, so that it can be asked from the start.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Literal

from deployments.local.processes import Process

Weights = Literal["int8", "fp32"]


@dataclass(frozen=True)
class Endpoint:
    """Where one image, 602,112 bytes of float32, is posted, and how readiness is asked for."""

    url: str
    headers: dict[str, str]
    ready_url: str | None
    """A GET that answers 200 once the model is ready; None if only the POST itself tells."""


@dataclass(frozen=True)
class Server:
    """A started server."""

    mark: str
    """Value of the environment variable that marks all of its processes."""
    find: Callable[[], list[Process]]
    """Its running processes."""
    require_alive: Callable[[], None]
    """Raises BenchmarkError, with the end of its log, if it has ended."""


@dataclass(frozen=True)
class Contender:
    """One row of the table. ``start(artifact_id, port)`` stops the server when it is left."""

    key: str
    title: str
    weights: Weights
    """What its answers must equal: the artifact's, or the eager float32 model's."""
    endpoint: Callable[[int], Endpoint]
    start: Callable[[str, int], AbstractContextManager[Server]]
