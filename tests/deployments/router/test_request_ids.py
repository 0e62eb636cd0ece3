"""Request ids: from JSON into a header, which allows fewer characters."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from starlette.requests import Request

from cluster.protocol.infer import InferRequest
from deployments.router.endpoint import RouteEndpoint


def sent_id(request_id: str) -> str:
    served: Any = SimpleNamespace(route=SimpleNamespace(timeout_s=None))
    unused: Any = None
    endpoint = RouteEndpoint(served, unused, unused, "1", {})
    decoded = InferRequest(request_id, (np.zeros(1),), ())
    return endpoint._call(Request({"type": "http", "headers": []}), decoded, 0.0).request_id


@pytest.mark.parametrize(
    ("request_id", "sent"),
    [
        ("r 1", "r 1"),
        ("a\nb", "a_b"),
        ("a\r\nx: y", "a__x: y"),
        ("größe", "gr__e"),
        ("a\x00", "a_"),
    ],
)
def test_request_id_becomes_valid_header(request_id: str, sent: str) -> None:
    assert sent_id(request_id) == sent


def test_long_request_id_is_truncated() -> None:
    assert len(sent_id("x" * 1000)) == 128
