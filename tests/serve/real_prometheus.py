"""A real Prometheus that scrapes a local cluster as the operator would have it scrape a pod.

PodMonitor ─┐  selector, port names, paths, podTargetLabels, metricRelabelings: the PodMonitor's
            ├→ scrape config → prometheus → /api/v1
local ports ┘  addresses and the interval: this machine's, which has no pods to discover

The operator turns a PodMonitor into relabelings over what Kubernetes says of pods
(``__meta_kubernetes_…``). The same relabelings are written here, and the local cluster's ports
are listed with the labels that its head's pod would have: a selector, a port name or a label that
is wrong in the PodMonitor leaves Prometheus without a target.
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
"""Of scraping and of the rules, instead of the 15 s of a real cluster."""

_STOP_S = 10

Labels = dict[str, str]


@dataclass(frozen=True)
class Pod:
    """What Kubernetes would tell of a pod: its labels, and port name → ``HOST:PORT``."""

    name: str
    labels: Labels
    ports: dict[str, str]


def scrape_configs(monitor: dict[str, Any], pods: Iterable[Pod]) -> list[dict[str, Any]]:
    """The scrape config of each endpoint of a PodMonitor, as the operator writes them."""
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
                    _copy(f"__meta_kubernetes_pod_label_{_label(each)}", _label(each))
                    for each in spec.get("podTargetLabels", [])
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
    for each in selector.get("matchExpressions", []):
        label = f"__meta_kubernetes_pod_label_{_label(each['key'])}"
        if each["operator"] == "Exists":
            yield _keep(label.replace("_pod_label_", "_pod_labelpresent_"), "true")
        else:
            assert each["operator"] == "In", each
            yield _keep(label, "|".join(map(re.escape, each["values"])))


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
    """A running Prometheus and the process that it is."""

    url: str
    process: subprocess.Popen[bytes]
    folder: Path

    def get(self, path: str, **parameters: str) -> Any:
        """``data`` of an answer of its API; AssertionError with its reason if it refuses."""
        url = f"{self.url}/api/v1/{path}?{urllib.parse.urlencode(parameters)}"
        try:
            with urllib.request.urlopen(url, timeout=20) as answer:
                return json.load(answer)["data"]
        except urllib.error.HTTPError as error:
            raise AssertionError(f"{parameters}: {error.read().decode()}") from error

    def values(self, expr: str) -> list[float]:
        """The numbers that an expression gives now."""
        data = self.get("query", query=expr)
        if data["resultType"] == "scalar":
            return [float(data["result"][1])]
        return [float(each["value"][1]) for each in data["result"]]

    def answers(self, expr: str) -> bool:
        """Whether an expression gives at least one number: 0 / 0 is none."""
        return any(map(math.isfinite, self.values(expr)))

    def without_data(self, queries: Iterable[Query], within_s: float) -> list[Query]:
        """The queries that give nothing within that time."""
        deadline = time.monotonic() + within_s
        left = list(queries)
        assert left
        while True:
            left = [each for each in left if not self.answers(each.expr)]
            if not left or time.monotonic() > deadline:
                return left
            time.sleep(1)


@contextlib.contextmanager
def prometheus(pods: Iterable[Pod]) -> Iterator[Prometheus]:
    """Prometheus with all of k8s/monitoring, ended with its data whatever happens."""
    with tempfile.TemporaryDirectory(prefix="prometheus-") as name:
        folder = Path(name)
        config = {
            "global": {"evaluation_interval": INTERVAL},
            "rule_files": [str(path) for path in rule_files(folder)],
            "scrape_configs": [
                each for one in objects("PodMonitor") for each in scrape_configs(one, pods)
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
