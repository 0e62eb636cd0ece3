"""Stored outputs of an artifact's programs, for the check of a replica's start.

KEY.computed.npz (evaluation) ─ the first items ─→ checks/KEY.npz in the artifact ─→ ProgramEntry
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import numpy as np

from cluster.artifact.entries import ProgramEntry, SelfCheck
from cluster.compression.draft import Draft
from cluster.compression.probes import MAX_FLOAT_DIFFERENCE, spread_per_item
from cluster.program import node

FOLDER = "checks"

_MOST_ITEMS = 4
_MOST_BYTES = 2**20
"""Size of a program's file, about; it has one item at least."""


def store(
    draft: Draft, entries: Iterable[ProgramEntry], differences: Mapping[str, float]
) -> tuple[ProgramEntry, ...]:
    """Write the outputs that the evaluation computed into the artifact; return the entries.

    ``differences``: key of a program → its difference from what it was made from.
    """
    (draft.folder / FOLDER).mkdir(exist_ok=True)
    return tuple(_stored(draft, entry, differences[entry.key]) for entry in entries)


def _stored(draft: Draft, entry: ProgramEntry, difference: float) -> ProgramEntry:
    with np.load(draft.outputs_of(entry.key).computed) as computed:
        arrays = {
            name: computed[name] for name in computed.files if name.startswith(("input", "output"))
        }
    outputs = [arrays[name] for name in sorted(arrays) if name.startswith("output")]
    size = sum(array[:1].nbytes for array in arrays.values())
    items = max(1, min(_MOST_ITEMS, _MOST_BYTES // size))
    file = f"{FOLDER}/{entry.key.replace('/', '.')}.npz"
    np.savez(
        draft.folder / file,
        spreads=np.array([spread_per_item(output) for output in outputs]),
        **{name: array[:items] for name, array in arrays.items()},
    )
    # Two programs that differ from their model by this much differ by twice that at most.
    check = SelfCheck(
        file=file,
        limit=2 * max(difference, MAX_FLOAT_DIFFERENCE),
        cpu_features=tuple(sorted(node.cpu_features())),
    )
    return entry.model_copy(update={"self_check": check})
