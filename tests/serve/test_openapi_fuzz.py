"""Requests that schemathesis generates from the OpenAPI pages: none gets a 5xx."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from support.http_client import ask

EXAMPLES = 30
"""Number of examples per operation."""

schemathesis = pytest.importorskip("schemathesis", reason="needs schemathesis, of the dev extra")


@pytest.mark.parametrize(
    ("path", "count"),
    [("/v2/models/tiny", 12), ("/v2/models/mean", 10), ("", 6)],
    ids=["a model", "a route", "the server"],
)
def test_generated_requests_get_no_5xx(
    served, capsys: pytest.CaptureFixture[str], path: str, count: int
) -> None:
    base = f"{served.cluster.http}{path}"
    schema = schemathesis.openapi.from_dict(ask(f"{base}/openapi.json").json)
    statuses: dict[int, int] = {}

    def try_out(operation: Any) -> None:
        @given(case=operation.as_strategy())
        @settings(
            max_examples=EXAMPLES,
            database=None,
            derandomize=True,
            suppress_health_check=list(HealthCheck),
        )
        def check(case: Any) -> None:
            answer = case.call(base_url=base)
            statuses[answer.status_code] = statuses.get(answer.status_code, 0) + 1
            assert answer.status_code < 500, (case, answer.text)

        check()

    operations = [result.ok() for result in schema.get_all_operations()]
    assert len(operations) == count
    for operation in operations:
        try_out(operation)
    with capsys.disabled():
        print(f"\n{sum(statuses.values())} requests of schemathesis, by status: {statuses}", end="")
    if path:
        assert len(statuses) > 1  # some of them were refused
    served.assert_answers()
