"""Checking a contender's answers before any load: several images, alone and all at once.

The second time the server makes a batch of them, so answers that go to the wrong request show.
"""

from __future__ import annotations

import urllib.error
import urllib.request
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from benchmarks.contender import Endpoint
from benchmarks.errors import BenchmarkError
from cluster.protocol.infer import HEADER_LENGTH

TOLERANCE = 1e-3
"""Largest difference to the reference, as a share of the largest logit.

Kernels may sum in another order at another batch size."""

_TIMEOUT_S = 30.0


def verify(endpoint: Endpoint, bodies: Sequence[bytes], expected: np.ndarray) -> float:
    """Ask for every body, compare with ``expected`` ``[len(bodies), 1000]``.

    Returns the largest difference as a share of the largest logit. Raises BenchmarkError if it
    is over :data:`TOLERANCE`, or if the references are too alike to tell a mix-up.
    """
    require_distinct(expected)
    alone = [ask(endpoint, body) for body in bodies]
    with ThreadPoolExecutor(len(bodies)) as pool:
        together = list(pool.map(lambda body: ask(endpoint, body), bodies))
    found = max(difference(np.stack(answers), expected) for answers in (alone, together))
    if found > TOLERANCE:
        raise BenchmarkError(
            f"{endpoint.url} answers other logits than the model in-process: they differ by "
            f"{found:.2g} of the largest, allowed are {TOLERANCE:g}"
        )
    return found


def ask(endpoint: Endpoint, body: bytes) -> np.ndarray:
    """Post one image; its logits, float32 ``[1000]``. BenchmarkError for any other answer."""
    request = urllib.request.Request(endpoint.url, body, endpoint.headers, method="POST")
    try:
        with urllib.request.urlopen(request, timeout=_TIMEOUT_S) as answer:
            skipped = int(answer.headers.get(HEADER_LENGTH, 0))  # the protocol's JSON
            return np.frombuffer(answer.read()[skipped:], np.float32)
    except (OSError, ValueError) as error:
        said = error.read()[:300] if isinstance(error, urllib.error.HTTPError) else b""
        raise BenchmarkError(f"{endpoint.url} did not answer: {error} {said!r}") from error


def difference(answers: np.ndarray, expected: np.ndarray) -> float:
    """Largest absolute difference, as a share of the largest expected logit."""
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
