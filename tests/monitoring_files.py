"""What k8s/monitoring holds, read as its readers do: Grafana, Prometheus and its operator.

The dashboard's queries come with their variables filled in; the alerts' expressions in parts, so
that one which is silent can still be shown to look at something.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).parents[1]
MONITORING = ROOT / "k8s" / "monitoring"
RUNBOOKS = ROOT / "docs" / "runbooks.md"

OURS = 'job=~".*headrace"'
"""What our PodMonitor finds, and others do not: in every selector of what is scraped."""

_NOT_A_SERIES = {"and", "or", "unless", "bool", "offset", "by", "without", "on", "ignoring"}
_KINDS = ("alert", "record")
_NUMBER = r"-?\d+(?:\.\d+)?"


@dataclass(frozen=True)
class Query:
    """A PromQL expression and where it stands."""

    where: str
    expr: str


def dashboard() -> dict[str, Any]:
    """The dashboard as Grafana reads it."""
    return json.loads((MONITORING / "dashboard.json").read_text())


def panels() -> list[dict[str, Any]]:
    """All panels but the rows, which hold no queries."""
    return [each for each in dashboard()["panels"] if each["type"] != "row"]


def variables() -> dict[str, str]:
    """Name → query of the dashboard's variables that Prometheus is asked for."""
    listed = dashboard()["templating"]["list"]
    return {each["name"]: each["query"]["query"] for each in listed if each["type"] == "query"}


def filled_in(expr: str, values: Mapping[str, Sequence[str]], rate_interval: str) -> str:
    """An expression as Grafana sends it, with these values of its variables chosen."""
    expr = expr.replace("$__rate_interval", rate_interval)
    for name, chosen in values.items():
        escaped = [re.sub(r"([\\^$.*+?()\[\]{}|/])", r"\\\\\1", each) for each in chosen]
        text = escaped[0] if len(escaped) == 1 else f"({'|'.join(escaped)})"
        expr = re.sub(rf"\${name}\b", lambda _, text=text: text, expr)
    return expr


def panel(title: str) -> dict[str, Any]:
    """The panel of that title."""
    (found,) = [each for each in panels() if each["title"] == title]
    return found


def panel_queries(values: Mapping[str, Sequence[str]], rate_interval: str) -> list[Query]:
    """Every query of every panel."""
    return [
        Query(
            f"{each['title']} {target['refId']}", filled_in(target["expr"], values, rate_interval)
        )
        for each in panels()
        for target in each["targets"]
    ]


def objects(kind: str) -> list[dict[str, Any]]:
    """The objects of that kind, as written."""
    found = []
    for path in sorted(MONITORING.glob("*.yaml")):
        found += [each for each in yaml.safe_load_all(path.read_text()) if each["kind"] == kind]
    return found


def rule_files(folder: Path) -> list[Path]:
    """The rules as Prometheus reads them, one file per PrometheusRule, which holds the same."""
    files = []
    for each in objects("PrometheusRule"):
        path = folder / f"{each['metadata']['name']}.yaml"
        path.write_text(yaml.safe_dump(each["spec"], sort_keys=False))
        files.append(path)
    return files


def rules(kind: str) -> dict[str, dict[str, Any]]:
    """Name → rule; ``kind``: ``alert`` or ``record``."""
    every = [
        rule
        for each in objects("PrometheusRule")
        for group in each["spec"]["groups"]
        for rule in group["rules"]
        if kind in rule
    ]
    named = {rule[kind]: rule for rule in every}
    assert len(named) == len(every), "a name is there twice"
    return named


def without_comparisons(expr: str) -> str:
    """An alert's expression without what makes it silent: comparisons with a number."""
    return re.sub(rf"\s*(?:==|!=|>=|<=|>|<)\s*{_NUMBER}", "", expr)


def rings_by_absence(expr: str) -> bool:
    """Whether an alert's expression has a value only while some series is not there.

    ``unless`` alone says nothing of that: it may leave out what was there before.
    """
    return "absent(" in expr


def selectors(expr: str) -> list[str]:
    """The series that an expression reads, each with its matchers and without its range."""
    expr = re.sub(r"\[[^\]]*\]|\boffset\s+\w+", "", expr)
    expr = re.sub(r"\b(?:by|without|on|ignoring)\s*\([^)]*\)", " ", expr)
    found = re.finditer(r"([a-zA-Z_:][\w:]*)\s*(\{[^}]*\})?(\s*\()?", expr)
    return sorted({
        match[1] + (match[2] or "")
        for match in found
        if match[3] is None and match[1] not in _NOT_A_SERIES
    })  # fmt: skip


@dataclass(frozen=True)
class Runbook:
    """One section of the runbooks."""

    anchor: str
    text: str


def runbooks() -> dict[str, Runbook]:
    """Anchor → section, anchors made of headings as GitHub makes them."""
    found = {}
    for section in re.split(r"^## ", RUNBOOKS.read_text(), flags=re.MULTILINE)[1:]:
        heading, _, text = section.partition("\n")
        anchor = re.sub(r"[^\w\- ]", "", heading.strip().lower()).replace(" ", "-")
        assert anchor not in found, f"two sections have the anchor {anchor}"
        found[anchor] = Runbook(anchor, text)
    return found


def blocks(language: str) -> Iterator[Query]:
    """The fenced blocks of the runbooks in that language, line by line."""
    for runbook in runbooks().values():
        for block in re.findall(rf"^```{language}\n(.*?)^```", runbook.text, re.M | re.S):
            for line in block.splitlines():
                yield Query(runbook.anchor, line)


def expressions() -> list[Query]:
    """Every expression, as written: of the panels, the alerts, the records and the runbooks."""
    found = [
        Query(each["title"], target["expr"]) for each in panels() for target in each["targets"]
    ]
    found += [Query(name, each["expr"]) for kind in _KINDS for name, each in rules(kind).items()]
    return found + list(blocks("promql"))
