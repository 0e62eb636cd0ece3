"""Escaping of texts from a manifest, for logs and terminals.

Writers of a store choose labels, names of layers and more. A line break would start a line that
looks like Headrace's own, and an escape sequence would control the terminal.
"""

from __future__ import annotations

from typing import Any


def printable(data: Any) -> Any:
    r"""Return plain data with all non-printable characters escaped, in Python's notation.

    Strings inside lists and mappings are escaped too, also keys: ``"a\nb"`` becomes ``"a\\nb"``.
    """
    if isinstance(data, str):
        return "".join(c if c.isprintable() else repr(c)[1:-1] for c in data)
    if isinstance(data, dict):
        return {printable(key): printable(value) for key, value in data.items()}
    if isinstance(data, list | tuple):
        return [printable(item) for item in data]
    return data
