"""Compilation of the finished model: for each target the kinds of program that compete for it.

start  → compiles the native runner in the background, during the training
build  → Work ─ each target, each kind ─→ BUILDERS[kind] → programs/TARGET... → Programs
trim   → entries, measured → deletes the files that no program loads
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import torch

from cluster.artifact.artifact import WEIGHTS
from cluster.artifact.entries import ProgramEntry
from cluster.compression.indexing import checked_work
from cluster.compression.indexing.checked_work import CheckedWork
from cluster.compression.programs import aoti, eager, exported, native_runner, openvino
from cluster.compression.programs.files import ProgramFiles
from cluster.compression.programs.requirements import kinds_of
from cluster.compression.work import Job, Work
from cluster.config.recipe import Recipe
from cluster.errors import CompressionError
from cluster.program.pytorch import device_of
from cluster.tensors import IndexRange


@dataclass(frozen=True)
class ProgramBuilder:
    """Builder of one kind of program."""

    refusal: Callable[[str | None, str, Recipe], str | None]
    """Returns why the kind cannot hold a model of this scheme, None for float32, for this target;
    None if it can."""

    build: Callable[[Work, str, ProgramFiles, Job], ProgramEntry]
    """Compiles the model for the target into these files; CompressionError if that fails."""

    endangers: Callable[[CheckedWork, str], str | None]
    """Returns why an index out of range could harm a program for this target, or None."""

    source: Callable[[Work], torch.nn.Module] = lambda work: work.module
    """Returns the module that the program is made from, and must compute."""


def _compiled(checked: CheckedWork, target: str) -> str | None:
    if checked.unchecked is None:
        return None
    return (
        f"{checked.unchecked}: a value out of range would end the whole process. Change the "
        "model's forward, or set programs.kinds: [exported], whose programs report it"
    )


def _narrow(checked: CheckedWork, target: str) -> str | None:
    if checked.wide is None:
        return _compiled(checked, target)
    return (
        f"{checked.wide} is computed from integers of up to 64 bits, and OpenVINO computes in 32; "
        "use aoti, or clamp the integers to the table in the model's forward"
    )


def _interpreted(checked: CheckedWork, target: str) -> str | None:
    if device_of(target) == "cpu":
        return None  # an operator of PyTorch raises an error, for its batch alone
    if checked.exported and not checked.computed:
        return _compiled(checked, target)
    return (
        "the model computes indices that are not known before it runs, and one out of range would "
        "make the GPU unusable for the process; use aoti"
    )


BUILDERS: dict[str, ProgramBuilder] = {
    "aoti": ProgramBuilder(aoti.refusal, aoti.build, _compiled),
    "openvino": ProgramBuilder(
        openvino.refusal, openvino.build, _narrow, source=lambda work: work.float_module
    ),
    "exported": ProgramBuilder(exported.refusal, exported.build, _interpreted),
    "eager": ProgramBuilder(eager.refusal, eager.build, _interpreted),
}


@dataclass(frozen=True)
class Programs:
    """Programs of a model."""

    entries: tuple[ProgramEntry, ...]
    index_limits: dict[str, tuple[IndexRange, ...]] = field(default_factory=dict)
    """See :class:`cluster.artifact.manifest.Manifest`."""

    failed: dict[str, str] = field(default_factory=dict)
    """``target/kind`` → the reason, for kinds that the recipe does not name."""


def start(recipe: Recipe) -> None:
    """Start to compile in the background code that programs need besides the model."""
    kinds = {kind for program in recipe.programs for kind in kinds_of(program)}
    if "aoti" in kinds | {cut.kind or "aoti" for cut in recipe.parallel}:
        native_runner.start_build()


def check(recipe: Recipe) -> None:
    """Raise CompressionError if a kind that the recipe names cannot hold its scheme.

    A search chooses the scheme itself.
    """
    if recipe.search is not None:
        return
    schemes = [step.scheme for step in recipe.steps if step.kind == "quantize"]
    scheme = schemes[-1] if schemes else None
    for program in recipe.programs:
        for kind in program.kinds or ():
            if (reason := BUILDERS[kind].refusal(scheme, program.target, recipe)) is not None:
                raise _cannot_be_built(f"{program.target}/{kind}", reason)


def _cannot_be_built(key: str, reason: object) -> CompressionError:
    return CompressionError(f"program {key} cannot be built: {reason}")


def build(work: Work, artifact: Path, job: Job) -> Programs:
    """Compile every program of the recipe into the folder ``artifact/programs``.

    CompressionError if a kind in the recipe cannot be built, or if a target has no buildable kind.
    """
    (artifact / "programs").mkdir()
    entries: list[ProgramEntry] = []
    failed: dict[str, str] = {}
    checked = checked_work.of(work, job.recipe.model.max_batch_size)
    for program in job.recipe.programs:
        before = len(entries)
        batches = () if job.recipe.model.max_batch_size == 1 else job.recipe.evaluation.batches
        files = ProgramFiles(artifact, "programs", program.target, batches)
        for kind in kinds_of(program):
            key = f"{program.target}/{kind}"
            try:
                entries.append(build_one(checked, kind, program.target, files, job))
            except CompressionError as error:
                if program.kinds is not None:
                    raise _cannot_be_built(key, error) from error
                failed[key] = str(error)
                job.out(f"compile  no {kind} for {program.target}: {error}")
        if len(entries) == before:
            reasons = "; ".join(reason for key, reason in failed.items())
            raise CompressionError(f"no program can be built for {program.target}: {reasons}")
    return Programs(tuple(entries), checked.limits.ranges(), failed)


def build_one(
    checked: CheckedWork, kind: str, target: str, files: ProgramFiles, job: Job
) -> ProgramEntry:
    """Compile one program; CompressionError if the kind cannot hold the model or fails."""
    builder = BUILDERS[kind]
    reason = builder.refusal(checked.work.scheme, target, job.recipe)
    if (reason := reason or builder.endangers(checked, target)) is not None:
        raise CompressionError(reason)
    job.out(f"compile  {kind} for {target}")
    return builder.build(checked.work, target, files, job)


def trim(
    entries: Iterable[ProgramEntry],
    working: Collection[str],
    static: Mapping[str, Collection[int]],
    artifact: Path,
) -> tuple[ProgramEntry, ...]:
    """Return the entries with a key in ``working``, each with the static shapes of ``static`` only.

    Files that no entry loads are deleted; the weights stay.
    """
    entries = tuple(entries)
    trimmed = tuple(
        entry.model_copy(
            update={
                "static_files": tuple(
                    file for file in entry.static_files if file.batch in static.get(entry.key, ())
                )
            }
        )
        for entry in entries
        if entry.key in working
    )
    for name in _files(entries) - _files(trimmed) - {WEIGHTS}:
        (artifact / name).unlink(missing_ok=True)
    return trimmed


def _files(entries: Iterable[ProgramEntry]) -> set[str]:
    runners = {entry.native_runner for entry in entries if entry.native_runner is not None}
    return runners.union(*(entry.loaded_files for entry in entries))
