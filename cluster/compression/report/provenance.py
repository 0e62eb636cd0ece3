"""The page's last part: what is needed to get the same again.

Versions, seed, data, machine, time, and the whole recipe.
"""

from __future__ import annotations

import json
from typing import Any

import yaml

from cluster.compression.figures import duration
from cluster.compression.record import BuildRecord
from cluster.compression.report.markup import Markup, Value, facts, folded, section, table, tag


def provenance(record: BuildRecord) -> Markup:
    """Where the figures come from."""
    seconds = [(phase, duration(taken)) for phase, taken in record.seconds.items()]
    seconds.append(("in all", duration(sum(record.seconds.values()))))
    return section(
        "provenance",
        "How to get the same again",
        tag(
            "div",
            _group("Build", [("seed", str(record.seed)), ("measured at", record.measured_at)]),
            _group("Data", _pairs(record.data)),
            _group("Machine", _pairs(record.machine)),
            class_="groups",
        ),
        tag(
            "div",
            table("Versions", ("package", "version"), list(record.versions.items())),
            table("Time of the job", ("phase", "took"), seconds),
            class_="groups",
        ),
        folded("The whole recipe", tag("pre", tag("code", _yaml(record.recipe)))),
    )


def _group(title: str, pairs: list[tuple[str, Value]]) -> Markup:
    return tag("div", tag("h3", title), facts(pairs))


def _pairs(values: dict[str, Any]) -> list[tuple[str, Value]]:
    return [
        (name.replace("_", " "), _value(value))
        for name, value in values.items()
        if value is not None
    ]


def _value(value: Any) -> Value:
    if isinstance(value, bool | float) or value is None:
        return json.dumps(value)
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, list | tuple):
        return ", ".join(map(str, value))
    if isinstance(value, str):
        return tag("code", value) if len(value) >= 40 and " " not in value else value
    return json.dumps(value, ensure_ascii=False, default=str)


def _yaml(recipe: dict[str, Any]) -> str:
    return yaml.safe_dump(recipe, sort_keys=False, allow_unicode=True)
