"""The files of k8s/monitoring: what Prometheus, its operator and Grafana would make of them.

That the queries return data is shown beside a running cluster, in tests/serve/test_monitoring.py.
"""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import yaml
from alert_cases import CASES
from monitoring_files import (
    MONITORING,
    ROOT,
    blocks,
    dashboard,
    filled_in,
    objects,
    panels,
    rule_files,
    rules,
    runbooks,
    selectors,
    variables,
    without_comparisons,
)

ALERTS = rules("alert")
BASE = ROOT / "k8s" / "base"

promtool = pytest.mark.skipif(
    shutil.which("promtool") is None,
    reason="no promtool: install it (Debian, Ubuntu: apt-get install prometheus)",
)


# ------------------------------------------------------------------ alerts


@promtool
def test_prometheus_reads_the_rules(tmp_path: Path) -> None:
    for path in rule_files(tmp_path):
        _promtool("check", "rules", str(path))


def test_every_alert_has_its_cases() -> None:
    assert CASES.keys() == ALERTS.keys()


@pytest.fixture(scope="module")
def bare_rules(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """The rules without annotations, which promtool would compare word by word."""
    files = rule_files(tmp_path_factory.mktemp("rules"))
    for path in files:
        raw = yaml.safe_load(path.read_text())
        for group in raw["groups"]:
            for rule in group["rules"]:
                rule.pop("annotations", None)
        path.write_text(yaml.safe_dump(raw))
    return [str(path) for path in files]


@promtool
@pytest.mark.parametrize("name", CASES)
def test_an_alert_rings_when_it_should_and_not_otherwise(
    name: str, bare_rules: list[str], tmp_path: Path
) -> None:
    case = CASES[name]
    rings = [
        (series, [{"exp_labels": {**labels, "severity": case.severity}}])
        for series, labels in ((case.rings, case.labels), *case.more)
    ]
    assert case.silent
    tests = [
        {
            "interval": "15s",
            "input_series": [{"series": each, "values": v} for each, v in series.items()],
            "alert_rule_test": [{"eval_time": case.at, "alertname": name, "exp_alerts": expected}],
        }
        for series, expected in [*rings, *((each, []) for each in case.silent)]
    ]
    path = tmp_path / "case.yml"
    whole = {"rule_files": bare_rules, "evaluation_interval": "15s", "tests": tests}
    path.write_text(yaml.safe_dump(whole))
    _promtool("test", "rules", str(path))


def _promtool(*arguments: str) -> None:
    ended = subprocess.run(["promtool", *arguments], capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stdout + ended.stderr


@pytest.mark.parametrize("name", ALERTS)
def test_an_alert_says_what_is_wrong_and_where_to_read_on(name: str) -> None:
    rule = ALERTS[name]
    assert rule["labels"]["severity"] in ("critical", "warning")
    assert rule["annotations"]["summary"]
    kebab = re.sub(r"(?<!^)(?=[A-Z])", "-", name).lower()
    assert rule["annotations"]["runbook_url"] == f"docs/runbooks.md#alert-{kebab}"


def test_each_runbook_belongs_to_an_alert_and_says_what_to_do() -> None:
    urls = [rule["annotations"]["runbook_url"] for rule in ALERTS.values()]
    assert sorted(url.partition("#")[2] for url in urls) == sorted(runbooks())
    for runbook in runbooks().values():
        for part in ("**Means.** ", "**Look at.**", "**Do.** "):
            assert runbook.text.count(part) == 1, f"{runbook.anchor}: {part}"
        for anchor in re.findall(r"\]\(#([^)]*)\)", runbook.text):
            assert anchor in runbooks(), f"{runbook.anchor} links to {anchor}"
    assert len(list(blocks("promql"))) > len(ALERTS)


def test_every_recorded_series_is_asked_for_and_every_one_asked_for_is_recorded() -> None:
    asked = {name for _, expr in _expressions() for name in re.findall(r"headrace:[\w:]+", expr)}
    assert asked == rules("record").keys()


def _expressions() -> list[tuple[str, str]]:
    found = [(panel["title"], each["expr"]) for panel in panels() for each in panel["targets"]]
    found += [(name, rule["expr"]) for name, rule in {**ALERTS, **rules("record")}.items()]
    return found + [(query.where, query.expr) for query in blocks("promql")]


# ------------------------------------------------------------------ the dashboard


def test_every_panel_has_a_title_a_unit_a_description_and_a_query() -> None:
    for panel in panels():
        where = panel["title"]
        assert where
        assert panel["fieldConfig"]["defaults"]["unit"], where
        assert panel["description"].endswith("."), where
        assert panel["targets"], where
        assert all(target["expr"].strip() for target in panel["targets"]), where
        assert len({target["refId"] for target in panel["targets"]}) == len(panel["targets"])
    assert max(Counter(panel["title"] for panel in panels()).values()) == 1


def test_panels_have_places_and_ids_of_their_own() -> None:
    taken: set[tuple[int, int]] = set()
    every = dashboard()["panels"]
    assert len({panel["id"] for panel in every}) == len(every)
    for panel in every:
        at = panel["gridPos"]
        assert at["x"] + at["w"] <= 24, panel["title"]
        cells = {
            (at["x"] + x, at["y"] + y) for x in range(at["w"]) for y in range(at["h"])
        }  # fmt: skip
        assert not cells & taken, f"{panel['title']} covers another panel"
        taken |= cells


def test_the_variables_are_those_that_the_queries_use() -> None:
    text = " ".join(expr for _, expr in _expressions()) + " ".join(variables().values())
    used = set(re.findall(r"\$(\w+)", text)) - {"__rate_interval"}
    assert used == variables().keys()
    datasources = {json.dumps(each["datasource"]) for each in panels()}
    assert datasources == {json.dumps({"type": "prometheus", "uid": "${datasource}"})}
    assert "datasource" in [each["name"] for each in dashboard()["templating"]["list"]]


# ------------------------------------------------------------------ what is scraped, and rendered


def test_ports_have_names_that_kubernetes_allows() -> None:
    (monitor,) = objects("PodMonitor")
    for endpoint in monitor["spec"]["podMetricsEndpoints"]:
        assert re.fullmatch(r"[a-z0-9](?:[a-z0-9-]{0,13}[a-z0-9])", endpoint["port"])


@pytest.mark.skipif(not BASE.exists(), reason="no k8s/base")
def test_the_pods_have_the_ports_that_are_scraped() -> None:
    (monitor,) = objects("PodMonitor")
    names = {
        port["name"]
        for path in BASE.glob("*.yaml")
        for each in yaml.safe_load_all(path.read_text())
        for port in _ports(each)
    }
    assert {each["port"] for each in monitor["spec"]["podMetricsEndpoints"]} <= names


def _ports(node: Any) -> list[dict[str, Any]]:
    if isinstance(node, list):
        return [port for each in node for port in _ports(each)]
    if not isinstance(node, dict):
        return []
    own = [each for each in node.get("ports") or [] if "containerPort" in each and "name" in each]
    return own + [port for each in node.values() for port in _ports(each)]


@pytest.mark.skipif(shutil.which("kubectl") is None, reason="no kubectl, which renders")
def test_kustomize_renders_it_for_the_operator_and_the_sidecar() -> None:
    ended = subprocess.run(
        ["kubectl", "kustomize", str(MONITORING)], capture_output=True, text=True, check=False
    )
    assert ended.returncode == 0, ended.stderr
    rendered = list(yaml.safe_load_all(ended.stdout))
    assert {each["metadata"]["namespace"] for each in rendered} == {"headrace"}
    kinds = Counter((each["apiVersion"], each["kind"]) for each in rendered)
    operator = "monitoring.coreos.com/v1"
    assert kinds == {
        ("v1", "ConfigMap"): 1, (operator, "PodMonitor"): 1, (operator, "PrometheusRule"): 2
    }  # fmt: skip
    (config,) = [each for each in rendered if each["kind"] == "ConfigMap"]
    assert config["metadata"]["name"] == "headrace-dashboard"
    assert config["metadata"]["labels"] == {"grafana_dashboard": "1"}
    assert json.loads(config["data"]["headrace.json"]) == dashboard()

    (links,) = objects("ConfigMap")
    base = links["data"]["runbooks"]
    urls = re.findall(r"runbook_url: (\S+)", ended.stdout)
    written = [rule["annotations"]["runbook_url"] for rule in ALERTS.values()]
    assert urls == [f"{base}#{url.partition('#')[2]}" for url in written]


# ------------------------------------------------------------------ the tests' own reading


def test_expressions_are_taken_apart_as_prometheus_would() -> None:
    expr = 'sum by (a, b) (rate(x:y{c=~"d.+", e!=""}[5m])) / on (a) z > 0.1 and w == 0'
    assert selectors(expr) == ["w", 'x:y{c=~"d.+", e!=""}', "z"]
    assert without_comparisons(expr) == expr.replace(" > 0.1", "").replace(" == 0", "")


def test_variables_are_filled_in_as_grafana_does() -> None:
    chosen = {"model": ["a.b", "c"], "route": ["r"]}
    expr = 'rate(x{model=~"$model", route=~"$route"}[$__rate_interval])'
    assert filled_in(expr, chosen, "1m") == 'rate(x{model=~"(a\\\\.b|c)", route=~"r"}[1m])'
