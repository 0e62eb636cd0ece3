"""Real Prometheus that scrapes a local cluster like a pod behind a PodMonitor.

PodMonitor ─┐  selector, port names, paths, podTargetLabels, metricRelabelings: the PodMonitor's
            ├→ scrape config → prometheus → /api/v1
local ports ┘  addresses and the interval: this machine's, which has no pods to discover

The operator turns a PodMonitor into relabelings over the metadata of pods
(``__meta_kubernetes_…``). The same relabelings are written here, and the local cluster's ports
are listed with the labels of a head's pod: a wrong selector, port name or label in the PodMonitor
leaves Prometheus without a target.
"""

from __future__ import annotations

import contextlib
import json
import math
import re
import subprocess
import tempfile
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml
from support.monitoring_files import Query, objects, rule_files
from support.wait import until

from deployments.local import ports

INTERVAL = "2s"
"""Interval of scraping and of the rules, instead of the 15 s of a real cluster."""

_STOP_S = 10

Labels = dict[str, str]


@dataclass(frozen=True)
class Pod:
    """Metadata of a pod: its labels, and port name → ``HOST:PORT``."""

    name: str
    labels: Labels
    ports: dict[str, str]


def scrape_configs(monitor: dict[str, Any], pods: Iterable[Pod]) -> list[dict[str, Any]]:
    """Return the scrape config of each endpoint of a PodMonitor, as the operator writes it."""
    namespace, name = "headrace", monitor["metadata"]["name"]
    discovered = [
        {
            "targets": [address],
            "labels": {
                "__meta_kubernetes_namespace": namespace,
                "__meta_kubernetes_pod_name": pod.name,
                "__meta_kubernetes_pod_container_port_name": port,
                **{f"__meta_kubernetes_pod_label_{_label(k)}": v for k, v in pod.labels.items()},
                **{f"__meta_kubernetes_pod_labelpresent_{_label(k)}": "true" for k in pod.labels},
            },
        }
        for pod in pods
        for port, address in pod.ports.items()
    ]
    spec = monitor["spec"]
    return [
        {
            "job_name": f"podMonitor/{namespace}/{name}/{index}",
            "metrics_path": endpoint["path"],
            "scrape_interval": INTERVAL,
            "scrape_timeout": INTERVAL,
            "static_configs": discovered,
            "relabel_configs": [
                *_selected(spec["selector"]),
                _keep("__meta_kubernetes_pod_container_port_name", endpoint["port"]),
                _copy("__meta_kubernetes_namespace", "namespace"),
                _copy("__meta_kubernetes_pod_name", "pod"),
                *(
                    _copy(f"__meta_kubernetes_pod_label_{_label(key)}", _label(key))
                    for key in spec.get("podTargetLabels", [])
                ),
                {"target_label": "job", "replacement": f"{namespace}/{name}"},
                {"target_label": "endpoint", "replacement": endpoint["port"]},
                *map(_snake, endpoint.get("relabelings", [])),
            ],
            "metric_relabel_configs": [*map(_snake, endpoint.get("metricRelabelings", []))],
        }
        for index, endpoint in enumerate(spec["podMetricsEndpoints"])
    ]


def _selected(selector: dict[str, Any]) -> Iterator[dict[str, Any]]:
    for key, value in selector.get("matchLabels", {}).items():
        yield _keep(f"__meta_kubernetes_pod_label_{_label(key)}", re.escape(value))
    for rule in selector.get("matchExpressions", []):
        label = f"__meta_kubernetes_pod_label_{_label(rule['key'])}"
        if rule["operator"] == "Exists":
            yield _keep(label.replace("_pod_label_", "_pod_labelpresent_"), "true")
        else:
            assert rule["operator"] == "In", rule
            yield _keep(label, "|".join(map(re.escape, rule["values"])))


def _label(key: str) -> str:
    return re.sub(r"\W", "_", key)


def _keep(source: str, regex: str) -> dict[str, Any]:
    return {"action": "keep", "source_labels": [source], "regex": regex}


def _copy(source: str, target: str) -> dict[str, Any]:
    return {"source_labels": [source], "target_label": target}


def _snake(relabeling: dict[str, Any]) -> dict[str, Any]:
    return {re.sub(r"([A-Z])", r"_\1", k).lower(): v for k, v in relabeling.items()}


@dataclass(frozen=True)
class Prometheus:
    """Running Prometheus with its process."""

    url: str
    process: subprocess.Popen[bytes]
    folder: Path

    def get(self, path: str, **parameters: str) -> Any:
        """Return ``data`` of an answer of its API; AssertionError with its reason if it refuses."""
        url = f"{self.url}/api/v1/{path}?{urllib.parse.urlencode(parameters)}"
        try:
            with urllib.request.urlopen(url, timeout=20) as answer:
                return json.load(answer)["data"]
        except urllib.error.HTTPError as error:
            raise AssertionError(f"{parameters}: {error.read().decode()}") from error

    def values(self, expr: str) -> list[float]:
        """Return the present values of an expression."""
        data = self.get("query", query=expr)
        if data["resultType"] == "scalar":
            return [float(data["result"][1])]
        return [float(sample["value"][1]) for sample in data["result"]]

    def answers(self, expr: str) -> bool:
        """Return whether an expression gives at least one finite number; 0 / 0 is not one."""
        return any(map(math.isfinite, self.values(expr)))

    def without_data(self, queries: Iterable[Query], within_s: float) -> list[Query]:
        """Return the queries without data after ``within_s``."""
        deadline = time.monotonic() + within_s
        pending = list(queries)
        assert pending
        while True:
            pending = [query for query in pending if not self.answers(query.expr)]
            if not pending or time.monotonic() > deadline:
                return pending
            time.sleep(1)


@contextlib.contextmanager
def prometheus(pods: Iterable[Pod]) -> Iterator[Prometheus]:
    """Start Prometheus with all of k8s/monitoring; stop it and delete its data at the end."""
    with tempfile.TemporaryDirectory(prefix="prometheus-") as name:
        folder = Path(name)
        config = {
            "global": {"evaluation_interval": INTERVAL},
            "rule_files": [str(path) for path in rule_files(folder)],
            "scrape_configs": [
                scrape
                for monitor in objects("PodMonitor")
                for scrape in scrape_configs(monitor, pods)
            ],
        }
        (folder / "prometheus.yml").write_text(yaml.safe_dump(config, sort_keys=False))
        (port,) = ports.free_ports(1)
        command = ["prometheus", f"--config.file={folder}/prometheus.yml"]
        command += [f"--storage.tsdb.path={folder}/data", f"--web.listen-address=127.0.0.1:{port}"]
        command += ["--log.level=warn"]
        with (folder / "log").open("wb") as log:
            process = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT)
        try:
            url = f"http://127.0.0.1:{port}"
            _wait(url, process, folder / "log")
            yield Prometheus(url, process, folder)
        finally:
            process.terminate()
            try:
                process.wait(_STOP_S)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def _wait(url: str, process: subprocess.Popen[bytes], log: Path) -> None:
    def ready() -> bool:
        if process.poll() is not None:
            pytest.fail(f"Prometheus has ended:\n{log.read_text()}")
        with urllib.request.urlopen(f"{url}/-/ready", timeout=5):
            return True

    until(ready, log.read_text, passing=(OSError,))
