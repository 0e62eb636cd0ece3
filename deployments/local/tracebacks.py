"""Messages of Ray without the frames of their tracebacks."""

from __future__ import annotations

import re

_ERROR = re.compile(r"^[A-Za-z_][\w.]*: .+", re.MULTILINE)


def without_frames(text: str) -> str:
    """Return a text of Ray; of a traceback in it, only the error at its end."""
    before, traceback, frames = text.strip().partition("Traceback (most recent call last):")
    errors = _ERROR.findall(frames)
    return f"{before}{errors[-1] if errors else traceback}"
