"""Files of k8s/monitoring, read as Grafana, Prometheus and its operator read them.

dashboard → queries with their variables filled in
rules     → expressions, and their series: an alert that does not fire must still read real series
runbooks  → queries and commands
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).parents[2]
MONITORING = ROOT / "k8s" / "monitoring"
RUNBOOKS = ROOT / "docs" / "runbooks.md"

OURS = 'job=~".*headrace"'
"""Matcher of the series that our PodMonitor scrapes, present in every selector."""

_NOT_A_SERIES = {"and", "or", "unless", "bool", "offset", "by", "without", "on", "ignoring"}
_KINDS = ("alert", "record")
_NUMBER = r"-?\d+(?:\.\d+)?"


@dataclass(frozen=True)
class Query:
    """PromQL expression and its place."""

    where: str
    expr: str


def dashboard() -> dict[str, Any]:
    """Return the dashboard as Grafana reads it."""
    return json.loads((MONITORING / "dashboard.json").read_text())


def panels() -> list[dict[str, Any]]:
    """Return all panels except rows, because rows have no queries."""
    return [panel for panel in dashboard()["panels"] if panel["type"] != "row"]


def variables() -> dict[str, str]:
    """Return name → query of the dashboard's variables that Prometheus resolves."""
    listed = dashboard()["templating"]["list"]
    return {item["name"]: item["query"]["query"] for item in listed if item["type"] == "query"}


def filled_in(expr: str, values: Mapping[str, Sequence[str]], rate_interval: str) -> str:
    """Return an expression as Grafana sends it with these values of its variables."""
    expr = expr.replace("$__rate_interval", rate_interval)
    for name, chosen in values.items():
        escaped = [re.sub(r"([\\^$.*+?()\[\]{}|/])", r"\\\\\1", value) for value in chosen]
        text = escaped[0] if len(escaped) == 1 else f"({'|'.join(escaped)})"
        expr = re.sub(rf"\${name}\b", lambda _, text=text: text, expr)
    return expr


def panel(title: str) -> dict[str, Any]:
    """Return the panel with a title."""
    (match,) = [panel for panel in panels() if panel["title"] == title]
    return match


def panel_queries(values: Mapping[str, Sequence[str]], rate_interval: str) -> list[Query]:
    """Return every query of every panel."""
    return [
        Query(
            f"{panel['title']} {target['refId']}", filled_in(target["expr"], values, rate_interval)
        )
        for panel in panels()
        for target in panel["targets"]
    ]


def objects(kind: str) -> list[dict[str, Any]]:
    """Return the objects of a kind, as written."""
    return [
        obj
        for path in sorted(MONITORING.glob("*.yaml"))
        for obj in yaml.safe_load_all(path.read_text())
        if obj["kind"] == kind
    ]


def rule_files(folder: Path) -> list[Path]:
    """Write the rules as Prometheus reads them, one file per PrometheusRule; return the paths."""
    files = []
    for obj in objects("PrometheusRule"):
        path = folder / f"{obj['metadata']['name']}.yaml"
        path.write_text(yaml.safe_dump(obj["spec"], sort_keys=False))
        files.append(path)
    return files


def rules(kind: str) -> dict[str, dict[str, Any]]:
    """Return name → rule; ``kind``: ``alert`` or ``record``."""
    listed = [
        rule
        for obj in objects("PrometheusRule")
        for group in obj["spec"]["groups"]
        for rule in group["rules"]
        if kind in rule
    ]
    named = {rule[kind]: rule for rule in listed}
    assert len(named) == len(listed), "two rules have the same name"
    return named


def without_comparisons(expr: str) -> str:
    """Return an alert's expression without its comparisons, so that it has values."""
    return re.sub(rf"\s*(?:==|!=|>=|<=|>|<)\s*{_NUMBER}", "", expr)


def rings_by_absence(expr: str) -> bool:
    """Return whether an alert's expression has a value only while some series is absent.

    ``unless`` alone does not show it: it may exclude an older series.
    """
    return "absent(" in expr


def selectors(expr: str) -> list[str]:
    """Return the series that an expression reads, with their matchers, without their ranges."""
    expr = re.sub(r"\[[^\]]*\]|\boffset\s+\w+", "", expr)
    expr = re.sub(r"\b(?:by|without|on|ignoring)\s*\([^)]*\)", " ", expr)
    matches = re.finditer(r"([a-zA-Z_:][\w:]*)\s*(\{[^}]*\})?(\s*\()?", expr)
    return sorted(
        {
            match[1] + (match[2] or "")
            for match in matches
            if match[3] is None and match[1] not in _NOT_A_SERIES
        }
    )


@dataclass(frozen=True)
class Runbook:
    """Section of the runbooks."""

    anchor: str
    text: str


def runbooks() -> dict[str, Runbook]:
    """Return anchor → section; GitHub derives the anchors from the headings."""
    sections: dict[str, Runbook] = {}
    for section in re.split(r"^## ", RUNBOOKS.read_text(), flags=re.MULTILINE)[1:]:
        heading, _, text = section.partition("\n")
        anchor = re.sub(r"[^\w\- ]", "", heading.strip().lower()).replace(" ", "-")
        assert anchor not in sections, f"two sections have the anchor {anchor}"
        sections[anchor] = Runbook(anchor, text)
    return sections


def blocks(language: str) -> Iterator[Query]:
    """Yield the lines of the runbooks' fenced blocks in a language."""
    for runbook in runbooks().values():
        for block in re.findall(rf"^```{language}\n(.*?)^```", runbook.text, re.M | re.S):
            for line in block.splitlines():
                yield Query(runbook.anchor, line)


def expressions() -> list[Query]:
    """Return every expression, as written, of panels, alerts, records and runbooks."""
    shown = [Query(panel["title"], t["expr"]) for panel in panels() for t in panel["targets"]]
    ruled = [Query(name, rule["expr"]) for kind in _KINDS for name, rule in rules(kind).items()]
    return [*shown, *ruled, *blocks("promql")]
