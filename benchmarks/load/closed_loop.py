"""Closed loop of requests that keeps every answer.

bodies → threads with a connection each, which send the next body after an answer → Answers
"""

from __future__ import annotations

import http.client
import itertools
import threading
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

import numpy as np
import orjson

from benchmarks.contenders.contender import Endpoint
from benchmarks.harness.errors import BenchmarkError
from cluster.protocol.binary_tensor import HEADER_LENGTH

_TIMEOUT_S = 30.0


@dataclass(frozen=True)
class Answer:
    """Answer to a request for raw tensors, and its round trip in milliseconds."""

    ms: float
    body: bytes
    header_length: int

    @property
    def parameters(self) -> dict[str, Any]:
        """Parameters that the answer has besides its outputs."""
        header: dict[str, Any] = orjson.loads(self.body[: self.header_length])
        return header.get("parameters", {})

    @property
    def output(self) -> np.ndarray:
        """The only output, float32, flat."""
        return np.frombuffer(self.body, np.float32, offset=self.header_length)


def ask_all(
    endpoint: Endpoint, bodies: Sequence[bytes], concurrency: int
) -> tuple[list[Answer], float]:
    """Return the answers in the order of ``bodies``, and the seconds for all of them.

    Raises BenchmarkError for any status but 200.
    """
    answers: list[Answer | None] = [None] * len(bodies)
    numbers = itertools.count()
    lock = threading.Lock()

    def send() -> None:
        connection = http.client.HTTPConnection(urlsplit(endpoint.url).netloc, timeout=_TIMEOUT_S)
        try:
            while True:
                with lock:
                    number = next(numbers)
                if number >= len(bodies):
                    return
                answers[number] = _ask(connection, endpoint, bodies[number])
        finally:
            connection.close()

    started = time.perf_counter()
    with ThreadPoolExecutor(concurrency) as pool:
        for done in [pool.submit(send) for _ in range(concurrency)]:
            done.result()
    return [answer for answer in answers if answer is not None], time.perf_counter() - started


def _ask(connection: http.client.HTTPConnection, endpoint: Endpoint, body: bytes) -> Answer:
    started = time.perf_counter()
    connection.request("POST", urlsplit(endpoint.url).path, body, endpoint.headers)
    with connection.getresponse() as response:
        content = response.read()
        ms = (time.perf_counter() - started) * 1e3
        if response.status != 200:
            raise BenchmarkError(f"{endpoint.url} answered {response.status}: {content[:300]!r}")
        return Answer(ms, content, int(response.headers.get(HEADER_LENGTH, 0)))
