"""The demo's client: image files through HTTP, timed, over a few open connections."""

from __future__ import annotations

import http.client
import json
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from urllib.parse import urlsplit

import numpy as np

from cluster.errors import ClusterError


@dataclass(frozen=True)
class Requests:
    """Result of a set of requests."""

    right: int
    requests: int
    p50_ms: float
    p99_ms: float
    requests_per_s: float

    @property
    def accuracy(self) -> float:
        """Share of answers whose first label was the right one, 0..1."""
        return self.right / self.requests


def ask(url: str, images: Sequence[bytes], labels: Sequence[str], connections: int) -> Requests:
    """POST every PNG in ``images`` to ``url`` and compare the first label of each answer.

    ``connections``: concurrent requests, each on a connection of its own. ClusterError with the
    server's message if a request fails.
    """
    pending = iter(range(len(images)))
    lock = threading.Lock()
    seconds = np.zeros(len(images))
    answers = [""] * len(images)
    problems: list[str] = []

    def run() -> None:
        parts = urlsplit(url)
        connection = http.client.HTTPConnection(str(parts.hostname), parts.port, timeout=60)
        while not problems:
            with lock:
                index = next(pending, None)
            if index is None:
                break
            started = time.perf_counter()
            try:
                connection.request(
                    "POST", parts.path + "?top_k=1", images[index], {"Content-Type": "image/png"}
                )
                response = connection.getresponse()
                body = response.read()
            except OSError as error:
                problems.append(f"{url}: {error}")
                break
            seconds[index] = time.perf_counter() - started
            if response.status != 200:
                problems.append(f"{url}: {response.status} {body.decode(errors='replace')}")
                break
            answers[index] = json.loads(body)["predictions"][0]["label"]
        connection.close()

    threads = [threading.Thread(target=run) for _ in range(connections)]
    started = time.perf_counter()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    took = time.perf_counter() - started
    if problems:
        raise ClusterError(problems[0])
    p50, p99 = np.percentile(seconds * 1e3, [50, 99])
    right = sum(answer == label for answer, label in zip(answers, labels, strict=True))
    return Requests(right, len(images), float(p50), float(p99), len(images) / took)
