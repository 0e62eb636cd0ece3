"""Choosing and loading the program of an artifact that runs on this node."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

import numpy as np

from cluster.artifact.artifact import Artifact
from cluster.artifact.manifest import ProgramEntry
from cluster.errors import ProgramError
from cluster.program import node
from cluster.program.aoti import load_aoti


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


ProgramLoader = Callable[[Artifact, ProgramEntry, int], Program]

PROGRAM_KINDS: dict[str, ProgramLoader] = {"aoti": load_aoti}


def load(artifact: Artifact, compute_threads: int) -> Program:
    """Load the program for this node, its files checked against the manifest first.

    ``compute_threads``: CPU threads one run computes with.
    Raises ProgramError naming what does not fit, ArtifactCorruptError for changed files.
    """
    entry = choose(artifact)
    return PROGRAM_KINDS[entry.kind](artifact, entry, compute_threads)


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
    built, installed = _minor(entry.torch_version), _minor(node.torch_version())
    if built != installed:
        return f"built for PyTorch {built}, installed is {installed}"
    return None


def _minor(version: str) -> str:
    return ".".join(version.split(".")[:2])
