"""Spans of a request from every process, as one trace."""

from __future__ import annotations

import secrets

import pytest
from client_keys import KEYS
from opentelemetry.proto.trace.v1.trace_pb2 import Span
from support.http_client import ask

PHASES = {"preprocess", "queue", "compute", "encode"}


def send_traced(closed, body: bytes, path: str, sampled: bool = True) -> tuple[str, str]:
    """Send a request within a client's trace; return the ids of the trace and the client's span."""
    trace_id, span_id = secrets.token_hex(16), secrets.token_hex(8)
    headers = {
        "Content-Type": "application/json",
        "x-api-key": KEYS["all"],
        "traceparent": f"00-{trace_id}-{span_id}-{'01' if sampled else '00'}",
    }
    assert ask(f"{closed.models}/{path}", body, headers).status == 200
    return trace_id, span_id


def inside(inner: Span, outer: Span) -> bool:
    """Return whether the inner span lies within the time of the outer one."""
    return (
        outer.start_time_unix_nano <= inner.start_time_unix_nano
        and inner.end_time_unix_nano <= outer.end_time_unix_nano
    )


def test_model_trace_has_one_span_per_phase(closed, body: bytes) -> None:
    trace_id, span_id = send_traced(closed, body, "one/infer")
    spans = closed.collector.of(trace_id, PHASES | {"replica one"})
    (whole,) = spans["replica one"]
    assert whole.parent_span_id.hex() == span_id
    at = whole.start_time_unix_nano
    for name in ("preprocess", "queue", "compute", "encode"):
        (span,) = spans[name]
        assert span.parent_span_id == whole.span_id
        assert inside(span, whole)
        assert span.start_time_unix_nano >= at
        at = span.end_time_unix_nano


def test_route_and_its_models_share_one_trace(closed, body: bytes) -> None:
    trace_id, span_id = send_traced(closed, body, "nested/infer")
    router_spans = {"ask one", "ask cut", "ingress", "combine"}
    spans = closed.collector.of(trace_id, router_spans | {"replica router", "replica cut"})
    (router,) = spans["replica router"]
    assert router.parent_span_id.hex() == span_id
    assert len(spans["ask one"]) == 2  # by the cascade, then by the ensemble inside it
    for name in router_spans:
        for span in spans[name]:
            assert span.parent_span_id == router.span_id
            assert inside(span, router)
    (call,) = spans["ask cut"]
    assert call.kind == Span.SPAN_KIND_CLIENT
    (model,) = spans["replica cut"]
    assert model.parent_span_id == call.span_id
    # It ends a little later: Serve closes it once the answer has been sent.
    assert call.start_time_unix_nano <= model.start_time_unix_nano < call.end_time_unix_nano


def test_compute_span_has_the_time_of_each_stage(closed, body: bytes) -> None:
    trace_id, _ = send_traced(closed, body, "cut/infer")
    (compute,) = closed.collector.of(trace_id, PHASES)["compute"]
    parts = {item.key: item.value.double_value for item in compute.attributes}
    assert set(parts) == {"headrace.compute.stage-0.ms", "headrace.compute.stage-1.ms"}
    compute_ms = (compute.end_time_unix_nano - compute.start_time_unix_nano) / 1e6
    assert 0 < sum(parts.values()) < compute_ms


@pytest.mark.parametrize("path", ["one/infer", "mean/infer"])
def test_unsampled_trace_is_not_exported(closed, body: bytes, path: str) -> None:
    unsampled, _ = send_traced(closed, body, path, sampled=False)
    sampled, _ = send_traced(closed, body, path)
    closed.collector.of(sampled, PHASES)
    assert closed.collector.of(unsampled, set()) == {}
