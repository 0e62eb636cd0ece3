"""OpenTelemetry spans, if the Serve config's ``tracing_config`` enables them.

    Serve           a span for every request in a replica, child of the client's ``traceparent``
    phases()        its children: the phases of the request, one after the other
    client_span()   a child for a request to a model, and the headers that make it the parent there

    tracing_config: {enabled: true, exporter_import_path: deployments.http.tracing:otlp}

If tracing is disabled, each call costs a microsecond.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from opentelemetry import trace
from opentelemetry.sdk.trace import SpanProcessor
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.trace import SpanKind
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from cluster.errors import ConfigError

_tracer = trace.get_tracer("headrace")
_propagator = TraceContextTextMapPropagator()


def otlp() -> list[SpanProcessor]:
    """Return the exporter to a collector, over OTLP in HTTP, for ``exporter_import_path``.

    OpenTelemetry's own variables, such as ``OTEL_EXPORTER_OTLP_ENDPOINT``, configure its address
    and headers. Raises ConfigError if the extra ``otel`` is not installed.
    """
    try:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
    except ImportError:
        raise ConfigError(
            "tracing_config: deployments.http.tracing:otlp needs OpenTelemetry's exporter; "
            "pip install 'headrace[otel]'"
        ) from None
    return [BatchSpanProcessor(OTLPSpanExporter())]


def phases(ms: Mapping[str, float]) -> None:
    """Add a span for each phase; they are consecutive, and the last one ends now.

    A part of a phase, ``PHASE.PART``, becomes an attribute of that phase's span: its duration is
    known, but not its start.
    """
    if not trace.get_current_span().is_recording():
        return
    whole = {name: duration_ms for name, duration_ms in ms.items() if "." not in name}
    at = time.time_ns() - round(sum(whole.values()) * 1e6)
    for name, duration_ms in whole.items():
        span = _tracer.start_span(name, start_time=at)
        for part, part_ms in ms.items():
            if part.startswith(f"{name}."):
                span.set_attribute(f"headrace.{part}.ms", part_ms)
        at += round(duration_ms * 1e6)
        span.end(at)


@contextmanager
def client_span(target: str, address: str) -> Iterator[dict[str, str]]:
    """Record a span around a request to a model; yield the headers to send with it."""
    headers: dict[str, str] = {}
    if not trace.get_current_span().is_recording():
        yield headers
        return
    host, _, port = address.rpartition(":")
    attributes: dict[str, str | int] = {"server.address": host, "server.port": int(port)}
    name = f"ask {target}"
    with _tracer.start_as_current_span(name, kind=SpanKind.CLIENT, attributes=attributes):
        _propagator.inject(headers)
        yield headers
