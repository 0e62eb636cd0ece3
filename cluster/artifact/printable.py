"""What comes out of a manifest, made fit to be printed.

Whoever writes to a store chooses labels, names of layers and much else: a line break would begin a
line that looks like our own, and an escape sequence is an order to the terminal.
"""

from __future__ import annotations

from typing import Any


def printable(data: Any) -> Any:
    """Plain data with every character escaped that is no visible one, as Python writes it.

    Strings inside lists and mappings too, keys as well: ``"a\\nb"`` becomes ``"a\\\\nb"``.
    """
    if isinstance(data, str):
        return "".join(c if c.isprintable() else repr(c)[1:-1] for c in data)
    if isinstance(data, dict):
        return {printable(key): printable(value) for key, value in data.items()}
    if isinstance(data, list | tuple):
        return [printable(each) for each in data]
    return data
