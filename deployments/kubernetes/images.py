"""How an image may be named: the grammar that container engines and registries share.

    [HOST[:PORT]/]PATH[/PATH...][:TAG][@sha256:DIGEST]

As github.com/distribution/reference has it, with the one kind of digest that is in use.
"""

from __future__ import annotations

import re

_MOST_OF_A_NAME = 255  # characters, without tag and digest
_HOST = r"[A-Za-z0-9](?:[A-Za-z0-9-]*[A-Za-z0-9])?"
_DOMAIN = rf"(?:{_HOST}(?:\.{_HOST})*|\[[0-9A-Fa-f:]+\])(?::[0-9]+)?"
_PART = r"[a-z0-9]+(?:(?:[._]|__|-+)[a-z0-9]+)*"
_REFERENCE = re.compile(
    rf"(?P<name>(?:{_DOMAIN}/)?{_PART}(?:/{_PART})*)"
    r"(?::[A-Za-z0-9_][A-Za-z0-9_.-]{0,127})?"
    r"(?P<digest>@sha256:[0-9a-f]{64})?"
)


def is_reference(image: str) -> bool:
    """If an image can be named so."""
    match = _REFERENCE.fullmatch(image)
    return match is not None and len(match["name"]) <= _MOST_OF_A_NAME


def by_digest(image: str) -> bool:
    """If an image is named by what it contains, and not by a name that may move."""
    match = _REFERENCE.fullmatch(image)
    return match is not None and match["digest"] is not None


def same_name(image: str, name: str) -> bool:
    """If an image is the one of that name, whatever its tag or digest."""
    match = _REFERENCE.fullmatch(image)
    return match is not None and match["name"] == name
