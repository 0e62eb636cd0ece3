"""A steady load that records every request.

Load ── clients, no pause ──→ URL ──→ SentRequest(status, times, body) in `requests`
"""

from __future__ import annotations

import json
import threading
import time
from dataclasses import dataclass, field
from http.client import HTTPException
from typing import Self

import numpy as np

from support.http_client import ask


def request_body(item_shape: tuple[int, ...], scale: float = 1.0) -> bytes:
    """Return an infer request of one item with values in [-scale, scale)."""
    data = np.random.default_rng(0).uniform(-scale, scale, (1, *item_shape)).astype(np.float32)
    tensor = {"name": "input", "datatype": "FP32", "shape": [1, *item_shape]}
    return json.dumps({"inputs": [{**tensor, "data": data.ravel().tolist()}]}).encode()


@dataclass(frozen=True)
class SentRequest:
    """Request of the load, in seconds of the monotonic clock; status None: no answer."""

    started: float
    ended: float
    status: int | None
    retry_after: str | None
    body: bytes


@dataclass
class Load:
    """Clients that send requests without a pause until the block ends, each on a new connection."""

    url: str
    body: bytes
    clients: int = 4
    requests: list[SentRequest] = field(default_factory=list)

    def __enter__(self) -> Self:
        self._over = threading.Event()
        self._threads = [threading.Thread(target=self._send) for _ in range(self.clients)]
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        for thread in self._threads:
            thread.join()

    def _send(self) -> None:
        headers = {"Content-Type": "application/json"}
        while not self._over.is_set():
            started = time.monotonic()
            status, retry, body = None, None, b""
            try:
                answer = ask(self.url, self.body, headers, timeout_s=30)
                status, retry, body = (
                    answer.status,
                    answer.headers.get("retry-after"),
                    answer.body,
                )
            except (OSError, HTTPException):
                pass  # recorded as status None
            self.requests.append(SentRequest(started, time.monotonic(), status, retry, body))
            if status != 200:
                time.sleep(0.02)
