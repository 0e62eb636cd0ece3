"""Check that a loaded program gives the outputs on this node that were measured elsewhere.

    artifact: a few inputs, the outputs of the measured program ─┐
    this node: the program's outputs for them ───────────────────┴─ ≤ limit, or ProgramError

The same int8 program can saturate on a CPU without VNNI, and lose accuracy without any error.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence

import numpy as np

from cluster.artifact.artifact import Artifact
from cluster.artifact.entries import ProgramEntry, SelfCheck
from cluster.errors import ProgramError
from cluster.program import node

logger = logging.getLogger(__name__)

Run = Callable[[Sequence[np.ndarray]], list[np.ndarray]]


def check(artifact: Artifact, entry: ProgramEntry, run: Run) -> None:
    """Compare the program's outputs with the stored ones, item by item.

    ProgramError, with the difference, above the limit. An entry of an older artifact has no stored
    outputs and passes.
    """
    stored = entry.self_check
    if stored is None or not entry.target.startswith("cpu-"):
        return
    with np.load(artifact.file(stored.file)) as arrays:
        inputs, expected = (_named(kind, arrays) for kind in ("input", "output"))
        spreads = arrays["spreads"]
    items = len(expected[0])
    answers = [run([array[[item]] for array in inputs]) for item in range(items)]
    outputs = [np.concatenate(parts) for parts in zip(*answers, strict=True)]
    difference = _difference(outputs, expected, spreads)
    missing = _missing(stored)
    where = f"this CPU lacks {missing}, with which it was measured" if missing else ""
    if not difference <= stored.limit:  # also refuses NaN
        raise ProgramError(
            f"its outputs for {items} stored inputs differ from those that were measured by "
            f"{difference:.3g} of their spread, expected {stored.limit:.3g} at most"
            + (f"; {where}" if where else "")
        )
    if where:
        logger.warning(
            "%s: program %s: %s; its outputs for %d stored inputs differ by %.2g of their spread "
            "from those, of %.3g at most",
            artifact.manifest.name,
            entry.key,
            where,
            items,
            difference,
            stored.limit,
        )


def _difference(
    outputs: Sequence[np.ndarray], expected: Sequence[np.ndarray], spreads: np.ndarray
) -> float:
    """Return the root mean square difference of an item in spreads, of the worst output."""
    return max(
        float(np.linalg.norm(output.astype(np.float64) - target) / np.sqrt(len(target)) / spread)
        for output, target, spread in zip(outputs, expected, spreads, strict=True)
    )


def _missing(stored: SelfCheck) -> str:
    return ", ".join(sorted(set(stored.cpu_features) - node.cpu_features()))


def _named(prefix: str, arrays: np.lib.npyio.NpzFile) -> list[np.ndarray]:
    count = sum(name.startswith(prefix) for name in arrays.files)
    return [arrays[f"{prefix}{index}"] for index in range(count)]
