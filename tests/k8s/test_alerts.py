"""Alerts of k8s/monitoring, evaluated by promtool: the series that fire them, and their texts.

tests/serve/test_monitoring.py checks beside a running cluster that their series exist.
"""

from __future__ import annotations

import re
from pathlib import Path

import promtool
import pytest
from alert_cases import CASES, of_others
from support.monitoring_files import (
    OURS,
    expressions,
    rings_by_absence,
    rule_files,
    rules,
    runbooks,
    selectors,
    without_comparisons,
)

ALERTS = rules("alert")


@promtool.needed
def test_prometheus_accepts_the_rules(tmp_path: Path) -> None:
    for path in rule_files(tmp_path):
        promtool.run("check", "rules", path)


def test_every_alert_has_a_case() -> None:
    assert CASES.keys() == ALERTS.keys()


@promtool.needed
@pytest.mark.parametrize("name", CASES)
def test_alert_fires_on_its_series_only(name: str, tmp_path: Path) -> None:
    case = CASES[name]
    firing = [
        (series, [{"exp_labels": {**labels, "severity": case.severity}}])
        for series, labels in ((case.firing, case.labels), *case.more)
    ]
    assert case.silent
    silent = list(case.silent)
    if not rings_by_absence(ALERTS[name]["expr"]):  # the series of others must not fire it
        silent.append(of_others(case.firing))
    tests = [
        {
            **promtool.unit(series, case.every),
            "alert_rule_test": [{"eval_time": case.at, "alertname": name, "exp_alerts": expected}],
        }
        for series, expected in [*firing, *((series, []) for series in silent)]
    ]
    promtool.try_out(tests, tmp_path, case.every)


@pytest.mark.parametrize("name", ALERTS)
def test_alert_has_severity_summary_and_runbook(name: str) -> None:
    rule = ALERTS[name]
    assert rule["labels"]["severity"] in ("critical", "warning")
    assert rule["annotations"]["summary"]
    kebab = re.sub(r"(?<!^)(?=[A-Z])", "-", name).lower()
    assert rule["annotations"]["runbook_url"] == f"docs/runbooks.md#alert-{kebab}"


@pytest.mark.parametrize("name", ALERTS)
def test_summary_uses_only_labels_of_the_alert(name: str) -> None:
    summary = ALERTS[name]["annotations"]["summary"]
    case = CASES[name]
    for labels in (case.labels, *(more for _, more in case.more)):
        # A label with a default is optional.
        for label in re.findall(r"\{\{ \$labels\.(\w+)", summary):
            assert label in labels


def test_alerts_and_runbooks_match_one_to_one() -> None:
    urls = [rule["annotations"]["runbook_url"] for rule in ALERTS.values()]
    assert sorted(url.partition("#")[2] for url in urls) == sorted(runbooks())


def test_recorded_series_are_exactly_those_in_use() -> None:
    used = {name for query in expressions() for name in re.findall(r"headrace:[\w:]+", query.expr)}
    assert used == rules("record").keys()


def test_rules_and_panels_read_only_our_monitors_series() -> None:
    for query in expressions():
        if query.where in runbooks():  # the answer shows an operator the job
            continue
        for series in selectors(query.expr):
            if not series.startswith(("headrace:", "ALERTS{")):
                assert OURS in series, query.where


def test_no_query_reads_the_sum_of_a_ray_histogram() -> None:
    """Ray computes the sum from the middles of the buckets (``deployments/model/metrics.py``)."""
    for query in expressions():
        assert not re.search(r"\b(?:ray|autoscaler)_\w+_sum\b", query.expr), query.where


def test_selectors_are_parsed_as_prometheus_does() -> None:
    expr = 'sum by (a, b) (rate(x:y{c=~"d.+", e!=""}[5m])) / on (a) z > 0.1 and w == 0'
    assert selectors(expr) == ["w", 'x:y{c=~"d.+", e!=""}', "z"]
    assert without_comparisons(expr) == expr.replace(" > 0.1", "").replace(" == 0", "")
    assert selectors("x unless x offset 6h") == ["x"]
    assert rings_by_absence("absent(x)")
    assert not rings_by_absence("x unless x offset 6h")
