"""Clients on a host that ask without a pause until the block ends, and what they were answered."""

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
class Asked:
    """One request, on the monotonic clock; status None: no whole answer came, and why."""

    address: str
    started: float
    ended: float
    status: int | None
    reason: str
    body: bytes


@dataclass
class SteadyLoad:
    """``clients`` of each of ``addresses``, which take what the nodes leave of the CPUs: real ones
    have machines of their own.

    ``keep``: on connections that are kept, as a pool has them; else each request has its own.
    """

    host: Host
    addresses: list[str]
    path: str
    body: bytes
    headers: dict[str, str]
    clients: int = 2
    keep: bool = True
    pause_s: float = 0.02
    asked: list[Asked] = field(default_factory=list)

    def __enter__(self) -> SteadyLoad:
        self._over = threading.Event()
        self._threads = [
            threading.Thread(target=self._ask, args=[address])
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

    def _ask(self, address: str) -> None:
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
            self.asked.append(Asked(address, started, time.monotonic(), status, reason, body))
            time.sleep(self.pause_s)
        connection.close()

    @property
    def failed(self) -> list[Asked]:
        return [asked for asked in self.asked if asked.status != 200]

    @property
    def failures(self) -> str:
        return f"{len(self.failed)} of {len(self.asked)}"

    def told(self) -> str:
        """How many requests had which outcome, for a test's message."""
        outcomes = Counter((asked.status, asked.reason[:160]) for asked in self.failed)
        slowest = max((asked.ended - asked.started for asked in self.asked), default=0)
        return (
            f"{len(self.asked)} requests, {len(self.failed)} failed, slowest {slowest:.2f} s"
            + "".join(f"\n  {count} × {outcome}" for outcome, count in outcomes.items())
        )


def binary_request(name: str, array: np.ndarray) -> tuple[bytes, dict[str, str]]:
    """Body and headers of an infer request with one float32 input, for a binary answer."""
    tensor = {
        "name": name,
        "datatype": "FP32",
        "shape": array.shape,
        "parameters": {"binary_data_size": array.nbytes},
    }
    head = json.dumps({"inputs": [tensor], "parameters": {"binary_data_output": True}}).encode()
    return head + array.tobytes(), {"Inference-Header-Content-Length": str(len(head))}
