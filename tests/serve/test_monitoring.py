"""A real Prometheus beside the cluster: every query of the dashboard, of the alerts and of their
runbooks finds what it asks for.

All models and routes are asked all the time, one of them twice the same, so that every kind of
outcome is there: a rate needs a series that changes, or has at least been seen twice.
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
"""Ray exports every 10 s, and a rate needs two of them: 20 s where nothing else runs."""


@pytest.fixture(scope="module")
def traffic(served) -> Iterator[None]:
    """Requests for all models and routes, until the tests of this file are done."""
    asked_by_others = "doomed"  # whose first requests are what its own test is about
    names = ["tiny", "tight", "cut", *(each["name"] for each in routes(served.threshold))]
    names.remove(asked_by_others)
    ended = threading.Event()

    def send() -> None:
        asked = 0
        while not ended.wait(PAUSE_S):
            asked += 1
            for name in names:
                # Every second time what was asked before: `kept` has that answer.
                body = served.binary(served.random_input(4, seed=asked // 2))
                with contextlib.suppress(OSError, HTTPException):
                    ask(f"{served.url}/models/{name}/infer", *body)

    thread = threading.Thread(target=send, name="traffic")
    thread.start()
    yield
    ended.set()
    thread.join()


@pytest.fixture(scope="module")
def watched(served, traffic: None) -> Iterator[Prometheus]:
    """Prometheus, scraping the cluster as if it were the head's pod."""
    with autoscaler_metrics() as autoscaler:
        pod = Pod("head", HEAD, {**_ports(served), "as-metrics": autoscaler})
        with prometheus([pod]) as running:
            yield running


def _ports(served) -> dict[str, str]:
    """The cluster's ports by the names that they have in a pod."""
    ray_dir = served.cluster.record.ray_dir
    listed = json.loads((ray_dir / "prom_metrics_service_discovery.json").read_text())
    addresses = [address for group in listed for address in group["targets"]]
    (dashboard,) = [each for each in addresses if _says(each, "ray_dashboard_")]
    (agent,) = [each for each in addresses if each != dashboard]
    return {"metrics": agent, "dash-metrics": dashboard}


def _says(address: str, text: str) -> bool:
    return text in ask(f"http://{address}/metrics").body.decode()


def test_the_pod_monitor_finds_every_port_of_the_pod(watched: Prometheus) -> None:
    assert not watched.without_data([Query("up", "sum(up) == 3")], WITHIN_S)
    targets = watched.get("targets")["activeTargets"]
    endpoints = {target["labels"]["endpoint"] for target in targets}
    assert endpoints == {"metrics", "as-metrics", "dash-metrics"}
    for target in targets:
        assert target["health"] == "up", target["lastError"]
        labels = target["labels"]
        assert (labels["ray_io_cluster"], labels["ray_io_node_type"]) == ("here", "head")


def test_a_pod_of_no_ray_cluster_is_left_alone(served) -> None:
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
    # What the PodMonitor drops is not there either.
    assert not watched.values('count({__name__=~"ray_grpc_server_.+"})')
    assert not watched.values('count({otel_scope_name!=""} or {SessionName!=""})')
    # The same with one model and one route chosen, whose names go into other queries alone.
    one = {**values, "model": ["cut"], "route": ["kept"]}
    of_one = [each for each in panel_queries(one, RATE_INTERVAL) if "Cache" in each.where]
    of_one += [each for each in panel_queries(one, RATE_INTERVAL) if "phase" in each.where]
    assert of_one
    assert not watched.without_data(of_one, WITHIN_S)


def test_docs_name_every_metric_that_prometheus_has(watched: Prometheus) -> None:
    named = set(re.findall(r"\bray_headrace_\w+", (ROOT / "docs" / "metrics.md").read_text()))
    there = [Query(name, f'count({{__name__=~"{name}(_bucket)?"}})') for name in named]
    assert not watched.without_data(there, WITHIN_S)
    exported = watched.get("label/__name__/values", **{"match[]": '{__name__=~"ray_headrace_.+"}'})
    assert {re.sub("_(bucket|count|sum)$", "", name) for name in exported} == named


def test_every_alert_looks_at_something(watched: Prometheus) -> None:
    """Each series it reads is there, and so is what it compares with a number.

    One that rings when something is not there has nothing else to look at.
    """
    queries = []
    for name, rule in {**rules("alert"), **rules("record")}.items():
        assert selectors(rule["expr"]), name
        queries += [Query(name, each) for each in selectors(rule["expr"])]
        if rings_by_absence(rule["expr"]):
            assert not watched.values(rule["expr"]), name
        else:
            queries.append(Query(name, without_comparisons(rule["expr"])))
        if "record" in rule:
            queries.append(Query(name, name))
    assert not watched.without_data(queries, WITHIN_S)


def test_processes_are_told_apart(watched: Prometheus) -> None:
    """Counters of one that has ended stay; the rules know by this label which they are."""
    for series in ("ray_headrace_stage_seconds_total", "ray_headrace_canary_returns_total"):
        assert not watched.without_data([Query(series, f'{series}{{WorkerId!=""}}')], WITHIN_S)
        assert not watched.values(f'{series}{{WorkerId=""}}')


def test_prometheus_finds_no_fault_with_the_rules_and_the_right_alert_rings(
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
    for alert in watched.get("alerts")["alerts"]:  # what it says can be filled in
        assert "<error" not in alert["annotations"]["summary"]
    healthy = {
        "HeadraceNoReplica", "HeadraceReplicasMissing", "HeadraceReplicaRestarting",
        "HeadraceModelLoadSlow", "HeadraceHeadDown", "HeadraceMetricsAbsent", "HeadraceNodeSilent",
        "HeadraceTrafficStopped",
    }  # fmt: skip
    rang = f'count_over_time(ALERTS{{alertname=~"{"|".join(healthy)}", alertstate="firing"}}[1h])'
    assert watched.values(rang) == []
    # Recorded series and the counters under them are looked at a moment apart: an alert may start
    # to wait when traffic starts. It must not go on.
    waits = [Query(name, f'absent(ALERTS{{alertname="{name}"}})') for name in healthy]
    assert not watched.without_data(waits, WITHIN_S)


def test_every_query_of_the_runbooks_returns_data(watched: Prometheus) -> None:
    assert not watched.without_data(blocks("promql"), WITHIN_S)


@pytest.mark.slow
def test_every_command_of_the_runbooks_runs(served) -> None:
    commands = {query.expr for query in blocks("sh")}
    assert commands
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"  # where `ray` and `serve` are
    client = {**os.environ, **served.cluster.environment(), "PATH": path}
    for command in sorted(commands):
        here = command.replace("http://localhost:8000", served.cluster.http)
        here = here.replace("ROUTE", "watched")
        ended = subprocess.run(
            ["bash", "-c", here], env=client, capture_output=True, text=True, timeout=60,
            check=False,
        )  # fmt: skip
        assert ended.returncode == 0, f"{command}\n{ended.stdout}{ended.stderr}"


@pytest.mark.slow
def test_a_replica_that_ends_is_missed_and_the_next_one_seen(served, watched: Prometheus) -> None:
    tight = '{deployment="model-tight"}'
    os.kill(served.replica_pid("tight"), signal.SIGKILL)
    seen = [
        Query("another one", f"headrace:replicas_seen:count15m{tight} > 1"),
        Query("the first is gone", f"count(ray_serve_deployment_replica_healthy{tight} == 0)"),
    ]
    assert not watched.without_data(seen, WITHIN_S)
    back = Query("ready again", f"headrace:replicas_ready{tight} == 1")
    assert not watched.without_data([back], WITHIN_S)
    until(lambda: ask(f"{served.tight}/ready").status == 200)


def test_prometheus_ends_with_its_data_whatever_happens() -> None:
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
