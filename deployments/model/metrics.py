"""The Prometheus metrics of a model, exported by Ray on every node's metrics port."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from ray.util import metrics

from cluster.artifact.layout import Layout
from cluster.runtime.batcher import Answer
from cluster.runtime.shard import ShardFigures
from deployments.ray.histograms import MS_BOUNDS

_SIZES = [1.0, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024]


class ModelMetrics:
    """What one replica measures; every series carries the model's name."""

    def __init__(self, model: str) -> None:
        def histogram(name: str, description: str, bounds: list[float]) -> metrics.Histogram:
            series = metrics.Histogram(name, description, bounds, tag_keys=("model",))
            series.set_default_tags({"model": model})
            return series

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
        # Ray makes a histogram's sum of the middles of its buckets: no mean comes of it.
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
        """The model took this long to load."""
        self._load.set(seconds)

    def answered(self, answer: Answer, preprocess_s: float, encode_s: float) -> None:
        """A request was answered; times in seconds.

        Recorded after the answer has been sent: the caller's next step does that, and these seven
        series would hold it up for longer than encoding it took.
        """
        loop = asyncio.get_running_loop()
        loop.call_soon(self._record, answer, preprocess_s, encode_s)

    def _record(self, answer: Answer, preprocess_s: float, encode_s: float) -> None:
        self._requests.inc(tags={"outcome": "ok"})
        self._queue.observe(answer.queue_s * 1e3)
        self._preprocess.observe(preprocess_s * 1e3)
        if answer.first:  # these two are of the batch, which counts once
            self._batch.observe(answer.batch_size)
            self._items.inc(answer.batch_size)
            self._compute.observe(answer.compute_s * 1e3)
        self._encode.observe(encode_s * 1e3)

    def failed(self, outcome: str) -> None:
        """A request was not answered: ``rejected`` (4xx), ``failed`` (5xx) or ``cancelled``."""
        self._requests.inc(tags={"outcome": outcome})


class StageMetrics:
    """Where the time of a sharded replica goes, by stage and tensor rank.

    ``doing``: ``compute``; ``transfer``, bringing tensors in and out; ``wait``, having nothing to
    do, of which ``bubble`` is the part while a micro-batch was on its way from earlier stages. The
    stage that computes most and waits least is the bottleneck.
    """

    def __init__(self, model: str, layout: Layout) -> None:
        tags = ("model", "stage", "tp_rank")
        self._seconds = metrics.Counter(
            "headrace_stage_seconds", "Seconds of a shard, by what it did.", (*tags, "doing")
        )
        self._batches = metrics.Counter(
            "headrace_stage_micro_batches", "Micro-batches that a shard has computed.", tags
        )
        self._tags = [
            {"model": model, "stage": str(shard.stage), "tp_rank": str(shard.tp_rank)}
            for shard in layout.shards
        ]
        self._last = [ShardFigures()] * len(layout.shards)

    def report(self, figures: Sequence[ShardFigures]) -> None:
        """What every shard has done since it started, in the layout's order."""
        for tags, last, now in zip(self._tags, self._last, figures, strict=True):
            for doing in ("compute", "wait", "bubble", "transfer"):
                more = getattr(now, f"{doing}_s") - getattr(last, f"{doing}_s")
                if more > 0:
                    self._seconds.inc(more, {**tags, "doing": doing})
            if now.micro_batches > last.micro_batches:
                self._batches.inc(now.micro_batches - last.micro_batches, tags)
        self._last = list(figures)
