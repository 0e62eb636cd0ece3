"""``report.html``: the whole build on one page without scripts, requests or other files.

    BuildRecord → sections as data (one module each) → templates/page.html.j2 → HTML

The style sheet is inline and charts are SVG. Templates escape every value, and a content security
policy forbids scripts and requests in case one is missed: names of layers and classes come out
of checkpoints that the project does not trust.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from cluster.compression.record import BuildRecord
from cluster.compression.report.cautions import cautions
from cluster.compression.report.cuts import cuts
from cluster.compression.report.headline import headline
from cluster.compression.report.layers import layers
from cluster.compression.report.programs import latency, scores
from cluster.compression.report.provenance import provenance
from cluster.compression.report.search import search
from cluster.compression.report.steps import steps
from cluster.compression.report.verdict import verdict

TEMPLATES = Path(__file__).with_name("templates")
SECTIONS = (headline, scores, latency, search, steps, layers, cuts, provenance)
"""Sections in the order of the page; each returns None if the build has no data for it."""


def page(record: BuildRecord) -> str:
    """Return the report as one HTML document."""
    sections = [section(record) for section in SECTIONS]
    return (
        environment(TEMPLATES)
        .get_template("page.html.j2")
        .render(
            record=record,
            summary=_summary(record),
            verdict=verdict(record),
            cautions=cautions(record),
            sections=[section for section in sections if section is not None],
        )
    )


@cache
def environment(folder: Path) -> Environment:
    """Return a Jinja environment for a folder that escapes values and rejects undefined names."""
    return Environment(
        loader=FileSystemLoader(folder),
        autoescape=True,
        undefined=StrictUndefined,  # a misspelt name is an error, not an empty string
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )


def _summary(record: BuildRecord) -> str:
    """Return the model and the steps in one line."""
    titles = " → ".join(step.title for step in record.steps) or "no steps"
    source = record.recipe.get("model", {}).get("source", "")
    return f"{source}: {titles}"
