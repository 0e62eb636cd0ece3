"""Header ``Server-Timing`` of the W3C recommendation: durations of the parts of an answer.

{"queue": 1.25, "compute": 5.5}  ⇄  queue;dur=1.25, compute;dur=5.5        (milliseconds)
"""

from __future__ import annotations

import re
from collections.abc import Mapping

_ENTRY = re.compile(r"\s*([\w.~-]{1,128});dur=(\d{1,12}(?:\.\d{1,9})?)\s*")
_NO_TOKEN = re.compile(r"[^\w.~-]")
_ENTRIES = 32


def server_timing(ms: Mapping[str, float]) -> str:
    """Return the header's value."""
    return ", ".join(f"{_NO_TOKEN.sub('_', name)};dur={value:.3f}" for name, value in ms.items())


def parse_server_timing(value: str | None) -> dict[str, float]:
    """Return the durations of a header by name, in milliseconds, without malformed entries."""
    ms: dict[str, float] = {}
    for entry in (value or "").split(",")[:_ENTRIES]:
        if match := _ENTRY.fullmatch(entry):
            ms[match[1]] = float(match[2])
    return ms
