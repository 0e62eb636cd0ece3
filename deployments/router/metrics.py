"""The Prometheus metrics of a route."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence

from ray.util import metrics

from cluster.routing.shadow import Compared
from deployments.ray.histograms import MS_BOUNDS
from deployments.router.call import Report

logger = logging.getLogger("ray.serve")

_DRIFTS = [0.001, 0.003, 0.01, 0.03, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.8, 1.0]


class RouteMetrics:
    """What one router measures of one route; every series carries the route's name."""

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

        self._name = route
        self._requests = counter("headrace_route_requests", "Requests, by outcome.", "outcome")
        self._whole = histogram("headrace_route_ms", "Request to answer, ms.", MS_BOUNDS)
        self._branches = histogram(
            "headrace_branch_ms", "One target of a request, ms.", MS_BOUNDS, "branch", "outcome"
        )
        self._cache = counter("headrace_route_cache", "Kept answers: hit or miss.", "found")
        self._cache_bytes = metrics.Gauge(
            "headrace_route_cache_bytes", "Bytes of the answers kept.", ("route",)
        )
        self._cache_bytes.set_default_tags({"route": route})
        self._hedges = counter("headrace_route_hedges", "Second requests of a hedge.")
        self._items = counter(
            "headrace_cascade_items", "Items of a cascade, by who answered for good.", "target"
        )
        self._compared = counter(
            "headrace_compared_items", "Items of two versions compared.", "agree"
        )
        self._drift = histogram(
            "headrace_compared_drift", "Mean total variation of a request's items.", _DRIFTS
        )
        self._slower = histogram(
            "headrace_compared_ms", "Latency of either version, ms.", MS_BOUNDS, "version"
        )
        self._verdicts = counter("headrace_canary_returns", "Returns to the old version.")

    def answered(self, outcome: str, whole_s: float, reports: Sequence[Report]) -> None:
        """A request ended: ``ok``, ``partial``, ``cached``, ``rejected``, ``failed`` or ``late``.

        Recorded after the answer has been sent.
        """
        asyncio.get_running_loop().call_soon(self._record, outcome, whole_s, reports)

    def _record(self, outcome: str, whole_s: float, reports: Sequence[Report]) -> None:
        self._requests.inc(tags={"outcome": outcome})
        self._whole.observe(whole_s * 1e3)
        for report in reports:
            tags = {"branch": report.name, "outcome": report.ended.value}
            self._branches.observe(report.ms, tags)

    def failed(self, outcome: str) -> None:
        """A request ended before it reached the route's targets."""
        self._requests.inc(tags={"outcome": outcome})

    def cache(self, hit: bool, kept_bytes: int) -> None:
        """An answer was looked for among those kept."""
        self._cache.inc(tags={"found": "hit" if hit else "miss"})
        self._cache_bytes.set(kept_bytes)

    def hedged(self) -> None:
        """A second request was made."""
        self._hedges.inc()

    def answered_by(self, target: str, items: int) -> None:
        """A target of a cascade has answered so many items for good."""
        if items:
            self._items.inc(items, {"target": target})

    def compared(self, found: Compared, live_s: float, other_s: float) -> None:
        """Two versions have answered the same request."""
        if found.agreeing:
            self._compared.inc(found.agreeing, {"agree": "yes"})
        if found.items > found.agreeing:
            self._compared.inc(found.items - found.agreeing, {"agree": "no"})
        self._drift.observe(found.drift / found.items)
        self._slower.observe(live_s * 1e3, {"version": "live"})
        self._slower.observe(other_s * 1e3, {"version": "shadow"})

    def returned(self, why: str) -> None:
        """A canary has returned to the old version."""
        self._verdicts.inc()
        logger.error("route %s: back to the old version: %s", self._name, why)
