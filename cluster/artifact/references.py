"""References to artifacts in configs and commands: an id, a prefix of one, a name, or NAME@ID.

NAME@ID → the id alone; the name is for people, and may stand for another artifact by now
ID      → the store's ids with this prefix
NAME    → the store's entry under that name
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable

from cluster.artifact.printable import printable
from cluster.config.base import BEGINNING_OF_ID, MODEL_NAME
from cluster.errors import ArtifactError

ID = r"[0-9a-f]{64}"
"""Pattern of an artifact's id: the sha256 of its manifest."""


def resolve(
    ref: str, ids: Callable[[], Iterable[str]], named: Callable[[str], str | None]
) -> str | None:
    """Return the id of ``ref``: a whole id, at least 8 of its first digits, a name, or NAME@ID.

    ``ids``: of the store's artifacts. ``named``: the id under a name, or None.
    """
    name, _, pinned = ref.rpartition("@")
    if name:
        ref = pinned if re.fullmatch(BEGINNING_OF_ID, pinned) else ""
    if re.fullmatch(BEGINNING_OF_ID, ref):
        # Never a name: a writer of the store could assign such a name to another artifact, which
        # would then be signed or served in place of the intended one.
        matches = sorted(id_ for id_ in ids() if id_.startswith(ref) and re.fullmatch(ID, id_))
        if len(matches) > 1:
            raise ArtifactError(
                f"{ref!r} is a prefix of {len(matches)} artifact ids: {', '.join(matches)}"
            )
        return matches[0] if matches else None
    return named(ref) if re.fullmatch(MODEL_NAME, ref) else None


def name_in(ref: str) -> str | None:
    """Return the name in a reference; None if it is an id alone."""
    name = ref.rpartition("@")[0] or ref
    return None if re.fullmatch(BEGINNING_OF_ID, name) else name


def may_stand_for(ref: str, bound: str) -> bool:
    """Whether a reference can have been bound to ``NAME@ID``, whatever the name means by now."""
    name, _, artifact_id = bound.rpartition("@")
    pinned = ref.rpartition("@")[2]
    if re.fullmatch(BEGINNING_OF_ID, pinned):
        return artifact_id.startswith(pinned)
    return ref == name


def checked_id(value: str, location: object) -> str:
    """Return ``value`` if it has the form of an id, else raise ArtifactError: it becomes a path."""
    if re.fullmatch(ID, value) is None:
        raise ArtifactError(
            f"{location} holds {value!r:.100}, expected an artifact's id: 64 hex digits"
        )
    return value


def not_found(ref: str, location: object, names: list[str]) -> str:
    """Return the message for a reference that a store does not hold."""
    known_names = ", ".join(map(printable, names[:20])) or "none"
    return (
        f"no artifact {ref!r:.100} in the store {location}; names there: {known_names}. "
        "Build it with `headrace compress RECIPE.yaml`"
    )
