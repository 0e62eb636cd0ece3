"""Programs of one entry, loaded as a replica loads them, if they compute what they were made from.

entry ─→ dynamic batch ─ expected outputs? each item by itself? ─→ LoadedProgram
    └─→ each static shape ─ the dynamic program's outputs? ──────↗
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from cluster.artifact.artifact import Artifact
from cluster.artifact.entries import ProgramEntry
from cluster.compression.evaluation import reference
from cluster.compression.evaluation.causes import likely_causes
from cluster.compression.evaluation.reference import Outputs
from cluster.config.recipe import Recipe
from cluster.errors import ArtifactError, CompressionError, ProgramError
from cluster.program import program as programs
from cluster.program.program import Program
from cluster.progress import to_stdout


@dataclass(frozen=True)
class LoadedProgram:
    """Program with a dynamic batch, and the same with the static shapes that compute the model."""

    dynamic: Program

    difference: float
    """Difference of its outputs from those of what it was made from."""

    static: Program | None


def load(
    artifact: Artifact, entry: ProgramEntry, outputs: Outputs, recipe: Recipe, mates: Sequence[str]
) -> LoadedProgram:
    """Load the program, and every static shape of it that computes the same.

    Write the program's own outputs to ``outputs.computed``. ``mates``: items to put beside others,
    see :class:`cluster.independence.Inputs`. ProgramError if the dynamic program does not load or
    does not compute the model, each item by itself.
    """
    try:
        return _load(artifact, entry, outputs, recipe, mates)
    except ArtifactError as error:
        raise ProgramError(str(error)) from error
    except CompressionError as error:
        cause = likely_causes(artifact.manifest).get(entry.key)
        hint = f". A likely cause is that {cause}" if cause else ""
        raise ProgramError(f"{error}{hint}") from error


def with_static(entry: ProgramEntry, batches: Sequence[int]) -> ProgramEntry:
    """Return the entry with the static shapes of these batch sizes alone."""
    files = tuple(file for file in entry.static_files if file.batch in batches)
    return entry.model_copy(update={"static_files": files})


def _load(
    artifact: Artifact, entry: ProgramEntry, outputs: Outputs, recipe: Recipe, mates: Sequence[str]
) -> LoadedProgram:
    threads = recipe.evaluation.compute_threads
    largest = recipe.model.max_batch_size or recipe.evaluation.largest_batch
    dynamic = programs.load_entry(artifact, with_static(entry, ()), threads)
    difference = reference.check_and_record(dynamic.run, outputs.expected, outputs.computed)
    # One item alone runs other kernels than a batch, and rounds the same tensors.
    difference = max(difference, reference.check(dynamic.run, outputs.expected, 1))
    if not (apart := reference.apart(dynamic.run, outputs.computed)) <= reference.MAX_ROUNDING:
        raise CompressionError(
            "the compiled program does not compute each item by itself: its outputs for single "
            f"items differ from those in a batch by {apart:.3g} of their spread, expected "
            f"{reference.MAX_ROUNDING:g} at most. Try another kind in programs.kinds, or another "
            "scheme"
        )
    # GPUs compute float32 products in fewer bits, and otherwise at another batch size.
    rounded = entry.quantized_operators > 0 or entry.target.startswith("cuda-")
    reference.check_items(dynamic.run, outputs.expected, mates, largest, rounded=rounded)
    to_stdout(
        f"measure  the program computes what it was made from, up to {difference:.2g} of the "
        "outputs' spread"
    )
    working = []
    for batch in (file.batch for file in entry.static_files):
        try:
            static = programs.load_entry(artifact, with_static(entry, (batch,)), threads)
            reference.check(static.run, outputs.computed, batch)
            reference.check_items(static.run, outputs.expected, mates, batch, rounded=rounded)
        except (ProgramError, CompressionError) as error:
            to_stdout(f"measure  static shapes for batch {batch} do not work: {error}")
        else:
            working.append(batch)
    if not working:
        return LoadedProgram(dynamic, difference, None)
    static = programs.load_entry(artifact, with_static(entry, working), threads)
    return LoadedProgram(dynamic, difference, static)
