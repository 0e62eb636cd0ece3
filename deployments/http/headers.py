"""The names of all HTTP headers that clients, HAProxy, routers and replicas exchange.

    client → HAProxy → replica            deadline, priority, request id, key, trace
    router → replica                      the same, and the router's key, a lent body
    replica → client                      Server-Timing, request id

The header of binary tensors belongs to the protocol: ``cluster.protocol.infer.HEADER_LENGTH``.
"""

from __future__ import annotations

DEADLINE = "x-request-timeout-seconds"
"""Deadline that a client asks for, in seconds. Also Serve's own name for it."""

DISCONNECT_DISABLED = "x-request-disconnect-disabled"
"""Serve's switch for its own watch over the client's connection."""

REQUEST_ID = "x-request-id"

PRIORITY = "x-priority"
"""``interactive`` or ``batch``."""

API_KEY = "x-api-key"
"""Alternative to ``Authorization: Bearer KEY``."""

ROUTER_KEY = "x-headrace-router"
"""Secret of the cluster by which a replica knows a request of its router."""

LENT_BODY = "x-headrace-body"
"""Address of a body that stays in the memory of the router that sent the request."""

SERVER_TIMING = "Server-Timing"
"""W3C recommendation; see :mod:`deployments.http.server_timing`."""

TRACE_CONTEXT = ("traceparent", "tracestate")
"""W3C Trace Context."""
