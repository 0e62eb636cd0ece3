"""HTML and SVG as values: whatever is not marked up already is escaped.

``tag("b", name)`` → ``<b>…</b>``: names of layers and classes come from users and stay text.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape

Value = str | int | float


class Markup(str):
    """Text that is HTML already; only :func:`tag` and :func:`joined` make it."""

    __slots__ = ()


def tag(name: str, /, *children: Value | None, **attributes: Value | None) -> Markup:
    """An element. None leaves out a child or attribute; ``class_`` and ``stroke_width`` become
    ``class`` and ``stroke-width``."""
    written = "".join(
        f' {key.rstrip("_").replace("_", "-")}="{escape(str(value))}"'
        for key, value in attributes.items()
        if value is not None
    )
    if name in ("meta", "br"):
        return Markup(f"<{name}{written}>")
    return Markup(f"<{name}{written}>{joined(children)}</{name}>")


def joined(children: Iterable[Value | None], between: str = "") -> Markup:
    """Children one after the other, escaped where they are plain text."""
    return Markup(
        escape(between).join(
            child if isinstance(child, Markup) else escape(str(child))
            for child in children
            if child is not None
        )
    )


def verbatim(css: str) -> Markup:
    """The project's own style sheet, which is no one's input."""
    return Markup(css)


def section(anchor: str, title: str, *children: Value | None) -> Markup:
    """A titled part of the page that links can point to."""
    heading = tag("h2", title, id=f"{anchor}-title")
    return tag("section", heading, *children, id=anchor, aria_labelledby=f"{anchor}-title")


def table(
    caption: str,
    header: Sequence[Value],
    rows: Iterable[Sequence[Value]],
    *,
    text_columns: Sequence[int] = (0,),
    marked: frozenset[int] = frozenset(),
) -> Markup:
    """A table that scrolls sideways where it is too wide.

    Columns but ``text_columns`` are numbers and aligned right. ``marked``: rows to emphasize.
    """

    def style(column: int) -> str | None:
        return None if column in text_columns else "number"

    head = [
        tag("th", cell, scope="col", class_=style(column)) for column, cell in enumerate(header)
    ]
    body = []
    for position, row in enumerate(rows):
        first, *others = row
        cells = [tag("th", first, scope="row", class_=style(0))]
        cells += [tag("td", cell, class_=style(column)) for column, cell in enumerate(others, 1)]
        body.append(tag("tr", *cells, class_="marked" if position in marked else None))
    return tag(
        "div",
        tag(
            "table",
            tag("caption", caption),
            tag("thead", tag("tr", *head)),
            tag("tbody", *body),
        ),
        class_="wide",
        tabindex="0",
        role="region",
        aria_label=caption,
    )


def folded(summary: Value, *children: Value | None, opened: bool = False) -> Markup:
    """Children under a line that unfolds them."""
    return tag("details", tag("summary", summary), *children, open="open" if opened else None)


def facts(pairs: Iterable[tuple[str, Value]]) -> Markup:
    """Names and values as a definition list."""
    return tag(
        "dl",
        *(tag("div", tag("dt", name), tag("dd", value)) for name, value in pairs),
        class_="facts",
    )
