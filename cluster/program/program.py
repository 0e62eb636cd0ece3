"""Choosing and loading the program of an artifact that runs on this node.

manifest.programs → of this node's targets → by measured latency → the first that fits
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from cluster.artifact.artifact import Artifact
from cluster.artifact.entries import ProgramEntry
from cluster.artifact.manifest import Manifest
from cluster.errors import ProgramError
from cluster.program import collective, node
from cluster.program.aoti import load_aoti, torch_misfit
from cluster.program.eager import load_eager
from cluster.program.exported import load_exported
from cluster.program.openvino import load_openvino, openvino_misfit

logger = logging.getLogger(__name__)


class Program(Protocol):
    """A loaded program. One thread at a time may run it."""

    entry: ProgramEntry
    runner: str
    """How it runs, for logs and metadata: ``native``, ``openvino`` or ``python``, of which only
    the last holds Python's lock while it computes."""

    def run(self, inputs: Sequence[np.ndarray]) -> list[np.ndarray]:
        """Compute one batch.

        ``inputs`` are C-contiguous arrays ``[batch, ...]`` in the order and dtypes of the
        manifest's inputs; the answer is in the order of its outputs. Raises ProgramError.
        """


@dataclass(frozen=True)
class ProgramKind:
    """How programs of one kind are loaded."""

    load: Callable[[Artifact, ProgramEntry, int], Program]
    misfit: Callable[[ProgramEntry], str | None]
    """Why this node cannot run an entry of the kind, CPU features apart; None if it can."""


PROGRAM_KINDS: dict[str, ProgramKind] = {
    "aoti": ProgramKind(load_aoti, torch_misfit),
    "openvino": ProgramKind(load_openvino, openvino_misfit),
    "exported": ProgramKind(load_exported, torch_misfit),
    "eager": ProgramKind(load_eager, torch_misfit),
}


SLICED_KINDS: dict[
    str,
    Callable[
        [Artifact, ProgramEntry, int, collective.Group | collective.SharedMemoryGroup], Program
    ],
] = {"aoti": load_aoti, "exported": load_exported}
"""Kinds whose programs can be tensor slices, and how those are loaded."""


@dataclass(frozen=True)
class Choice:
    """The program for this node, and in a few words why it and no other."""

    entry: ProgramEntry
    why: str


def load(artifact: Artifact, compute_threads: int, targets: Sequence[str] | None = None) -> Program:
    """Load the program for this node, its files checked against the manifest first.

    ``compute_threads``: CPU threads one run computes with. ``targets``: those that this process
    was given, fastest first; None: all of the node's.
    Raises ProgramError naming what does not fit, ArtifactCorruptError for changed files.
    """
    choice = choose(artifact, node.targets() if targets is None else targets)
    logger.info("%s: program %s, %s", artifact.manifest.name, choice.entry.key, choice.why)
    return load_entry(artifact, choice.entry, compute_threads)


def load_entry(
    artifact: Artifact,
    entry: ProgramEntry,
    compute_threads: int,
    group: collective.Group | collective.SharedMemoryGroup | None = None,
) -> Program:
    """Load this very program; raises as :func:`load` does.

    ``group``: of the ranks whose tensor slices the program is one of.
    """
    if (reason := _misfit(entry)) is not None:
        raise ProgramError(f"{entry.file} does not run on this node: {reason}")
    if group is None:
        return PROGRAM_KINDS[entry.kind].load(artifact, entry, compute_threads)
    if entry.kind not in SLICED_KINDS:
        raise ProgramError(
            f"{entry.file} is of kind {entry.kind}, which has no tensor slices; "
            f"{', '.join(SLICED_KINDS)} have"
        )
    return SLICED_KINDS[entry.kind](artifact, entry, compute_threads, group)


def choose(artifact: Artifact, targets: Sequence[str]) -> Choice:
    """The program that measured fastest among those that this node can run.

    ``targets``: of this node, fastest first: all, or those that this process was given.
    ProgramError, with a reason for each program, if none can be run.
    """
    manifest, refusals = artifact.manifest, []
    for target in targets:
        entries = [entry for entry in manifest.programs if entry.target == target]
        if not entries:
            refusals.append(f"none is built for {target}")
        passed: list[str] = []
        for entry in sorted(entries, key=lambda entry: _order(manifest, entry)):
            if (reason := _misfit(entry)) is None:
                return Choice(entry, _why(entries, passed))
            passed.append(f"{entry.kind}: {reason}")
            refusals.append(f"{entry.file}: {reason}")
    built = ", ".join(sorted(entry.key for entry in manifest.programs)) or "none"
    raise ProgramError(
        f"artifact {manifest.name} has no program for this node "
        f"({node.cpu_name()}): {'; '.join(refusals) or 'no target fits'}. Built: {built}. "
        "Run `headrace compress` for it on a node of this kind"
    )


def _order(manifest: Manifest, entry: ProgramEntry) -> tuple[bool, float]:
    """The recorded winner first, then by latency, then what was never measured."""
    measured = manifest.measured.get(entry.key)
    typical_ms = math.inf if measured is None else measured.typical_ms
    return manifest.fastest.get(entry.target) != entry.kind, typical_ms


def _why(entries: Sequence[ProgramEntry], passed: Sequence[str]) -> str:
    kinds = ", ".join(entry.kind for entry in entries)
    if passed:
        return f"the next fastest of {kinds} on this node ({'; '.join(passed)})"
    return f"the fastest of {kinds} on this node" if len(entries) > 1 else f"the only one: {kinds}"


def _misfit(entry: ProgramEntry) -> str | None:
    """Why this node cannot run the program, or None if it can."""
    if entry.kind not in PROGRAM_KINDS:
        return f"kind {entry.kind!r} is not one of {', '.join(PROGRAM_KINDS)}"
    if missing := sorted(set(entry.cpu_features) - node.cpu_features()):
        return f"its code uses {', '.join(missing)}, which this CPU lacks"
    return PROGRAM_KINDS[entry.kind].misfit(entry)
