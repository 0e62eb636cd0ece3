"""Settings of Ray and Serve for serving, as environment variables.

Ray and Serve read most settings from the environment of the process that uses them. Variables of
``ray start`` reach the controller, HAProxy, the replicas and the jobs, because each inherits them
from the raylet.
"""

from __future__ import annotations

import math

from deployments.ray import haproxy
from deployments.ray.time_limits import max_request_timeout_s

_ANSWER_MARGIN_S = 5  # HAProxy's timeout is longer than a replica's by so much


def serving_environment() -> dict[str, str]:
    """Return the variables for `ray start` on every cluster that serves: local, and in k8s/base.

    Raises :class:`ConfigError` if the maximum request timeout in the environment is no number.
    """
    timeout_s = math.ceil(max_request_timeout_s()) + _ANSWER_MARGIN_S
    return {
        # Requests go client → HAProxy → replica, without a Python proxy in between.
        "RAY_SERVE_ENABLE_HA_PROXY": "1",
        # Patches HAProxy's configuration where Serve has no setting, then becomes HAProxy.
        "RAY_SERVE_HAPROXY_BINARY_PATH": str(haproxy.PROGRAM),
        # User code shares the replica's event loop, and access logs are written in bulk.
        "RAY_SERVE_THROUGHPUT_OPTIMIZED": "1",
        # Ray runs its workers at niceness 15 by default: a replica would wait for a core behind
        # HAProxy and any shell command.
        "RAY_worker_niceness": "0",
        # Telemetry is disabled.
        "RAY_USAGE_STATS_ENABLED": "0",
        # Checks headers, clamps deadlines, and turns errors into JSON, in every replica.
        "RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH": "deployments.http.guard:middlewares",
        # An unhealthy replica has no requests to finish, and occupies resources that the next one
        # needs.
        "RAY_SERVE_FORCE_STOP_UNHEALTHY_REPLICAS": "1",
        # A busy node starts HAProxy's actor in more than Serve's 5 s. Serve would then kill it, and
        # the first deployment would fail.
        "RAY_SERVE_PROXY_READY_CHECK_TIMEOUT_S": "60",
        # The replica enforces deadlines; a hanging replica cannot, so HAProxy has a timeout, too.
        "RAY_SERVE_HAPROXY_TIMEOUT_SERVER_S": str(timeout_s),
        # A request is retried once, at another replica, if the first one ended without an answer:
        # inference is idempotent. More retries would let one fatal request end all replicas.
        # (HAProxy 2.8 does not retry on a reused connection: it closes the client's connection.)
        "RAY_SERVE_HAPROXY_RETRY_ON": "conn-failure empty-response",
        "RAY_SERVE_HAPROXY_RETRIES": "1",
        "RAY_SERVE_HAPROXY_TUNE_BUFSIZE": str(haproxy.BUFFER_BYTES),
        # Disconnect a client that pauses within a request, or does not read its answer.
        "RAY_SERVE_HAPROXY_TIMEOUT_CLIENT_S": str(timeout_s),
        # Statistics and metrics show models, routes and rates to every client that reaches them.
        haproxy.LOOPBACK_VARIABLE: "1",
    }


def network_environment() -> dict[str, str]:
    """Return the additional variables for `ray start` on a cluster of several nodes.

    A node without a link, whose connections are not reset, counts as lost after five or six
    seconds, instead of over a minute with Ray's defaults: before calls to it fail. Otherwise Serve
    would notice the lost replicas before the head removes the node, and would try to place new ones
    on that node for seconds.
    """
    return {
        # The head checks each node every second; three missing answers mean a lost node.
        "RAY_health_check_period_ms": "1000",
        "RAY_health_check_timeout_ms": "1000",
        "RAY_health_check_failure_threshold": "3",
        # In-flight calls to it end, too: a pending request for resources there would block others.
        "RAY_grpc_client_keepalive_time_ms": "2000",
        "RAY_grpc_client_keepalive_timeout_ms": "5000",
    }
