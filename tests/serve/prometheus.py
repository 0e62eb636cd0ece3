"""What Ray's Prometheus endpoint tells of one model, read as Prometheus reads it."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable, Iterator

from http_client import ask

EXPORTED_WITHIN_S = 30  # Ray sends measurements on every 10 s, twice on the way
_SERIES = re.compile(r"^(ray_headrace_\w+)\{(.*)\} (\S+)$")
_TAG = re.compile(r'(\w+)="([^"]*)"')

Metrics = dict[tuple[str, str], float]


def read_metrics(served, model: str = "tiny") -> Metrics:
    """(series, its ``outcome`` or ``le`` tag) → value, from where Prometheus is told to look."""
    return {
        (series, tags.get("outcome") or tags.get("le", "")): value
        for series, tags, value in _lines(served)
        if tags.get("model") == model
    }


def labelled(
    served, of: dict[str, str], series: str, names: tuple[str, ...]
) -> dict[tuple[str, ...], float]:
    """The values of one series of a model or route by its other tags, as soon as there are any."""
    deadline = time.monotonic() + EXPORTED_WITHIN_S
    while True:
        found = {
            tuple(tags[name] for name in names): value
            for name_of, tags, value in _lines(served)
            if name_of == series and of.items() <= tags.items()
        }
        if found:
            return found
        assert time.monotonic() < deadline, f"no {series}"
        time.sleep(0.5)


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
    deadline = time.monotonic() + EXPORTED_WITHIN_S
    while not ready(metrics := read_metrics(served)):
        assert time.monotonic() < deadline, metrics
        time.sleep(0.5)
    return metrics


def requests(metrics: Metrics, outcome: str) -> float:
    return metrics.get(("ray_headrace_requests_total", outcome), 0.0)
