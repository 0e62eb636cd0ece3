"""Dashboard of k8s/monitoring: queries that Prometheus accepts, and numbers after a failure.

tests/serve/test_monitoring.py runs its queries beside a running cluster.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import promtool
import yaml
from alert_cases import JOB
from support.monitoring_files import expressions, filled_in, panel, panel_queries, variables

SELECTED = {"cluster": ["c"], "application": ["a"]}


@promtool.needed
def test_prometheus_accepts_every_query(tmp_path: Path) -> None:
    values = {name: ["x", "y"] for name in variables()}
    queries = panel_queries(values, "1m")
    assert queries
    rules = [{"record": f"query:{index}", "expr": q.expr} for index, q in enumerate(queries)]
    path = tmp_path / "queries.yaml"
    path.write_text(yaml.safe_dump({"groups": [{"name": "dashboard", "rules": rules}]}))
    promtool.run("check", "rules", path)


def test_dashboard_defines_the_variables_of_its_queries() -> None:
    text = " ".join([*(query.expr for query in expressions()), *variables().values()])
    used = set(re.findall(r"\$(\w+)", text)) - {"__rate_interval"}
    assert used == variables().keys()


@promtool.needed
def test_error_panels_show_a_number_at_both_extremes(tmp_path: Path) -> None:
    errors, by_application = panel("Errors (5xx, 408)"), panel("Errors (5xx, 408) by application")
    labels = 'ray_io_cluster="c", application="a"'
    requests = f'ray_serve_num_http_requests_total{{{JOB}, {labels}, status_code="%s"}}'
    recorded = f"headrace:http_errors:ratio5m{{{labels}}}"

    def share_of(code: str, share: float) -> dict[str, Any]:
        unit = promtool.unit({requests % code: "0+3x80"})
        tests = [_expected(errors, "{}", share), _expected(by_application, recorded, share)]
        return {**unit, "promql_expr_test": tests}

    no_series = {
        **promtool.unit({}),
        "promql_expr_test": [_expected(panel("Heads that report"), "{}", 0)],
    }
    units = [share_of("408", 1), share_of("504", 1), share_of("200", 0), no_series]
    promtool.try_out(units, tmp_path)


def _expected(shown: dict[str, Any], labels: str, value: float) -> dict[str, Any]:
    (target,) = shown["targets"]
    return {
        "expr": filled_in(target["expr"], SELECTED, "1m"),
        "eval_time": "18m",
        "exp_samples": [{"labels": labels, "value": value}],
    }


def test_variables_are_filled_in_as_grafana_does() -> None:
    selected = {"model": ["a.b", "c"], "route": ["r"]}
    expr = 'rate(x{model=~"$model", route=~"$route"}[$__rate_interval])'
    assert filled_in(expr, selected, "1m") == 'rate(x{model=~"(a\\\\.b|c)", route=~"r"}[1m])'
