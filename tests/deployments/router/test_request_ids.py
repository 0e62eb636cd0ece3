"""A request's id comes from JSON and goes on as a header, in which not everything may stand."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from starlette.requests import Request

from cluster.protocol.infer import InferRequest
from deployments.router.endpoint import RouteEndpoint


def id_of(given: str) -> str:
    served: Any = SimpleNamespace(route=SimpleNamespace(timeout_s=None))
    nothing: Any = None
    endpoint = RouteEndpoint(served, nothing, nothing, "1", {})
    decoded = InferRequest(given, (np.zeros(1),), ())
    return endpoint._call(Request({"type": "http", "headers": []}), decoded, 0.0).request_id


@pytest.mark.parametrize(
    ("given", "sent"),
    [
        ("r 1", "r 1"),
        ("a\nb", "a_b"),
        ("a\r\nx: y", "a__x: y"),
        ("größe", "gr__e"),
        ("a\x00", "a_"),
    ],
)
def test_an_id_is_fit_for_a_header(given: str, sent: str) -> None:
    assert id_of(given) == sent


def test_an_id_is_cut() -> None:
    assert len(id_of("x" * 1000)) == 128
