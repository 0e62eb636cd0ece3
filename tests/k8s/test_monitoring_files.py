"""k8s/monitoring built by kustomize, and the plain Prometheus setup of the manual."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import promtool
import pytest
import yaml
from support.monitoring_files import MONITORING, OURS, ROOT, dashboard, objects, rules

from deployments.kubernetes import overlay

OPERATOR = "monitoring.coreos.com/v1"
(JOBS,) = re.findall(r'"(.+)"', OURS)
AGENT, AUTOSCALER, DASHBOARD = "metrics", "as-metrics", "dash-metrics"


def test_monitor_has_the_name_that_rules_select() -> None:
    (monitor,) = objects("PodMonitor")
    assert re.fullmatch(JOBS, f"models/{monitor['metadata']['name']}")


def test_port_names_are_valid_in_kubernetes() -> None:
    (monitor,) = objects("PodMonitor")
    ports = [endpoint["port"] for endpoint in monitor["spec"]["podMetricsEndpoints"]]
    assert ports == [AGENT, AUTOSCALER, DASHBOARD]
    for port in ports:
        assert re.fullmatch(r"[a-z0-9](?:[a-z0-9-]{0,13}[a-z0-9])", port)


def test_every_pod_has_the_scraped_ports(overlays: dict[str, list[Any]]) -> None:
    checked = set()
    for name, rendered in overlays.items():
        for cluster in _clusters(rendered):
            checked.add(name)
            head = _ports(cluster["headGroupSpec"])
            assert {AGENT, DASHBOARD} <= head, name
            # The autoscaler runs beside the head, and answers at a port of the pod.
            assert (AUTOSCALER in head) == cluster.get("enableInTreeAutoscaling", False), name
            for group in cluster["workerGroupSpecs"]:
                assert AGENT in _ports(group), f"{name}: {group['groupName']}"
    assert checked == overlays.keys()


def _clusters(rendered: list[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    fields = {"RayService": "rayClusterConfig", "RayJob": "rayClusterSpec"}
    for obj in rendered:
        if obj["kind"] in fields:
            yield obj["spec"][fields[obj["kind"]]]


def _ports(group: dict[str, Any]) -> set[str]:
    containers = group["template"]["spec"]["containers"]
    return {port["name"] for container in containers for port in container.get("ports", [])}


# ------------------------------------------------------------------ with kustomize


def test_kustomize_builds_rules_monitor_and_dashboard(kustomize: None) -> None:
    rendered = overlay.build(MONITORING)
    assert {obj["metadata"]["namespace"] for obj in rendered} == {"headrace"}
    assert Counter((obj["apiVersion"], obj["kind"]) for obj in rendered) == {
        ("v1", "ConfigMap"): 1,
        (OPERATOR, "PodMonitor"): 1,
        (OPERATOR, "PrometheusRule"): 2,
    }
    (config,) = [obj for obj in rendered if obj["kind"] == "ConfigMap"]
    assert config["metadata"]["name"] == "headrace-dashboard"
    assert config["metadata"]["labels"] == {"grafana_dashboard": "1"}
    assert json.loads(config["data"]["headrace.json"]) == dashboard()

    (links,) = objects("ConfigMap")
    base = links["data"]["runbooks"]
    for obj in rendered:
        for group in obj["spec"]["groups"] if obj["kind"] == "PrometheusRule" else ():
            for rule in group["rules"]:
                if "alert" in rule:
                    written = rules("alert")[rule["alert"]]["annotations"]["runbook_url"]
                    link = rule["annotations"]["runbook_url"]
                    assert link == f"{base}#{written.partition('#')[2]}"


def test_overlay_of_the_readme_builds(kustomize: None, tmp_path: Path) -> None:
    text = (ROOT / "k8s" / "README.md").read_text()
    (shown,) = re.findall(r"^```yaml\n# kustomization\.yaml\n(.*?)^```", text, re.M | re.S)
    (tmp_path / "monitoring").symlink_to(MONITORING)
    folder = tmp_path / "overlay"
    folder.mkdir()
    (folder / "kustomization.yaml").write_text(shown.replace("k8s/monitoring", "../monitoring"))
    rendered = overlay.build(folder)
    for obj in rendered:
        assert obj["metadata"]["labels"]["release"] == "kube-prometheus-stack"
    (monitor,) = [obj for obj in rendered if obj["kind"] == "PodMonitor"]
    assert monitor["spec"]["namespaceSelector"] == {"matchNames": ["team-a", "team-b"]}


# ------------------------------------------------------------------ without Kubernetes


@pytest.fixture(scope="module")
def manual() -> str:
    return (ROOT / "docs" / "operations.md").read_text()


@pytest.fixture(scope="module")
def config(manual: str) -> str:
    """Text of the manual's prometheus.yml."""
    block = r"^```yaml\n# /etc/prometheus/prometheus\.yml\n(.*?)^```"
    (shown,) = re.findall(block, manual, re.M | re.S)
    return shown


def test_manual_prometheus_sets_the_labels_of_the_rules(config: str) -> None:
    (scrape,) = yaml.safe_load(config)["scrape_configs"]
    assert re.fullmatch(JOBS, scrape["job_name"])
    (monitor,) = objects("PodMonitor")
    (agent, _, _) = monitor["spec"]["podMetricsEndpoints"]
    assert scrape["metric_relabel_configs"] == agent["metricRelabelings"][:1]
    endpoints = {"8080": AGENT, "44227": DASHBOARD}
    for group in scrape["static_configs"]:
        (target,) = group["targets"]
        host, _, port = target.partition(":")
        assert group["labels"].keys() == {"ray_io_cluster", "pod", "endpoint"}
        assert (group["labels"]["pod"], group["labels"]["endpoint"]) == (host, endpoints[port])


@promtool.needed
def test_prometheus_accepts_the_setup_of_the_manual(
    manual: str, config: str, tmp_path: Path
) -> None:
    (tmp_path / "prometheus.yml").write_text(config.replace("/etc/prometheus", str(tmp_path)))
    (commands,) = re.findall(r"^```sh\n(for each in recording .*?)^```", manual, re.M | re.S)
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    ended = subprocess.run(
        ["bash", "-ec", commands.replace("/etc/prometheus", str(tmp_path))],
        cwd=ROOT,
        env={**os.environ, "PATH": path},
        capture_output=True,
        text=True,
        check=False,
    )
    assert ended.returncode == 0, ended.stdout + ended.stderr
    for kind in ("alert", "record"):
        assert f"{len(rules(kind))} rules found" in ended.stdout
