"""A collector hears of a request what it went through, in every process, as one trace."""

from __future__ import annotations

import secrets

import pytest
from let_in import KEYS
from opentelemetry.proto.trace.v1.trace_pb2 import Span
from support.http_client import ask

PHASES = {"preprocess", "queue", "compute", "encode"}


def asked(closed, body: bytes, path: str, sampled: bool = True) -> tuple[str, str]:
    """Ask with a trace of the client's; the ids of that trace and of the client's span."""
    trace_id, span_id = secrets.token_hex(16), secrets.token_hex(8)
    headers = {
        "Content-Type": "application/json",
        "x-api-key": KEYS["all"],
        "traceparent": f"00-{trace_id}-{span_id}-{'01' if sampled else '00'}",
    }
    assert ask(f"{closed.models}/{path}", body, headers).status == 200
    return trace_id, span_id


def inside(inner: Span, outer: Span) -> bool:
    return (
        outer.start_time_unix_nano <= inner.start_time_unix_nano
        and inner.end_time_unix_nano <= outer.end_time_unix_nano
    )


def test_a_model_tells_where_its_time_went(closed, body: bytes) -> None:
    trace_id, span_id = asked(closed, body, "one/infer")
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


def test_a_route_is_one_trace_with_the_models_that_it_asked(closed, body: bytes) -> None:
    trace_id, span_id = asked(closed, body, "nested/infer")
    own = {"ask one", "ask cut", "ingress", "combine"}
    spans = closed.collector.of(trace_id, own | {"replica router", "replica cut"})
    (router,) = spans["replica router"]
    assert router.parent_span_id.hex() == span_id
    assert len(spans["ask one"]) == 2  # by the cascade, then by the ensemble inside it
    for name in own:
        for span in spans[name]:
            assert span.parent_span_id == router.span_id
            assert inside(span, router)
    (asking,) = spans["ask cut"]
    assert asking.kind == Span.SPAN_KIND_CLIENT
    (model,) = spans["replica cut"]
    assert model.parent_span_id == asking.span_id
    # It ends a little later: Serve closes it once the answer has been sent.
    assert asking.start_time_unix_nano <= model.start_time_unix_nano < asking.end_time_unix_nano


def test_a_model_in_stages_tells_what_each_took(closed, body: bytes) -> None:
    trace_id, _ = asked(closed, body, "cut/infer")
    (compute,) = closed.collector.of(trace_id, PHASES)["compute"]
    parts = {each.key: each.value.double_value for each in compute.attributes}
    assert set(parts) == {"headrace.compute.stage-0.ms", "headrace.compute.stage-1.ms"}
    took_ms = (compute.end_time_unix_nano - compute.start_time_unix_nano) / 1e6
    assert 0 < sum(parts.values()) < took_ms


@pytest.mark.parametrize("path", ["one/infer", "mean/infer"])
def test_a_trace_that_its_client_does_not_want_is_not_told(closed, body: bytes, path: str) -> None:
    unwanted, _ = asked(closed, body, path, sampled=False)
    wanted, _ = asked(closed, body, path)
    closed.collector.of(wanted, PHASES)
    assert closed.collector.of(unwanted, set()) == {}
