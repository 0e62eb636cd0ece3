"""Names of the HTTP headers that clients, HAProxy, routers and replicas exchange.

    client → HAProxy → replica            deadline, priority, request id, key, trace
    router → replica                      the same, and the router's key, a lent body
    replica → client                      Server-Timing, request id

The header of binary tensors is part of the protocol: :mod:`cluster.protocol.binary_tensor`.
"""

from __future__ import annotations

DEADLINE = "x-request-timeout-seconds"
"""Deadline that a client requests, in seconds. Serve uses the same name."""

DISCONNECT_DISABLED = "x-request-disconnect-disabled"
"""Disables Serve's own check of the client's connection."""

REQUEST_ID = "x-request-id"

PRIORITY = "x-priority"
"""Value of a :class:`cluster.runtime.priority_queue.Priority`."""

API_KEY = "x-api-key"
"""Alternative to ``Authorization: Bearer KEY``."""

ROUTER_KEY = "x-headrace-router"
"""Secret of the cluster that authenticates requests of its router to a replica."""

LENT_BODY = "x-headrace-body"
"""Reference to a body in the memory of the router that sent the request."""

SERVER_TIMING = "Server-Timing"
"""W3C recommendation; see :mod:`deployments.http.server_timing`."""

TRACE_CONTEXT = ("traceparent", "tracestate")
"""W3C Trace Context."""
