"""Building blocks of the page as data; ``templates/parts.html.j2`` draws each of them.

    Table of cells    Facts    Folded table        a cell: text, number, Bars, Code

No block holds HTML, so the template escapes every name that a user chose.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from cluster.compression.report.bars import Bars


@dataclass(frozen=True)
class Code:
    """Names or hashes in the typeface of code, separated by commas."""

    codes: tuple[str, ...]


Cell = str | int | Bars | Code
Facts = Sequence[tuple[str, Cell]]
"""Names and values of a definition list."""


@dataclass(frozen=True)
class Table:
    """A table that scrolls sideways where it is too wide."""

    caption: str
    header: Sequence[str]
    rows: Sequence[Sequence[Cell]]
    text_columns: tuple[int, ...] = (0,)
    """Columns that are aligned left; the others are numbers and aligned right."""
    marked: frozenset[int] = frozenset()
    """Positions of the rows to emphasize."""


@dataclass(frozen=True)
class Section:
    """A titled part of the page, drawn by ``templates/ANCHOR.html.j2``."""

    anchor: str
    title: str
    link: str
    """Text of the link at the top of the page."""
    view: object
    """Data of the section's template, where it is called ``view``."""
