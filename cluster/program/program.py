"""Choosing and loading the program of an artifact that runs on this node."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from cluster.artifact.artifact import Artifact
from cluster.artifact.manifest import ProgramEntry
from cluster.errors import ProgramError
from cluster.program import node
from cluster.program.aoti import aoti_misfit, load_aoti


class Program(Protocol):
    """A loaded program. One thread at a time may run it."""

    entry: ProgramEntry
    runner: str
    """How it runs, for logs and metadata: ``native`` or ``python``."""

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


PROGRAM_KINDS: dict[str, ProgramKind] = {"aoti": ProgramKind(load_aoti, aoti_misfit)}


def load(artifact: Artifact, compute_threads: int) -> Program:
    """Load the program for this node, its files checked against the manifest first.

    ``compute_threads``: CPU threads one run computes with.
    Raises ProgramError naming what does not fit, ArtifactCorruptError for changed files.
    """
    entry = choose(artifact)
    return PROGRAM_KINDS[entry.kind].load(artifact, entry, compute_threads)


def choose(artifact: Artifact) -> ProgramEntry:
    """The artifact's program that this node can run, its fastest target first."""
    refusals = []
    entries = {entry.target: entry for entry in artifact.manifest.programs}
    for target in node.targets():
        if (entry := entries.get(target)) is None:
            refusals.append(f"none is built for {target}")
        elif (reason := _misfit(entry)) is not None:
            refusals.append(f"{entry.file}: {reason}")
        else:
            return entry
    built = ", ".join(sorted(entries)) or "none"
    raise ProgramError(
        f"artifact {artifact.manifest.name} has no program for this node "
        f"({node.cpu_name()}): {'; '.join(refusals) or 'no target fits'}. Built: {built}. "
        "Run `headrace compress` for it on a node of this kind"
    )


def _misfit(entry: ProgramEntry) -> str | None:
    """Why this node cannot run the program, or None if it can."""
    if entry.kind not in PROGRAM_KINDS:
        return f"kind {entry.kind!r} is not one of {', '.join(PROGRAM_KINDS)}"
    if missing := sorted(set(entry.cpu_features) - node.cpu_features()):
        return f"its code uses {', '.join(missing)}, which this CPU lacks"
    return PROGRAM_KINDS[entry.kind].misfit(entry)
