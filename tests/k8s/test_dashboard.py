"""The dashboard of k8s/monitoring, as Grafana would read it.

That its queries return data is shown beside a running cluster, in tests/serve/test_monitoring.py.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from pathlib import Path
from typing import Any

import promtool
import pytest
from alert_cases import JOB
from monitoring_files import dashboard, expressions, filled_in, panel, panels, variables

CHOSEN = {"cluster": ["c"], "application": ["a"]}


def test_every_panel_has_a_title_a_unit_a_description_and_a_query() -> None:
    for each in panels():
        where = each["title"]
        assert where
        assert each["fieldConfig"]["defaults"]["unit"], where
        assert each["description"].endswith("."), where
        assert each["targets"], where
        assert all(target["expr"].strip() for target in each["targets"]), where
        assert len({target["refId"] for target in each["targets"]}) == len(each["targets"])
    assert max(Counter(each["title"] for each in panels()).values()) == 1


@pytest.mark.parametrize(
    ("title", "series"),
    [
        ("Requests by application", "ray_serve_num_http_requests_total"),
        ("Requests by status", "status_code"),
        ("Outcome by model", "outcome"),
        ("Median time by phase", "ray_headrace_queue_wait_ms_bucket"),
        ("p99 time by phase", "ray_headrace_queue_wait_ms_bucket"),
        ("Batch size", "ray_headrace_batch_size_bucket"),
        ("Queue per replica", "headrace:ongoing_requests"),
        ("Wanted and ready", "headrace:replicas_ready"),
        ("Bubbles", "headrace:stage_bubble:ratio5m"),
        ("Shadow agreement", "headrace:shadow_agreement:ratio30m"),
    ],
)
def test_what_an_operator_looks_for_has_a_panel(title: str, series: str) -> None:
    assert any(series in target["expr"] for target in panel(title)["targets"])


def test_what_is_counted_per_second_has_a_unit_that_says_so() -> None:
    for each in panels():
        (first, *_) = each["targets"]
        if re.match(r"(sum by \([^)]*\) \()?rate\([^/]+$", first["expr"]):
            unit = each["fieldConfig"]["defaults"]["unit"]
            assert unit in ("reqps", "cps", "ops"), each["title"]


def test_panels_have_places_and_ids_of_their_own() -> None:
    taken: set[tuple[int, int]] = set()
    every = dashboard()["panels"]
    assert len({each["id"] for each in every}) == len(every)
    for each in every:
        at = each["gridPos"]
        assert at["x"] + at["w"] <= 24, each["title"]
        cells = {(at["x"] + x, at["y"] + y) for x in range(at["w"]) for y in range(at["h"])}
        assert not cells & taken, f"{each['title']} covers another panel"
        taken |= cells


def test_the_variables_are_those_that_the_queries_use() -> None:
    text = " ".join([*(each.expr for each in expressions()), *variables().values()])
    used = set(re.findall(r"\$(\w+)", text)) - {"__rate_interval"}
    assert used == variables().keys()
    datasources = {json.dumps(each["datasource"]) for each in panels()}
    assert datasources == {json.dumps({"type": "prometheus", "uid": "${datasource}"})}
    assert "datasource" in [each["name"] for each in dashboard()["templating"]["list"]]


@promtool.needed
def test_panels_have_a_number_where_all_goes_wrong_and_where_nothing_does(tmp_path: Path) -> None:
    errors, by_application = panel("Errors (5xx, 408)"), panel("Errors (5xx, 408) by application")
    labels = 'ray_io_cluster="c", application="a"'
    asked = f'ray_serve_num_http_requests_total{{{JOB}, {labels}, status_code="%s"}}'
    named = f"headrace:http_errors:ratio5m{{{labels}}}"

    def shares(code: str, share: float) -> dict[str, Any]:
        unit = promtool.unit({asked % code: "0+3x80"})
        tests = [_gives(errors, "{}", share), _gives(by_application, named, share)]
        return {**unit, "promql_expr_test": tests}

    nobody = {
        **promtool.unit({}),
        "promql_expr_test": [_gives(panel("Heads that report"), "{}", 0)],
    }
    promtool.try_out([shares("408", 1), shares("504", 1), shares("200", 0), nobody], tmp_path)


def _gives(shown: dict[str, Any], labels: str, value: float) -> dict[str, Any]:
    (target,) = shown["targets"]
    return {
        "expr": filled_in(target["expr"], CHOSEN, "1m"),
        "eval_time": "18m",
        "exp_samples": [{"labels": labels, "value": value}],
    }


def test_variables_are_filled_in_as_grafana_does() -> None:
    chosen = {"model": ["a.b", "c"], "route": ["r"]}
    expr = 'rate(x{model=~"$model", route=~"$route"}[$__rate_interval])'
    assert filled_in(expr, chosen, "1m") == 'rate(x{model=~"(a\\\\.b|c)", route=~"r"}[1m])'
