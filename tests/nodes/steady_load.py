"""Clients on a host that send requests until the block ends, and a record of every request.

SteadyLoad ── clients of each address ─→ HAProxy of the node ─→ SentRequest in `requests`
"""

from __future__ import annotations

import http.client
import json
import os
import threading
import time
from collections import Counter
from dataclasses import dataclass, field

import numpy as np
from network import Host
from ray_nodes import HTTP_PORT

_TIMEOUT_S = 70
_NICE = 10


@dataclass(frozen=True)
class SentRequest:
    """One request, in seconds of the monotonic clock.

    ``status`` None: no complete answer, for the ``reason``.
    """

    address: str
    started: float
    ended: float
    status: int | None
    reason: str
    body: bytes


@dataclass
class SteadyLoad:
    """Load of ``clients`` clients per address, with lower CPU priority than the nodes.

    Real clients have their own machines. ``keep``: reuse connections, as a pool does; else each
    request has a new one.
    """

    host: Host
    addresses: list[str]
    path: str
    body: bytes
    headers: dict[str, str]
    clients: int = 2
    keep: bool = True
    pause_s: float = 0.02
    requests: list[SentRequest] = field(default_factory=list)

    def __enter__(self) -> SteadyLoad:
        self._over = threading.Event()
        self._threads = [
            threading.Thread(target=self._send, args=[address])
            for address in self.addresses
            for _ in range(self.clients)
        ]
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        for thread in self._threads:
            thread.join()

    def _send(self, address: str) -> None:
        self.host.enter()
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), _NICE)
        connection = http.client.HTTPConnection(address, HTTP_PORT, timeout=_TIMEOUT_S)
        while not self._over.is_set():
            started = time.monotonic()
            status, reason, body = None, "", b""
            try:
                connection.request("POST", self.path, self.body, self.headers)
                answer = connection.getresponse()
                status, body = answer.status, answer.read()
                reason = body[:300].decode(errors="replace") if status != 200 else ""
            except (OSError, http.client.HTTPException) as error:
                reason = repr(error)
                connection.close()
            if not self.keep:
                connection.close()
            request = SentRequest(address, started, time.monotonic(), status, reason, body)
            self.requests.append(request)
            time.sleep(self.pause_s)
        connection.close()

    @property
    def failed(self) -> list[SentRequest]:
        return [request for request in self.requests if request.status != 200]

    @property
    def failures(self) -> str:
        return f"{len(self.failed)} of {len(self.requests)}"

    def summary(self) -> str:
        """Return the number of requests with each outcome, for a test's message."""
        outcomes = Counter((request.status, request.reason[:160]) for request in self.failed)
        slowest = max((request.ended - request.started for request in self.requests), default=0)
        return (
            f"{len(self.requests)} requests, {len(self.failed)} failed, slowest {slowest:.2f} s"
            + "".join(f"\n  {count} × {outcome}" for outcome, count in outcomes.items())
        )


def binary_request(name: str, array: np.ndarray) -> tuple[bytes, dict[str, str]]:
    """Return body and headers of an infer request: one float32 input, binary answer."""
    tensor = {
        "name": name,
        "datatype": "FP32",
        "shape": array.shape,
        "parameters": {"binary_data_size": array.nbytes},
    }
    head = json.dumps({"inputs": [tensor], "parameters": {"binary_data_output": True}}).encode()
    return head + array.tobytes(), {"Inference-Header-Content-Length": str(len(head))}
