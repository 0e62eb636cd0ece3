"""Prometheus metrics of a model, exported by Ray on every node's metrics port."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from ray.util import metrics

from cluster.artifact.layout import Layout
from cluster.protocol.statistics import Statistics
from cluster.runtime.batcher import Answer
from cluster.runtime.shard import ShardCounters
from deployments.ray.histograms import MS_BOUNDS

_SIZES = [1.0, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024]


class ModelMetrics:
    """Metrics of one replica; every series has the model's name as a label."""

    def __init__(self, model: str) -> None:
        def histogram(name: str, description: str, bounds: list[float]) -> metrics.Histogram:
            series = metrics.Histogram(name, description, bounds, tag_keys=("model",))
            series.set_default_tags({"model": model})
            return series

        self.statistics = Statistics()
        """The same counts, for clients."""

        self._requests = metrics.Counter(
            "headrace_requests", "Requests answered, by outcome.", ("model", "outcome")
        )
        self._requests.set_default_tags({"model": model})
        self._load = metrics.Gauge(
            "headrace_model_load_s", "Seconds from opening the artifact to ready.", ("model",)
        )
        self._load.set_default_tags({"model": model})
        self._queue = histogram(
            "headrace_queue_wait_ms", "Wait for the compute thread, ms.", MS_BOUNDS
        )
        self._batch = histogram("headrace_batch_size", "Items computed together.", _SIZES)
        # Ray computes a histogram's sum from the middles of its buckets, so means need counters.
        self._items = metrics.Counter("headrace_items", "Items computed.", ("model",))
        self._items.set_default_tags({"model": model})
        self._preprocess = histogram(
            "headrace_preprocess_ms", "Body to input arrays, ms.", MS_BOUNDS
        )
        self._compute = histogram("headrace_compute_ms", "One run of the program, ms.", MS_BOUNDS)
        self._encode = histogram(
            "headrace_encode_ms", "Output arrays to answer body, ms.", MS_BOUNDS
        )

    def loaded(self, seconds: float) -> None:
        """Record the load time of the model, in seconds."""
        self._load.set(seconds)

    def answered(self, answer: Answer, preprocess_s: float, encode_s: float) -> None:
        """Record an answered request; times in seconds.

        The metrics are written after the answer has been sent: these seven series take longer
        than encoding the answer does.
        """
        loop = asyncio.get_running_loop()
        loop.call_soon(self._record, answer, preprocess_s, encode_s)

    def _record(self, answer: Answer, preprocess_s: float, encode_s: float) -> None:
        items = int(answer.outputs[0].shape[0])
        self.statistics.answered(items, answer.queue_s, preprocess_s, answer.compute_s, encode_s)
        self._requests.inc(tags={"outcome": "ok"})
        self._queue.observe(answer.queue_s * 1e3)
        self._preprocess.observe(preprocess_s * 1e3)
        if answer.first:  # metrics of the batch count once
            self.statistics.executed(answer.batch_size, answer.compute_s)
            self._batch.observe(answer.batch_size)
            self._items.inc(answer.batch_size)
            self._compute.observe(answer.compute_s * 1e3)
        self._encode.observe(encode_s * 1e3)

    def failed(self, outcome: str) -> None:
        """Record a failed request: ``rejected`` (4xx), ``failed`` (5xx) or ``cancelled``."""
        self._requests.inc(tags={"outcome": outcome})


class StageMetrics:
    """Metrics of the shards of a replica, by stage and tensor rank.

    ``doing``: ``compute``; ``transfer`` of tensors; ``wait``, idle. ``bubble`` is the part of
    ``wait`` while a micro-batch was in earlier stages. The stage that computes most and waits least
    is the bottleneck.
    """

    def __init__(self, model: str, layout: Layout) -> None:
        tags = ("model", "stage", "tp_rank")
        self._seconds = metrics.Counter(
            "headrace_stage_seconds", "Seconds of a shard, by activity.", (*tags, "doing")
        )
        self._batches = metrics.Counter(
            "headrace_stage_micro_batches", "Micro-batches computed by a shard.", tags
        )
        self._tags = [
            {"model": model, "stage": str(shard.stage), "tp_rank": str(shard.tp_rank)}
            for shard in layout.shards
        ]
        self._last = [ShardCounters()] * len(layout.shards)

    def report(self, counters: Sequence[ShardCounters]) -> None:
        """Record the counters of every shard since its start, in the layout's order."""
        for tags, last, now in zip(self._tags, self._last, counters, strict=True):
            for doing in ("compute", "wait", "bubble", "transfer"):
                more = getattr(now, f"{doing}_s") - getattr(last, f"{doing}_s")
                if more > 0:
                    self._seconds.inc(more, {**tags, "doing": doing})
            if now.micro_batches > last.micro_batches:
                self._batches.inc(now.micro_batches - last.micro_batches, tags)
        self._last = list(counters)
