"""Statistics of one model or route in one process, in the form of Triton's statistics extension.

    answered, executed, failed ──► counts and nanoseconds since the process started ──► describe

Triton's parts of a request mean here: ``compute_input`` is body → arrays, ``queue`` the wait for
the program, ``compute_infer`` the run of the request's batch (of a route: its targets), and
``compute_output`` arrays → answer. ``success`` is their sum.

https://github.com/triton-inference-server/server/blob/main/docs/protocol/extension_statistics.md
"""

from __future__ import annotations

import time
import uuid
from collections import defaultdict
from dataclasses import dataclass, field
from typing import Any


@dataclass(slots=True)
class Duration:
    """Number of times, and their sum."""

    count: int = 0
    ns: int = 0

    def add(self, seconds: float) -> None:
        """Add one time."""
        self.count += 1
        self.ns += round(seconds * 1e9)

    def describe(self) -> dict[str, int]:
        """Return the body's form."""
        return {"count": self.count, "ns": self.ns}


@dataclass(slots=True)
class Statistics:
    """Counters of one replica, for one event loop. They begin at zero in each new replica."""

    replica: str = field(default_factory=lambda: uuid.uuid4().hex[:12])
    """Tells the replicas of a model apart."""

    since_ms: int = field(default_factory=lambda: round(time.time() * 1e3))
    _last_ms: int = 0
    _items: int = 0
    _executions: int = 0
    _success: Duration = field(default_factory=Duration)
    _fail: Duration = field(default_factory=Duration)
    _queue: Duration = field(default_factory=Duration)
    _input: Duration = field(default_factory=Duration)
    _infer: Duration = field(default_factory=Duration)
    _output: Duration = field(default_factory=Duration)
    _cache_hit: Duration = field(default_factory=Duration)
    _cache_miss: Duration = field(default_factory=Duration)
    _batches: defaultdict[int, Duration] = field(default_factory=lambda: defaultdict(Duration))

    def answered(
        self, items: int, queue_s: float, input_s: float, infer_s: float, output_s: float
    ) -> None:
        """Count a request that was computed and answered, of ``items``."""
        self._last_ms = round(time.time() * 1e3)
        self._items += items
        self._success.add(queue_s + input_s + infer_s + output_s)
        self._queue.add(queue_s)
        self._input.add(input_s)
        self._infer.add(infer_s)
        self._output.add(output_s)

    def executed(self, batch_size: int, infer_s: float) -> None:
        """Count a run of the program on a batch."""
        self._executions += 1
        self._batches[batch_size].add(infer_s)

    def cached(self, seconds: float) -> None:
        """Count a request that was answered from a cache."""
        self._last_ms = round(time.time() * 1e3)
        self._success.add(seconds)
        self._cache_hit.add(seconds)

    def missed(self, seconds: float) -> None:
        """Count a search of a cache without success."""
        self._cache_miss.add(seconds)

    def failed(self, seconds: float) -> None:
        """Count a request that was refused, failed or cancelled, after that time."""
        self._last_ms = round(time.time() * 1e3)
        self._fail.add(seconds)

    def describe(self, name: str, version: str) -> dict[str, Any]:
        """Return the body of ``GET /v2/models/NAME/stats``.

        Beyond Triton's fields, ``replica`` and ``since`` (ms since the epoch) identify the
        counters.
        """
        none = Duration().describe()  # bodies are decoded and encoded for each request
        return {
            "model_stats": [
                {
                    "name": name,
                    "version": version,
                    "replica": self.replica,
                    "since": self.since_ms,
                    "last_inference": self._last_ms,
                    "inference_count": self._items,
                    "execution_count": self._executions,
                    "inference_stats": {
                        "success": self._success.describe(),
                        "fail": self._fail.describe(),
                        "queue": self._queue.describe(),
                        "compute_input": self._input.describe(),
                        "compute_infer": self._infer.describe(),
                        "compute_output": self._output.describe(),
                        "cache_hit": self._cache_hit.describe(),
                        "cache_miss": self._cache_miss.describe(),
                    },
                    "batch_stats": [
                        {
                            "batch_size": size,
                            "compute_input": none,
                            "compute_infer": self._batches[size].describe(),
                            "compute_output": none,
                        }
                        for size in sorted(self._batches)
                    ],
                }
            ]
        }
