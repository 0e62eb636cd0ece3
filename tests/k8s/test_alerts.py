"""The alerts of k8s/monitoring, by Prometheus' own tool: when they ring, and what they say.

That they look at something is shown beside a running cluster, in tests/serve/test_monitoring.py.
"""

from __future__ import annotations

import re
from pathlib import Path

import promtool
import pytest
from alert_cases import CASES, of_others
from monitoring_files import (
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
def test_prometheus_reads_the_rules(tmp_path: Path) -> None:
    for path in rule_files(tmp_path):
        promtool.run("check", "rules", path)


def test_every_alert_has_its_cases() -> None:
    assert CASES.keys() == ALERTS.keys()


@promtool.needed
@pytest.mark.parametrize("name", CASES)
def test_an_alert_rings_when_it_should_and_not_otherwise(name: str, tmp_path: Path) -> None:
    case = CASES[name]
    rings = [
        (series, [{"exp_labels": {**labels, "severity": case.severity}}])
        for series, labels in ((case.rings, case.labels), *case.more)
    ]
    assert case.silent
    silent = list(case.silent)
    if not rings_by_absence(ALERTS[name]["expr"]):  # else others' series change nothing
        silent.append(of_others(case.rings))
    tests = [
        {
            **promtool.unit(series, case.every),
            "alert_rule_test": [{"eval_time": case.at, "alertname": name, "exp_alerts": expected}],
        }
        for series, expected in [*rings, *((each, []) for each in silent)]
    ]
    promtool.try_out(tests, tmp_path, case.every)


@pytest.mark.parametrize("name", ALERTS)
def test_an_alert_says_what_is_wrong_and_where_to_read_on(name: str) -> None:
    rule = ALERTS[name]
    assert rule["labels"]["severity"] in ("critical", "warning")
    assert rule["annotations"]["summary"]
    kebab = re.sub(r"(?<!^)(?=[A-Z])", "-", name).lower()
    assert rule["annotations"]["runbook_url"] == f"docs/runbooks.md#alert-{kebab}"


@pytest.mark.parametrize("name", ALERTS)
def test_an_alert_names_by_labels_that_it_has(name: str) -> None:
    summary = ALERTS[name]["annotations"]["summary"]
    case = CASES[name]
    for labels in (case.labels, *(each for _, each in case.more)):
        # One that says what to put in a label's place does not need it.
        for label in re.findall(r"\{\{ \$labels\.(\w+)", summary):
            assert label in labels


def test_each_alert_has_its_runbook_and_each_runbook_its_alert() -> None:
    urls = [rule["annotations"]["runbook_url"] for rule in ALERTS.values()]
    assert sorted(url.partition("#")[2] for url in urls) == sorted(runbooks())


def test_every_recorded_series_is_asked_for_and_every_one_asked_for_is_recorded() -> None:
    asked = {name for each in expressions() for name in re.findall(r"headrace:[\w:]+", each.expr)}
    assert asked == rules("record").keys()


def test_the_rules_and_the_panels_count_what_our_monitor_finds() -> None:
    for each in expressions():
        if each.where in runbooks():  # there a person asks, and sees what comes
            continue
        for series in selectors(each.expr):
            if not series.startswith(("headrace:", "ALERTS{")):
                assert OURS in series, each.where


def test_no_mean_is_made_of_a_histogram_of_rays() -> None:
    """Its sum is made of the middles of its buckets (``deployments/model/metrics.py``)."""
    for each in expressions():
        assert not re.search(r"\b(?:ray|autoscaler)_\w+_sum\b", each.expr), each.where


def test_expressions_are_taken_apart_as_prometheus_would() -> None:
    expr = 'sum by (a, b) (rate(x:y{c=~"d.+", e!=""}[5m])) / on (a) z > 0.1 and w == 0'
    assert selectors(expr) == ["w", 'x:y{c=~"d.+", e!=""}', "z"]
    assert without_comparisons(expr) == expr.replace(" > 0.1", "").replace(" == 0", "")
    assert selectors("x unless x offset 6h") == ["x"]
    assert rings_by_absence("absent(x)")
    assert not rings_by_absence("x unless x offset 6h")
