"""Check of a server's answers before any load: several inputs, alone and all at once.

All at once, the server forms a batch, so an answer that goes to the wrong request shows.
"""

from __future__ import annotations

import urllib.error
import urllib.request
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from benchmarks.contenders.contender import Endpoint
from benchmarks.harness.errors import BenchmarkError
from cluster.protocol.binary_tensor import HEADER_LENGTH

TOLERANCE = 1e-3
"""Largest difference to the reference, as a share of the largest output.

Kernels may sum in another order at another batch size."""

_TIMEOUT_S = 30.0


def verify(endpoint: Endpoint, bodies: Sequence[bytes], expected: np.ndarray) -> float:
    """Return the largest difference to ``expected`` ``[len(bodies), ...]``, as a share.

    Raises BenchmarkError if it is over :data:`TOLERANCE`, or if the references are so similar
    that a mix-up would not show.
    """
    require_distinct(expected)
    alone = [ask(endpoint, body) for body in bodies]
    with ThreadPoolExecutor(len(bodies)) as pool:
        together = list(pool.map(lambda body: ask(endpoint, body), bodies))
    largest = max(difference(np.stack(answers), expected) for answers in (alone, together))
    require_close(endpoint, largest)
    return largest


def require_close(endpoint: Endpoint, largest: float) -> None:
    """Raise BenchmarkError unless the largest difference is within :data:`TOLERANCE`."""
    if largest > TOLERANCE:
        raise BenchmarkError(
            f"{endpoint.url} answers other outputs than the model in-process: the difference is "
            f"{largest:.2g} of the largest output, at most {TOLERANCE:g} is allowed"
        )


def ask(endpoint: Endpoint, body: bytes) -> np.ndarray:
    """Post one body and return its output, float32 and flat; BenchmarkError without a 200."""
    request = urllib.request.Request(endpoint.url, body, endpoint.headers, method="POST")
    try:
        with urllib.request.urlopen(request, timeout=_TIMEOUT_S) as answer:
            skipped = int(answer.headers.get(HEADER_LENGTH, 0))  # the protocol's JSON
            return np.frombuffer(answer.read()[skipped:], np.float32)
    except (OSError, ValueError) as error:
        content = error.read()[:300] if isinstance(error, urllib.error.HTTPError) else b""
        raise BenchmarkError(f"{endpoint.url} did not answer: {error} {content!r}") from error


def difference(answers: np.ndarray, expected: np.ndarray) -> float:
    """Return the largest absolute difference, as a share of the largest expected output."""
    if answers.shape != expected.shape:
        return float("inf")
    return float(np.abs(answers - expected).max() / np.abs(expected).max())


def require_distinct(expected: np.ndarray) -> None:
    """Raise BenchmarkError unless each reference differs from every other by 10 tolerances."""
    scale = np.abs(expected).max()
    for row in range(1, len(expected)):
        nearest = np.abs(expected[:row] - expected[row]).max(axis=1).min() / scale
        if nearest < 10 * TOLERANCE:
            raise BenchmarkError(
                f"reference {row} is within {nearest:.2g} of another: a mix-up would not show"
            )
