"""Last part of the page as data: everything that is needed to repeat the build.

Versions, seed, data, machine, time, and the whole recipe.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from cluster.compression.figures import duration
from cluster.compression.record import BuildRecord
from cluster.compression.report.parts import Cell, Code, Facts, Section, Table
from cluster.config.plain_yaml import format_yaml

HASH_LENGTH = 40
"""A word of this many characters is a hash and is set as code."""


@dataclass(frozen=True)
class Provenance:
    """Groups of facts, tables, and the recipe as YAML."""

    groups: Sequence[tuple[str, Facts]]
    tables: Sequence[Table]
    recipe: str


def provenance(record: BuildRecord) -> Section:
    """Return the origin of the figures."""
    seconds = [(phase, duration(spent)) for phase, spent in record.seconds.items()]
    seconds.append(("in all", duration(sum(record.seconds.values()))))
    view = Provenance(
        groups=[
            ("Build", [("seed", str(record.seed)), ("measured at", record.measured_at)]),
            ("Data", _facts(record.data)),
            ("Machine", _facts(record.machine)),
        ],
        tables=[
            Table("Versions", ("package", "version"), [*record.versions.items()]),
            Table("Time of the job", ("phase", "took"), seconds),
        ],
        recipe=format_yaml(record.recipe),
    )
    return Section("provenance", "Reproducing this build", "Provenance", view)


def _facts(values: dict[str, Any]) -> Facts:
    return [
        (name.replace("_", " "), _cell(value))
        for name, value in values.items()
        if value is not None
    ]


def _cell(value: Any) -> Cell:
    if isinstance(value, bool | float):
        return json.dumps(value)
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, list | tuple):
        return ", ".join(map(str, value))
    if isinstance(value, str):
        return Code((value,)) if len(value) >= HASH_LENGTH and " " not in value else value
    return json.dumps(value, ensure_ascii=False, default=str)
