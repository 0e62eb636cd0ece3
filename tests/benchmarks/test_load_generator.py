"""Requests that the load generator sends, and answers that it counts."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from benchmarks.contenders.contender import Endpoint
from benchmarks.harness.errors import BenchmarkError
from benchmarks.load import wrk


@pytest.mark.skipif(shutil.which("wrk") is None, reason="wrk is not installed")
def test_every_status_but_200_counts_as_an_error(serving, tmp_path: Path) -> None:
    body = bytes(range(256)) * 40
    (tmp_path / "body").write_bytes(body)
    statuses: list[int] = []
    received: set[tuple[bytes, str | None]] = set()

    def answer(content: bytes, headers: dict[str, str]) -> tuple[int, bytes]:
        received.add((content, headers.get("inference-header-content-length")))
        # wrk itself counts 203 as a success.
        statuses.append((200, 203, 503)[len(statuses) % 3])
        return statuses[-1], b"answer"

    endpoint = Endpoint(serving(answer), {"Inference-Header-Content-Length": "0"}, None)
    load = wrk.post(endpoint, tmp_path / "body", concurrency=1, seconds=1)

    assert received == {(body, "0")}
    assert load.socket_errors == 0
    # The last request may still be in flight when wrk stops counting.
    assert abs(load.requests - len(statuses)) <= 1
    assert abs(load.non_200 - sum(status != 200 for status in statuses)) <= 1
    assert 0 < load.p50_ms <= load.p99_ms <= load.max_ms


def test_missing_wrk_is_named_with_its_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(BenchmarkError, match="apt-get install wrk"):
        wrk.require()


def test_figures_sum_errors_over_concurrencies() -> None:
    loads = {
        concurrency: wrk.Load(100, 50.0, 1.0, 2.0, 3.0, non_200=2, socket_errors=concurrency)
        for concurrency in (1, 16)
    }
    figures = wrk.figures(loads)
    assert figures["errors"] == 21
    assert (figures["p50 ms at c=16"], figures["req/s at c=1"]) == (1.0, 50.0)
