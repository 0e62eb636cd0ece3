"""Choice and loading of an artifact's program for this node.

manifest.programs → those of this node's targets → by measured latency → the first that fits
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from cluster.artifact.artifact import Artifact
from cluster.artifact.entries import ProgramEntry
from cluster.artifact.manifest import Manifest
from cluster.errors import ProgramError
from cluster.program import collective, node, self_check
from cluster.program.aoti import load_aoti, torch_misfit
from cluster.program.eager import load_eager
from cluster.program.exported import load_exported
from cluster.program.openvino import load_openvino, openvino_misfit

logger = logging.getLogger(__name__)


class Program(Protocol):
    """A loaded program. One thread at a time may run it."""

    entry: ProgramEntry
    runner: str
    """``native``, ``openvino`` or ``python``, for logs and metadata; only the last one holds
    Python's lock during computation."""

    def run(self, inputs: Sequence[np.ndarray]) -> list[np.ndarray]:
        """Compute one batch.

        ``inputs``: C-contiguous arrays ``[batch, ...]`` in the order and dtypes of the manifest's
        inputs. Returns arrays in the order of its outputs. Raises ProgramError, and RequestError
        for an input with an index out of range.
        """


@dataclass(frozen=True)
class ProgramKind:
    """Loader and requirements of one kind of program."""

    load: Callable[[Artifact, ProgramEntry, int], Program]
    misfit: Callable[[ProgramEntry], str | None]
    """Return why this node cannot run an entry, CPU features apart, or None."""


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
"""Kinds whose programs can be tensor slices, and their loaders."""


@dataclass(frozen=True)
class Choice:
    """The program for this node, and the reason of the choice."""

    entry: ProgramEntry
    reason: str


def load(artifact: Artifact, compute_threads: int, targets: Sequence[str] | None = None) -> Program:
    """Load the program for this node, after a check of its files against the manifest.

    ``compute_threads``: CPU threads of one run. ``targets``: targets available to this process,
    fastest first; None: all of the node's.
    Raises ProgramError naming each mismatch, ArtifactCorruptError for changed files.
    """
    available = node.targets() if targets is None else targets
    choice, program = load_checked(
        artifact, lambda unfit: choose(artifact, available, unfit), compute_threads
    )
    logger.info("%s: program %s, %s", artifact.manifest.name, choice.entry.key, choice.reason)
    return program


def load_checked(
    artifact: Artifact, choose: Callable[[Mapping[str, str]], Choice], compute_threads: int
) -> tuple[Choice, Program]:
    """Load the first choice whose outputs on this node are those that were measured.

    ``choose``: returns the next choice, without those of the argument: key → reason. Raises as
    :func:`load` does.
    """
    unfit: dict[str, str] = {}
    while True:
        choice = choose(unfit)
        program = load_entry(artifact, choice.entry, compute_threads)
        try:
            self_check.check(artifact, choice.entry, program.run)
        except ProgramError as error:
            logger.error("%s: %s: %s", artifact.manifest.name, choice.entry.key, error)
            unfit[choice.entry.key] = str(error)
        else:
            return choice, program


def load_entry(
    artifact: Artifact,
    entry: ProgramEntry,
    compute_threads: int,
    group: collective.Group | collective.SharedMemoryGroup | None = None,
) -> Program:
    """Load one entry of the manifest; raises as :func:`load` does.

    ``group``: ranks of the model's slices, if the program is one of them.
    """
    if (reason := _misfit(entry)) is not None:
        raise ProgramError(f"{entry.file} does not run on this node: {reason}")
    if group is None:
        return PROGRAM_KINDS[entry.kind].load(artifact, entry, compute_threads)
    if entry.kind not in SLICED_KINDS:
        raise ProgramError(
            f"{entry.file} is of kind {entry.kind}, which has no tensor slices; "
            f"expected one of {', '.join(SLICED_KINDS)}"
        )
    return SLICED_KINDS[entry.kind](artifact, entry, compute_threads, group)


def choose(
    artifact: Artifact, targets: Sequence[str], unfit: Mapping[str, str] | None = None
) -> Choice:
    """Return the fastest measured program among those that this node can run.

    ``targets``: of this node or of this process, fastest first. ``unfit``: keys of programs that
    are not usable here, with reasons. Raises ProgramError with a reason for each program, if none
    can be run.
    """
    unfit = unfit or {}
    manifest, refusals = artifact.manifest, []
    for target in targets:
        entries = [entry for entry in manifest.programs if entry.target == target]
        if not entries:
            refusals.append(f"no program is built for {target}")
        skipped: list[str] = []
        for entry in sorted(entries, key=lambda entry: _order(manifest, entry)):
            if (reason := unfit.get(entry.key) or _misfit(entry)) is None:
                return Choice(entry, _reason(entries, skipped))
            skipped.append(f"{entry.kind}: {reason}")
            refusals.append(f"{entry.file}: {reason}")
    built = ", ".join(sorted(entry.key for entry in manifest.programs)) or "none"
    raise ProgramError(
        f"artifact {manifest.name} has no program for this node "
        f"({node.cpu_name()}): {'; '.join(refusals) or 'it has no known target'}. Built: {built}. "
        "Run `headrace compress` for it on a node of this kind"
    )


def _order(manifest: Manifest, entry: ProgramEntry) -> tuple[bool, float]:
    """Return the sort key: recorded winner first, then by latency, unmeasured programs last."""
    measured = manifest.measured.get(entry.key)
    typical_ms = math.inf if measured is None else measured.typical_ms
    return manifest.fastest.get(entry.target) != entry.kind, typical_ms


def _reason(entries: Sequence[ProgramEntry], skipped: Sequence[str]) -> str:
    kinds = ", ".join(entry.kind for entry in entries)
    if skipped:
        return f"the next fastest of {kinds} on this node ({'; '.join(skipped)})"
    return (
        f"the fastest of {kinds} on this node" if len(entries) > 1 else f"the only program: {kinds}"
    )


def _misfit(entry: ProgramEntry) -> str | None:
    """Return why this node cannot run the program, or None."""
    if entry.kind not in PROGRAM_KINDS:
        return f"unknown kind {entry.kind!r}, expected one of {', '.join(PROGRAM_KINDS)}"
    if missing := sorted(set(entry.cpu_features) - node.cpu_features()):
        return f"its code uses {', '.join(missing)}, which this CPU lacks"
    return PROGRAM_KINDS[entry.kind].misfit(entry)
