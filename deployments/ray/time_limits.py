"""Maximum time of a request, and the grace periods that depend on it, in seconds.

    request       ≤ max_request_timeout_s
    replica stops = every HAProxy learns of it + the longest request          replica_stop_s
    node drains   = replicas start on other nodes + those here stop           node_drain_s

Serve stops a replica on a draining node when the rest of the node's deadline equals the replica's
grace period, whether another replica runs by then or not. With a shorter deadline for the node,
replicas would stop before others have started.
"""

from __future__ import annotations

import math
import os
from collections.abc import Mapping

from cluster.errors import ConfigError

MAX_REQUEST_TIMEOUT_VARIABLE = "HEADRACE_MAX_REQUEST_TIMEOUT_S"
"""Environment variable that replaces :data:`MAX_REQUEST_TIMEOUT_S`, in seconds."""

MAX_REQUEST_TIMEOUT_S = 60.0
"""Maximum time of a request, with its time in queues, and the default deadline."""

DRAIN_START_VARIABLE = "HEADRACE_DRAIN_START_S"
"""Environment variable that replaces :data:`DRAIN_START_S`, in seconds."""

DRAIN_START_S = 120.0
"""Time for a draining node's replicas to start on other nodes, with the start of a new node."""

PROXY_UPDATE_VARIABLE = "RAY_SERVE_DIRECT_INGRESS_MIN_DRAINING_PERIOD_S"
"""Serve's variable: how long a stopping replica stays reachable, in seconds.

Every HAProxy must reload without the replica in this time. Later it finds the port closed, and the
request waits a second for another replica, or fails without one."""

_PROXY_UPDATE_S = 30.0  # Serve's default


def max_request_timeout_s(environment: Mapping[str, str] = os.environ) -> float:
    """Return the longest deadline of a request in seconds, from the environment or the default.

    Raises :class:`ConfigError` if the variable holds no positive, finite number.
    """
    return _seconds(environment, MAX_REQUEST_TIMEOUT_VARIABLE, MAX_REQUEST_TIMEOUT_S)


def replica_stop_s(environment: Mapping[str, str] = os.environ) -> float:
    """Return the grace period of a stopping replica, in seconds; ConfigError as above.

    It serves until all HAProxies have learned of its stop, then for the longest request. Serve's
    default is 20 s, or 30.
    """
    update_s = _seconds(environment, PROXY_UPDATE_VARIABLE, _PROXY_UPDATE_S)
    return update_s + max_request_timeout_s(environment)


def node_drain_s(environment: Mapping[str, str] = os.environ) -> float:
    """Return the grace period of a draining node, in seconds; ConfigError as above."""
    start_s = _seconds(environment, DRAIN_START_VARIABLE, DRAIN_START_S)
    return start_s + replica_stop_s(environment)


def _seconds(environment: Mapping[str, str], variable: str, default: float) -> float:
    value = environment.get(variable)
    if value is None:
        return default
    try:
        seconds = float(value)
    except ValueError:
        seconds = math.nan
    if not 0 < seconds < math.inf:
        raise ConfigError(f"{variable}={value!r} must be a positive number of seconds")
    return seconds
