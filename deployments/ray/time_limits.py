"""How long a request may take, and what follows from it for whoever waits for one, in seconds.

    request ≤ max_request_timeout_s
    replica that stops = every HAProxy hears of it + the longest request           replica_stop_s
    node that drains   = its replicas start elsewhere + those here stop            node_drain_s

Serve stops a replica on a node that drains once no more is left of the node's deadline than the
replica may take to stop, whether another one runs by then or not. So a deadline that is no longer
than that would stop replicas before there are others.
"""

from __future__ import annotations

import math
import os
from collections.abc import Mapping

from cluster.errors import ConfigError

MAX_REQUEST_TIMEOUT_VARIABLE = "HEADRACE_MAX_REQUEST_TIMEOUT_S"
"""Environment variable that replaces :data:`MAX_REQUEST_TIMEOUT_S`, in seconds."""

MAX_REQUEST_TIMEOUT_S = 60.0
"""Longest time a request may take, waiting included, and what it gets if it asks for nothing."""

DRAIN_START_VARIABLE = "HEADRACE_DRAIN_START_S"
"""Environment variable that replaces :data:`DRAIN_START_S`, in seconds."""

DRAIN_START_S = 120.0
"""What the replicas of a node that drains get to start on other nodes, a new one included."""

_HEARD_VARIABLE = "RAY_SERVE_DIRECT_INGRESS_MIN_DRAINING_PERIOD_S"
_HEARD_S = 30.0  # Serve's own


def max_request_timeout_s(environment: Mapping[str, str] = os.environ) -> float:
    """The longest deadline of a request, in seconds, from the environment or the default.

    Raises :class:`ConfigError` if the variable holds no positive, finite number.
    """
    return _seconds(environment, MAX_REQUEST_TIMEOUT_VARIABLE, MAX_REQUEST_TIMEOUT_S)


def replica_stop_s(environment: Mapping[str, str] = os.environ) -> float:
    """How long a replica that is to stop may take, in seconds: it goes on until all HAProxies have
    heard of it, then waits for the longest request. ConfigError as above.

    By Serve's own setting it is ended after 20 s, or 30.
    """
    heard_s = _seconds(environment, _HEARD_VARIABLE, _HEARD_S)
    return heard_s + max_request_timeout_s(environment)


def node_drain_s(environment: Mapping[str, str] = os.environ) -> float:
    """How long a node that is to stop may take, in seconds. ConfigError as above."""
    start_s = _seconds(environment, DRAIN_START_VARIABLE, DRAIN_START_S)
    return start_s + replica_stop_s(environment)


def _seconds(environment: Mapping[str, str], variable: str, default: float) -> float:
    given = environment.get(variable)
    if given is None:
        return default
    try:
        seconds = float(given)
    except ValueError:
        seconds = math.nan
    if not 0 < seconds < math.inf:
        raise ConfigError(f"{variable}={given!r} must be a positive number of seconds")
    return seconds
