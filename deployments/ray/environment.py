"""Ray's and Serve's settings that models are served with, as environment variables.

Ray and Serve read most of their settings from the environment of the process that reads them:
what is set where ``ray start`` runs reaches the controller, HAProxy, the replicas and the jobs,
because each inherits it from the raylet.
"""

from __future__ import annotations

import math

from deployments.ray import haproxy
from deployments.ray.time_limits import max_request_timeout_s

_ANSWER_MARGIN_S = 5  # how much later than a replica HAProxy gives a request up


def serving_environment() -> dict[str, str]:
    """What `ray start` must have set wherever models are served: here, and in k8s/base.

    Raises :class:`ConfigError` if the maximum request timeout in the environment is no number.
    """
    timeout_s = math.ceil(max_request_timeout_s()) + _ANSWER_MARGIN_S
    return {
        # Requests go client → HAProxy → replica, without a Python proxy between.
        "RAY_SERVE_ENABLE_HA_PROXY": "1",
        # Mends what Serve has no setting for, then becomes HAProxy.
        "RAY_SERVE_HAPROXY_BINARY_PATH": str(haproxy.PROGRAM),
        # User code shares the replica's event loop, and access logs are written in bulk.
        "RAY_SERVE_THROUGHPUT_OPTIMIZED": "1",
        # Ray runs its workers at niceness 15, behind everything else on the machine: a replica
        # would wait for a core while HAProxy, and any shell command, go first.
        "RAY_worker_niceness": "0",
        # Nothing is reported to anybody.
        "RAY_USAGE_STATS_ENABLED": "0",
        # Checks headers, clamps deadlines, and turns errors into JSON, in every replica.
        "RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH": "deployments.http.guard:middlewares",
        # A replica that fails its health checks has nothing to finish, and holds what its successor
        # needs.
        "RAY_SERVE_FORCE_STOP_UNHEALTHY_REPLICAS": "1",
        # Deadlines live in the replica; a frozen replica keeps none, so HAProxy has its own.
        "RAY_SERVE_HAPROXY_TIMEOUT_SERVER_S": str(timeout_s),
        # A request may be sent once more, to another replica, if the first one died without an
        # answer: inference changes nothing. Once only, or one that kills would kill them all.
        # (HAProxy 2.8 does not do it for a connection used before: it closes the client's.)
        "RAY_SERVE_HAPROXY_RETRY_ON": "conn-failure empty-response",
        "RAY_SERVE_HAPROXY_RETRIES": "1",
        "RAY_SERVE_HAPROXY_TUNE_BUFSIZE": str(haproxy.BUFFER_BYTES),
        # A client that stays silent amid a request, or takes nothing of an answer, is cut off.
        "RAY_SERVE_HAPROXY_TIMEOUT_CLIENT_S": str(timeout_s),
        # Its statistics and metrics tell everybody who reaches them of models, routes and rates.
        haproxy.LOOPBACK_VARIABLE: "1",
    }


def network_environment() -> dict[str, str]:
    """What `ray start` must have set besides where a cluster has several nodes.

    A node that nobody hears any more, whose link is cut and resets no connection, is lost after
    five or six seconds of silence, instead of over a minute with Ray's own settings. That is sooner
    than calls to it end. Else Serve would hear of the replicas there before the head gives the node
    up, and room for the next ones would be looked for on that node, too, for seconds.
    """
    return {
        # The head asks each node every second, and waits for an answer; three without are enough.
        "RAY_health_check_period_ms": "1000",
        "RAY_health_check_timeout_ms": "1000",
        "RAY_health_check_failure_threshold": "3",
        # Calls on their way to it end, too: one that asks for room there would hold up all others.
        "RAY_grpc_client_keepalive_time_ms": "2000",
        "RAY_grpc_client_keepalive_timeout_ms": "5000",
    }
