"""What stands for an artifact in configs and commands: its id, the beginning of it, or a name.

ref → reads like an id? → the ids in the store that begin so
                   no  → what the store holds under that name
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable

from cluster.artifact.printable import printable
from cluster.config.base import BEGINNING_OF_ID, MODEL_NAME
from cluster.errors import ArtifactError

ID = r"[0-9a-f]{64}"
"""An artifact's id: the sha256 of its manifest."""


def resolve(
    ref: str, ids: Callable[[], Iterable[str]], named: Callable[[str], str | None]
) -> str | None:
    """The id that ``ref`` stands for: a whole id, 8 of its first digits or more, or a name.

    ``ids``: of the store's artifacts. ``named``: the id under a name, None if there is none.
    """
    if re.fullmatch(BEGINNING_OF_ID, ref):
        # Never a name: who can write to the store could give it to another artifact, and whoever
        # signs or serves what begins so would sign or serve that one.
        found = sorted(each for each in ids() if each.startswith(ref) and re.fullmatch(ID, each))
        if len(found) > 1:
            raise ArtifactError(f"{ref!r} begins {len(found)} artifact ids: {', '.join(found)}")
        return found[0] if found else None
    return named(ref) if re.fullmatch(MODEL_NAME, ref) else None


def checked_id(value: str, where: object) -> str:
    """``value`` if it can be an artifact's id; ArtifactError if not: it becomes a path."""
    if re.fullmatch(ID, value) is None:
        raise ArtifactError(
            f"{where} holds {value!r:.100}, expected an artifact's id: 64 hex digits"
        )
    return value


def not_found(ref: str, where: object, names: list[str]) -> str:
    """The message for a reference that a store does not hold."""
    known = ", ".join(map(printable, names[:20])) or "none yet"
    return (
        f"no artifact {ref!r:.100} in the store {where}; names there: {known}. "
        "Build it with `headrace compress RECIPE.yaml`"
    )
