"""Real Prometheus beside the cluster: queries of dashboard, alerts and runbooks return data.

Steady traffic calls all models and routes, with repeated inputs for the cache, so that every
outcome occurs: a rate needs a series that changes, or at least two samples.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.client import HTTPException
from pathlib import Path

import pytest
from autoscaler_metrics import autoscaler_metrics
from real_prometheus import Pod, Prometheus, prometheus
from served_routes import routes
from support.http_client import ask
from support.monitoring_files import (
    ROOT,
    Query,
    blocks,
    filled_in,
    panel_queries,
    rings_by_absence,
    rules,
    selectors,
    variables,
    without_comparisons,
)
from support.wait import until

pytestmark = pytest.mark.skipif(
    shutil.which("prometheus") is None,
    reason="no prometheus: install it (Debian, Ubuntu: apt-get install prometheus)",
)

RATE_INTERVAL = "1m"  # what Grafana makes of a scrape interval of 15 s: four of them
HEAD = {"ray.io/cluster": "here", "ray.io/node-type": "head"}
PAUSE_S = 0.5

WITHIN_S = 120
"""Ray exports every 10 s, and a rate needs two exports: 20 s on an idle machine."""


@pytest.fixture(scope="module")
def traffic(served) -> Iterator[None]:
    """Send requests to all models and routes until the tests of this file are done."""
    reserved = "doomed"  # its first requests belong to another test
    names = ["tiny", "tight", "cut", *(route["name"] for route in routes(served.threshold))]
    names.remove(reserved)
    ended = threading.Event()

    def send() -> None:
        rounds = 0
        while not ended.wait(PAUSE_S):
            rounds += 1
            for name in names:
                # Every second round repeats an input: `kept` has that answer in its cache.
                body = served.binary(served.random_input(4, seed=rounds // 2))
                with contextlib.suppress(OSError, HTTPException):
                    ask(f"{served.url}/models/{name}/infer", *body)

    thread = threading.Thread(target=send, name="traffic")
    thread.start()
    yield
    ended.set()
    thread.join()


@pytest.fixture(scope="module")
def watched(served, traffic: None) -> Iterator[Prometheus]:
    """Prometheus that scrapes the cluster as the head's pod."""
    with autoscaler_metrics() as autoscaler:
        pod = Pod("head", HEAD, {**_ports(served), "as-metrics": autoscaler})
        with prometheus([pod]) as running:
            yield running


def _ports(served) -> dict[str, str]:
    """Return the cluster's ports by their names in a pod."""
    ray_dir = served.cluster.record.ray_dir
    listed = json.loads((ray_dir / "prom_metrics_service_discovery.json").read_text())
    addresses = [address for group in listed for address in group["targets"]]
    (dashboard,) = [address for address in addresses if _exports(address, "ray_dashboard_")]
    (agent,) = [address for address in addresses if address != dashboard]
    return {"metrics": agent, "dash-metrics": dashboard}


def _exports(address: str, text: str) -> bool:
    return text in ask(f"http://{address}/metrics").body.decode()


def test_pod_monitor_selects_every_port_of_the_pod(watched: Prometheus) -> None:
    assert not watched.without_data([Query("up", "sum(up) == 3")], WITHIN_S)
    targets = watched.get("targets")["activeTargets"]
    endpoints = {target["labels"]["endpoint"] for target in targets}
    assert endpoints == {"metrics", "as-metrics", "dash-metrics"}
    for target in targets:
        assert target["health"] == "up", target["lastError"]
        labels = target["labels"]
        assert (labels["ray_io_cluster"], labels["ray_io_node_type"]) == ("here", "head")


def test_pod_of_no_ray_cluster_is_ignored(served) -> None:
    pod = Pod("other", {"app": "other"}, _ports(served))
    with prometheus([pod]) as alone:
        assert alone.get("targets")["activeTargets"] == []


def test_every_query_of_the_dashboard_returns_data(watched: Prometheus) -> None:
    values: dict[str, list[str]] = {}
    for name, query in variables().items():
        match = re.fullmatch(r"label_values\((.+), (\w+)\)", query)
        assert match is not None, query
        series = filled_in(match[1], values, RATE_INTERVAL)
        assert not watched.without_data([Query(name, series)], WITHIN_S)
        values[name] = watched.get(f"label/{match[2]}/values", **{"match[]": series})
    assert values["model"] == ["cut", "tight", "tiny"]
    missing = watched.without_data(panel_queries(values, RATE_INTERVAL), WITHIN_S)
    assert not missing
    # The series that the PodMonitor drops are absent.
    assert not watched.values('count({__name__=~"ray_grpc_server_.+"})')
    assert not watched.values('count({otel_scope_name!=""} or {SessionName!=""})')
    # The same with one model and one route selected: their names change the queries.
    one = {**values, "model": ["cut"], "route": ["kept"]}
    queries = panel_queries(one, RATE_INTERVAL)
    of_one = [query for query in queries if "Cache" in query.where]
    of_one += [query for query in queries if "phase" in query.where]
    assert of_one
    assert not watched.without_data(of_one, WITHIN_S)


def test_docs_name_every_metric_that_prometheus_has(watched: Prometheus) -> None:
    named = set(re.findall(r"\bray_headrace_\w+", (ROOT / "docs" / "metrics.md").read_text()))
    there = [Query(name, f'count({{__name__=~"{name}(_bucket)?"}})') for name in named]
    assert not watched.without_data(there, WITHIN_S)
    exported = watched.get("label/__name__/values", **{"match[]": '{__name__=~"ray_headrace_.+"}'})
    assert {re.sub("_(bucket|count|sum)$", "", name) for name in exported} == named


def test_every_alert_reads_existing_series(watched: Prometheus) -> None:
    """Series of an alert exist, and each side of its comparisons has a value.

    An alert on absent series has no other data to read.
    """
    queries = []
    for name, rule in {**rules("alert"), **rules("record")}.items():
        assert selectors(rule["expr"]), name
        queries += [Query(name, selector) for selector in selectors(rule["expr"])]
        if rings_by_absence(rule["expr"]):
            assert not watched.values(rule["expr"]), name
        else:
            queries.append(Query(name, without_comparisons(rule["expr"])))
        if "record" in rule:
            queries.append(Query(name, name))
    assert not watched.without_data(queries, WITHIN_S)


def test_counters_are_labelled_by_process(watched: Prometheus) -> None:
    """Counters of an ended process stay; the rules recognize them by this label."""
    for series in ("ray_headrace_stage_seconds_total", "ray_headrace_canary_returns_total"):
        assert not watched.without_data([Query(series, f'{series}{{WorkerId!=""}}')], WITHIN_S)
        assert not watched.values(f'{series}{{WorkerId=""}}')


def test_rules_are_healthy_and_expected_alert_fires(
    watched: Prometheus,
) -> None:
    returned = 'ALERTS{alertname="HeadraceCanaryReturned", alertstate="firing", route="gone-back"}'
    assert not watched.without_data([Query("gone-back", returned)], WITHIN_S)
    evaluated = set()
    for group in watched.get("rules")["groups"]:
        for rule in group["rules"]:
            assert rule["health"] == "ok", rule
            if rule["type"] == "alerting":
                evaluated.add(rule["name"])
    assert evaluated == rules("alert").keys()
    for alert in watched.get("alerts")["alerts"]:  # its template renders
        assert "<error" not in alert["annotations"]["summary"]
    healthy = {
        "HeadraceNoReplica",
        "HeadraceReplicasMissing",
        "HeadraceReplicaRestarting",
        "HeadraceModelLoadSlow",
        "HeadraceHeadDown",
        "HeadraceMetricsAbsent",
        "HeadraceNodeSilent",
        "HeadraceTrafficStopped",
    }
    fired = f'count_over_time(ALERTS{{alertname=~"{"|".join(healthy)}", alertstate="firing"}}[1h])'
    assert watched.values(fired) == []
    # Recorded series and their counters are read a moment apart: an alert may become pending
    # when traffic starts. It must not stay so.
    inactive = [Query(name, f'absent(ALERTS{{alertname="{name}"}})') for name in healthy]
    assert not watched.without_data(inactive, WITHIN_S)


def test_every_query_of_the_runbooks_returns_data(watched: Prometheus) -> None:
    assert not watched.without_data(blocks("promql"), WITHIN_S)


@pytest.mark.slow
def test_every_command_of_the_runbooks_runs(served) -> None:
    commands = {query.expr for query in blocks("sh")}
    assert commands
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"  # with `ray` and `serve`
    client = {**os.environ, **served.cluster.environment(), "PATH": path}
    for command in sorted(commands):
        here = command.replace("http://localhost:8000", served.cluster.http)
        here = here.replace("ROUTE", "watched")
        ended = subprocess.run(
            ["bash", "-c", here],
            env=client,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert ended.returncode == 0, f"{command}\n{ended.stdout}{ended.stderr}"


@pytest.mark.slow
def test_metrics_show_the_replaced_replica(served, watched: Prometheus) -> None:
    tight = '{deployment="model-tight"}'
    os.kill(served.replica_pid("tight"), signal.SIGKILL)
    replaced = [
        Query("another one", f"headrace:replicas_seen:count15m{tight} > 1"),
        Query("the first is gone", f"count(ray_serve_deployment_replica_healthy{tight} == 0)"),
    ]
    assert not watched.without_data(replaced, WITHIN_S)
    back = Query("ready again", f"headrace:replicas_ready{tight} == 1")
    assert not watched.without_data([back], WITHIN_S)
    until(lambda: ask(f"{served.tight}/ready").status == 200)


def test_prometheus_ends_with_its_data_after_an_error() -> None:
    folder: list[Path] = []
    processes: list[subprocess.Popen[bytes]] = []

    def fail() -> None:
        with prometheus([]) as running:
            folder.append(running.folder)
            processes.append(running.process)
            assert running.get("status/config")
            raise InterruptedError

    with pytest.raises(InterruptedError):
        fail()
    assert processes[0].poll() is not None
    assert not folder[0].exists()
