"""A closed loop of requests that keeps every answer.

bodies → so many threads, a connection each, the next body when the last one is answered → Answers
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

from benchmarks.contender import Endpoint
from benchmarks.errors import BenchmarkError
from cluster.protocol.infer import HEADER_LENGTH

_TIMEOUT_S = 30.0


@dataclass(frozen=True)
class Answer:
    """One answer to a request for raw tensors, and how long it took."""

    ms: float
    body: bytes
    header_length: int

    @property
    def parameters(self) -> dict[str, Any]:
        """What the server says besides the outputs."""
        said: dict[str, Any] = orjson.loads(self.body[: self.header_length])
        return said.get("parameters", {})

    @property
    def output(self) -> np.ndarray:
        """The only output, float32, flat."""
        return np.frombuffer(self.body, np.float32, offset=self.header_length)


def ask_all(
    endpoint: Endpoint, bodies: Sequence[bytes], concurrency: int
) -> tuple[list[Answer], float]:
    """Answers in the order of ``bodies``, and the seconds that all took together.

    BenchmarkError for any answer but 200.
    """
    found: list[Answer | None] = [None] * len(bodies)
    numbers = itertools.count()
    taking = threading.Lock()

    def go_on() -> None:
        connection = http.client.HTTPConnection(urlsplit(endpoint.url).netloc, timeout=_TIMEOUT_S)
        try:
            while True:
                with taking:
                    number = next(numbers)
                if number >= len(bodies):
                    return
                found[number] = _ask(connection, endpoint, bodies[number])
        finally:
            connection.close()

    started = time.perf_counter()
    with ThreadPoolExecutor(concurrency) as pool:
        for done in [pool.submit(go_on) for _ in range(concurrency)]:
            done.result()
    return [answer for answer in found if answer is not None], time.perf_counter() - started


def _ask(connection: http.client.HTTPConnection, endpoint: Endpoint, body: bytes) -> Answer:
    started = time.perf_counter()
    connection.request("POST", urlsplit(endpoint.url).path, body, endpoint.headers)
    with connection.getresponse() as response:
        said = response.read()
        ms = (time.perf_counter() - started) * 1e3
        if response.status != 200:
            raise BenchmarkError(f"{endpoint.url} answered {response.status}: {said[:300]!r}")
        return Answer(ms, said, int(response.headers.get(HEADER_LENGTH, 0)))
