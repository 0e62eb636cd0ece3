"""The load generator sends what it should and counts what came back."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from benchmarks import load
from benchmarks.contender import Endpoint
from benchmarks.errors import BenchmarkError


@pytest.mark.skipif(shutil.which("wrk") is None, reason="wrk is not installed")
def test_every_answer_but_200_counts_as_an_error(serving, tmp_path: Path) -> None:
    body = bytes(range(256)) * 40
    (tmp_path / "body").write_bytes(body)
    statuses: list[int] = []
    received: set[tuple[bytes, str | None]] = set()

    def answer(content: bytes, headers: dict[str, str]) -> tuple[int, bytes]:
        received.add((content, headers.get("inference-header-content-length")))
        # 203 is what wrk by itself would take for a success.
        statuses.append((200, 203, 503)[len(statuses) % 3])
        return statuses[-1], b"answer"

    endpoint = Endpoint(serving(answer), {"Inference-Header-Content-Length": "0"}, None)
    found = load.post(endpoint, tmp_path / "body", concurrency=1, seconds=1)

    assert received == {(body, "0")}
    assert found.socket_errors == 0
    # The last request may still be under way when wrk stops counting.
    assert abs(found.requests - len(statuses)) <= 1
    assert abs(found.non_200 - sum(status != 200 for status in statuses)) <= 1
    assert 0 < found.p50_ms <= found.p99_ms <= found.max_ms


def test_a_missing_wrk_is_told_with_its_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(BenchmarkError, match="apt-get install wrk"):
        load.wrk()
