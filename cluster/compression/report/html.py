"""``report.html``: the whole build on one page that needs nothing but itself.

    BuildRecord → verdict, headline → scores, latency → search, steps → layers, cuts → provenance

No script, no request: the style sheet is inline, charts are SVG, and a content security policy
forbids the rest, so that a name out of a checkpoint could not run anything even if it were not
escaped.
"""

from __future__ import annotations

from pathlib import Path

from cluster.compression.record import BuildRecord
from cluster.compression.report import history, outcome
from cluster.compression.report.cuts import cuts
from cluster.compression.report.markup import Markup, tag, verbatim
from cluster.compression.report.provenance import provenance

STYLE = Path(__file__).with_name("page.css")

NAMES = {
    "headline": "At a glance",
    "scores": "Score",
    "latency": "Latency",
    "search": "Search",
    "steps": "Steps",
    "layers": "Layers",
    "cuts": "Cuts",
    "provenance": "Provenance",
}
"""Sections that the links at the top lead to, by anchor."""


def page(record: BuildRecord) -> str:
    """The report as one HTML document."""
    sections: dict[str, Markup | None] = {
        "headline": outcome.headline(record),
        "scores": outcome.scores(record),
        "latency": outcome.latency(record),
        "search": history.search(record),
        "steps": history.steps(record),
        "layers": outcome.layers(record),
        "cuts": cuts(record),
        "provenance": provenance(record),
    }
    there = {name: content for name, content in sections.items() if content is not None}
    links = [tag("a", NAMES[name], href=f"#{name}") for name in there]
    body = tag(
        "body",
        tag(
            "header",
            tag("p", "Compression report", class_="kind"),
            tag("h1", record.name),
            tag("p", _summary(record), class_="summary"),
        ),
        tag(
            "main",
            outcome.verdict(record),
            outcome.random_weights(record),
            tag("nav", *links, aria_label="Sections"),
            *there.values(),
        ),
        tag("footer", f"Headrace · {record.name} · measured {record.measured_at}"),
    )
    return f"<!DOCTYPE html>\n{tag('html', _head(record), body, lang='en')}\n"


def _head(record: BuildRecord) -> Markup:
    return tag(
        "head",
        tag("meta", charset="utf-8"),
        tag("meta", name="viewport", content="width=device-width, initial-scale=1"),
        tag("meta", name="color-scheme", content="light dark"),
        tag(
            "meta",
            http_equiv="Content-Security-Policy",
            content="default-src 'none'; style-src 'unsafe-inline'",
        ),
        tag("title", f"{record.name}: compression report"),
        tag("style", verbatim(STYLE.read_text())),
    )


def _summary(record: BuildRecord) -> str:
    """What was done to which model, in a line."""
    steps = " → ".join(step.title for step in record.steps) or "no steps"
    source = record.recipe.get("model", {}).get("source", "")
    return f"{source}: {steps}"
