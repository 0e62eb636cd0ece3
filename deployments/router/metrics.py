"""Prometheus metrics of a route."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence

from ray.util import metrics

from cluster.protocol.statistics import Statistics
from cluster.routing.shadow import Comparison
from deployments.ray.histograms import MS_BOUNDS
from deployments.router.call import Report

logger = logging.getLogger("ray.serve")

_DRIFTS = [0.001, 0.003, 0.01, 0.03, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.8, 1.0]


class RouteMetrics:
    """Metrics of one route in one router; every series has the route's name as a label."""

    def __init__(self, route: str) -> None:
        def counter(name: str, description: str, *tags: str) -> metrics.Counter:
            series = metrics.Counter(name, description, ("route", *tags))
            series.set_default_tags({"route": route})
            return series

        def histogram(
            name: str, description: str, bounds: list[float], *tags: str
        ) -> metrics.Histogram:
            series = metrics.Histogram(name, description, bounds, ("route", *tags))
            series.set_default_tags({"route": route})
            return series

        self.statistics = Statistics()
        """The same counts, for clients."""

        self._name = route
        self._requests = counter("headrace_route_requests", "Requests, by outcome.", "outcome")
        self._whole = histogram("headrace_route_ms", "Request to answer, ms.", MS_BOUNDS)
        self._branches = histogram(
            "headrace_branch_ms", "One target of a request, ms.", MS_BOUNDS, "branch", "outcome"
        )
        self._cache = counter(
            "headrace_route_cache", "Lookups in the answer cache: hit or miss.", "found"
        )
        self._cache_bytes = metrics.Gauge(
            "headrace_route_cache_bytes", "Size of the answer cache, bytes.", ("route",)
        )
        self._cache_bytes.set_default_tags({"route": route})
        self._hedges = counter("headrace_route_hedges", "Second requests of a hedge.")
        self._items = counter(
            "headrace_cascade_items", "Items of a cascade, by the target of the answer.", "target"
        )
        self._compared = counter(
            "headrace_compared_items", "Items that two versions answered, by agreement.", "agree"
        )
        self._drift = histogram(
            "headrace_compared_drift", "Mean total variation of a request's items.", _DRIFTS
        )
        self._latencies = histogram(
            "headrace_compared_ms", "Latency of either version, ms.", MS_BOUNDS, "version"
        )
        self._rollbacks = counter("headrace_canary_returns", "Returns to the old version.")

    def answered(self, outcome: str, whole_s: float, reports: Sequence[Report]) -> None:
        """Record a request with its outcome, its latency and the reports of its targets.

        Outcomes: ``ok``, ``partial``, ``cached``, ``rejected``, ``failed``, ``late``. The metrics
        are written after the answer has been sent.
        """
        asyncio.get_running_loop().call_soon(self._record, outcome, whole_s, reports)

    def _record(self, outcome: str, whole_s: float, reports: Sequence[Report]) -> None:
        self._requests.inc(tags={"outcome": outcome})
        self._whole.observe(whole_s * 1e3)
        for report in reports:
            tags = {"branch": report.name, "outcome": report.outcome.value}
            self._branches.observe(report.ms, tags)

    def failed(self, outcome: str) -> None:
        """Record a request that ended before it reached the route's targets."""
        self._requests.inc(tags={"outcome": outcome})

    def cache(self, hit: bool, cache_bytes: int) -> None:
        """Record a lookup in the answer cache, and the size of the cache."""
        self._cache.inc(tags={"found": "hit" if hit else "miss"})
        self._cache_bytes.set(cache_bytes)

    def hedged(self) -> None:
        """Record a second request of a hedge."""
        self._hedges.inc()

    def answered_by(self, target: str, items: int) -> None:
        """Record the items of a cascade whose answer is this target's."""
        if items:
            self._items.inc(items, {"target": target})

    def compared(self, comparison: Comparison, live_s: float, other_s: float) -> None:
        """Record a request that two versions answered, and both latencies in seconds."""
        if comparison.agreeing:
            self._compared.inc(comparison.agreeing, {"agree": "yes"})
        if comparison.items > comparison.agreeing:
            self._compared.inc(comparison.items - comparison.agreeing, {"agree": "no"})
        self._drift.observe(comparison.drift / comparison.items)
        self._latencies.observe(live_s * 1e3, {"version": "live"})
        self._latencies.observe(other_s * 1e3, {"version": "shadow"})

    def rolled_back(self, reason: str) -> None:
        """Record that a canary has returned to the old version."""
        self._rollbacks.inc()
        logger.error("route %s: back to the old version: %s", self._name, reason)
