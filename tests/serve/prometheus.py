"""Metrics of one model, read from Ray's Prometheus endpoint."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator

from support.http_client import ask
from support.wait import until

_SERIES = re.compile(r"^(ray_headrace_\w+)\{(.*)\} (\S+)$")
_TAG = re.compile(r'(\w+)="([^"]*)"')

Metrics = dict[tuple[str, str], float]


def read_metrics(served, model: str = "tiny") -> Metrics:
    """Return (series, its ``outcome`` or ``le`` tag) → value, from the targets of Prometheus."""
    return {
        (series, tags.get("outcome") or tags.get("le", "")): value
        for series, tags, value in _lines(served)
        if tags.get("model") == model
    }


def labelled(
    served, of: dict[str, str], series: str, names: tuple[str, ...]
) -> dict[tuple[str, ...], float]:
    """Return the values of one series of a model or route by its other tags, once it exists."""

    def values() -> dict[tuple[str, ...], float]:
        return {
            tuple(tags[name] for name in names): value
            for name_of, tags, value in _lines(served)
            if name_of == series and of.items() <= tags.items()
        }

    return until(values, f"no {series}", poll_s=0.5)


def _lines(served) -> Iterator[tuple[str, dict[str, str], float]]:
    targets = json.loads(
        (served.cluster.record.ray_dir / "prom_metrics_service_discovery.json").read_text()
    )
    for target in targets[0]["targets"]:
        for line in ask(f"http://{target}/metrics").body.decode().splitlines():
            match = _SERIES.match(line)
            if match is None:
                continue
            yield match[1], dict(_TAG.findall(match[2])), float(match[3])


def wait_for(served, ready: Callable[[Metrics], bool]) -> Metrics:
    """Return the metrics of ``tiny`` once they are ``ready``.

    Ray exports them every 10 s, in two hops.
    """

    def exported() -> Metrics | None:
        metrics = read_metrics(served)
        return metrics if ready(metrics) else None

    return until(exported, lambda: read_metrics(served), poll_s=0.5)


def requests(metrics: Metrics, outcome: str) -> float:
    return metrics.get(("ray_headrace_requests_total", outcome), 0.0)
