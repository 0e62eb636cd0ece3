"""Image references: the grammar that container engines and registries share.

    [HOST[:PORT]/]PATH[/PATH...][:TAG][@sha256:DIGEST]

The grammar is that of github.com/distribution/reference, with sha256 as the only digest.
"""

from __future__ import annotations

import re

_MAX_NAME_LENGTH = 255  # characters, without tag and digest
_HOST = r"[A-Za-z0-9](?:[A-Za-z0-9-]*[A-Za-z0-9])?"
_DOMAIN = rf"(?:{_HOST}(?:\.{_HOST})*|\[[0-9A-Fa-f:]+\])(?::[0-9]+)?"
_PART = r"[a-z0-9]+(?:(?:[._]|__|-+)[a-z0-9]+)*"
_REFERENCE = re.compile(
    rf"(?P<name>(?:{_DOMAIN}/)?{_PART}(?:/{_PART})*)"
    r"(?::[A-Za-z0-9_][A-Za-z0-9_.-]{0,127})?"
    r"(?P<digest>@sha256:[0-9a-f]{64})?"
)


def is_reference(image: str) -> bool:
    """Return whether the text is a valid image reference."""
    match = _REFERENCE.fullmatch(image)
    return match is not None and len(match["name"]) <= _MAX_NAME_LENGTH


def has_digest(image: str) -> bool:
    """Return whether a reference names its content by digest, which a tag does not."""
    match = _REFERENCE.fullmatch(image)
    return match is not None and match["digest"] is not None


def has_name(image: str, name: str) -> bool:
    """Return whether a reference has this name, with any tag or digest."""
    match = _REFERENCE.fullmatch(image)
    return match is not None and match["name"] == name
