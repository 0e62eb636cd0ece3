"""What Ray's Prometheus endpoint tells of one model, read as Prometheus reads it."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable

from http_client import ask

_EXPORTED_WITHIN_S = 30  # Ray sends measurements on every 10 s, twice on the way
_SERIES = re.compile(r"^(ray_headrace_\w+)\{(.*)\} (\S+)$")
_TAG = re.compile(r'(\w+)="([^"]*)"')

Metrics = dict[tuple[str, str], float]


def read_metrics(served, model: str = "tiny") -> Metrics:
    """(series, its ``outcome`` or ``le`` tag) → value, from where Prometheus is told to look."""
    found: Metrics = {}
    targets = json.loads(
        (served.cluster.record.ray_dir / "prom_metrics_service_discovery.json").read_text()
    )
    for target in targets[0]["targets"]:
        for line in ask(f"http://{target}/metrics").body.decode().splitlines():
            match = _SERIES.match(line)
            if match is None:
                continue
            tags = dict(_TAG.findall(match[2]))
            if tags["model"] == model:
                found[match[1], tags.get("outcome") or tags.get("le", "")] = float(match[3])
    return found


def wait_for(served, ready: Callable[[Metrics], bool]) -> Metrics:
    deadline = time.monotonic() + _EXPORTED_WITHIN_S
    while not ready(metrics := read_metrics(served)):
        assert time.monotonic() < deadline, metrics
        time.sleep(0.5)
    return metrics


def requests(metrics: Metrics, outcome: str) -> float:
    return metrics.get(("ray_headrace_requests_total", outcome), 0.0)
