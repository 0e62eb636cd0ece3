"""Requests that schemathesis makes from a model's OpenAPI page: whatever is sent, no 5xx."""

from __future__ import annotations

from typing import Any

import pytest
from http_client import ask
from hypothesis import HealthCheck, given, settings

EXAMPLES = 30
"""Per operation."""

schemathesis = pytest.importorskip("schemathesis", reason="needs schemathesis, of the dev extra")


def test_no_request_made_from_the_openapi_page_is_a_5xx(
    served, capsys: pytest.CaptureFixture[str]
) -> None:
    page = ask(f"{served.tiny}/openapi.json").json
    schema = schemathesis.openapi.from_dict(page)
    statuses: dict[int, int] = {}

    def try_out(operation: Any) -> None:
        @given(case=operation.as_strategy())
        @settings(
            max_examples=EXAMPLES, deadline=None, database=None, derandomize=True,
            suppress_health_check=list(HealthCheck),
        )  # fmt: skip
        def check(case: Any) -> None:
            answer = case.call(base_url=served.tiny)
            statuses[answer.status_code] = statuses.get(answer.status_code, 0) + 1
            assert answer.status_code < 500, (case, answer.text)

        check()

    operations = [found.ok() for found in schema.get_all_operations()]
    assert len(operations) == 10
    for operation in operations:
        try_out(operation)
    with capsys.disabled():
        print(f"\n{sum(statuses.values())} requests of schemathesis, by status: {statuses}", end="")
    assert len(statuses) > 1  # some of them were wrong, and were told so
    served.assert_answers()
