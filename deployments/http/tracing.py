"""Spans of OpenTelemetry, where the Serve config's ``tracing_config`` asks for them.

    Serve      a span for every request in a replica, below the client's ``traceparent``
    phases()   below it: what the request went through in there, one after the other
    asking()   below it: a request to a model, and the header that puts the model's span below that

    tracing_config: {enabled: true, exporter_import_path: deployments.http.tracing:otlp}

Where nothing is recorded, each of them costs a microsecond.
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
    """For ``exporter_import_path``: spans go to a collector, over OTLP in HTTP.

    Where it is, and with which headers, say OpenTelemetry's own variables, such as
    ``OTEL_EXPORTER_OTLP_ENDPOINT``. ConfigError if the extra ``otel`` is not installed.
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
    """Add a span for each: they came one after the other, and the last one has just ended.

    A part of a phase, ``PHASE.PART``, becomes an attribute of that phase's span: what is known of
    it is how long it took, not when it began.
    """
    if not trace.get_current_span().is_recording():
        return
    whole = {name: took_ms for name, took_ms in ms.items() if "." not in name}
    at = time.time_ns() - round(sum(whole.values()) * 1e6)
    for name, took_ms in whole.items():
        span = _tracer.start_span(name, start_time=at)
        for part, part_ms in ms.items():
            if part.startswith(f"{name}."):
                span.set_attribute(f"headrace.{part}.ms", part_ms)
        at += round(took_ms * 1e6)
        span.end(at)


@contextmanager
def asking(target: str, address: str) -> Iterator[dict[str, str]]:
    """A span around asking a model; gives the headers to send along."""
    headers: dict[str, str] = {}
    if not trace.get_current_span().is_recording():
        yield headers
        return
    at, _, port = address.rpartition(":")
    attributes: dict[str, str | int] = {"server.address": at, "server.port": int(port)}
    name = f"ask {target}"
    with _tracer.start_as_current_span(name, kind=SpanKind.CLIENT, attributes=attributes):
        _propagator.inject(headers)
        yield headers
