"""Compiling the finished model: for each target the kinds of program that compete for it.

start  → what can be compiled beside the training, in the background
build  → Work ─ each target, each kind ─→ BUILDERS[kind] → programs/TARGET... → Built
trim   → Built, measured → the files that nothing will load are deleted
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from cluster.artifact.artifact import WEIGHTS
from cluster.artifact.entries import ProgramEntry
from cluster.compression.programs import aoti, eager, exported, native_runner, openvino
from cluster.compression.programs.place import Place
from cluster.compression.programs.requirements import kinds_of
from cluster.compression.work import StepContext, Work
from cluster.config.recipe import Recipe
from cluster.errors import CompressionError

Wait = Callable[[], Path]
"""Waits for what :func:`start` began and gives its path."""


@dataclass(frozen=True)
class ProgramBuilder:
    """How one kind of program is built."""

    supports: Callable[[Work, str, StepContext], str | None]
    """Why the kind cannot hold this model for this target, or None if it can."""

    build: Callable[[Work, str, Place, Wait, StepContext], ProgramEntry]
    """Compiles the model for the target into files of that place.

    CompressionError if the compiler fails."""

    start: Callable[[], Wait] | None = None
    """Begins what does not depend on the model; None if there is nothing."""


BUILDERS: dict[str, ProgramBuilder] = {
    "aoti": ProgramBuilder(aoti.supports, aoti.build, native_runner.start_build),
    "openvino": ProgramBuilder(openvino.supports, openvino.build),
    "exported": ProgramBuilder(exported.supports, exported.build),
    "eager": ProgramBuilder(eager.supports, eager.build),
}


@dataclass(frozen=True)
class Built:
    """The programs of a model."""

    entries: tuple[ProgramEntry, ...]
    failed: dict[str, str] = field(default_factory=dict)
    """``target/kind`` → why there is none, for kinds that the recipe did not ask for by name."""


def start(recipe: Recipe) -> dict[str, Wait]:
    """Begin, in the background, what the recipe's programs need besides the model; by kind."""
    kinds = {kind for program in recipe.programs for kind in kinds_of(program)}
    kinds |= {cut.kind or "aoti" for cut in recipe.parallel}
    return {kind: begin() for kind in kinds if (begin := BUILDERS[kind].start) is not None}


def build(
    work: Work, recipe: Recipe, workspace: Path, started: Mapping[str, Wait], context: StepContext
) -> Built:
    """Compile every program of the recipe into ``workspace/programs``.

    ``started``: what :func:`start` returned. CompressionError if a kind that the recipe names
    cannot be built, or none of a target can.
    """
    (workspace / "programs").mkdir()
    context = replace(context, recipe=recipe)
    entries: list[ProgramEntry] = []
    failed: dict[str, str] = {}
    for program in recipe.programs:
        before = len(entries)
        place = Place(workspace, "programs", program.target, recipe.evaluation.batches)
        for kind in kinds_of(program):
            key = f"{program.target}/{kind}"
            try:
                entries.append(build_one(work, kind, program.target, place, started, context))
            except CompressionError as error:
                if program.kinds is not None:
                    raise CompressionError(f"program {key} cannot be built: {error}") from error
                failed[key] = str(error)
                context.out(f"compile  no {kind} for {program.target}: {error}")
        if len(entries) == before:
            reasons = "; ".join(reason for key, reason in failed.items())
            raise CompressionError(f"no program can be built for {program.target}: {reasons}")
    return Built(tuple(entries), failed)


def build_one(
    work: Work, kind: str, target: str, place: Place, started: Mapping[str, Wait],
    context: StepContext,
) -> ProgramEntry:  # fmt: skip
    """Compile one program; CompressionError if the kind cannot hold the model, or does not compile.

    ``started``: what :func:`start` returned, of this kind at least.
    """
    builder = BUILDERS[kind]
    if (reason := builder.supports(work, target, context)) is not None:
        raise CompressionError(reason)
    context.out(f"compile  {kind} for {target}")
    nothing: Wait = lambda: place.workspace  # noqa: E731
    return builder.build(work, target, place, started.get(kind, nothing), context)


def trim(
    entries: Iterable[ProgramEntry],
    working: Collection[str],
    static: Mapping[str, Collection[int]],
    workspace: Path,
) -> tuple[ProgramEntry, ...]:
    """The entries whose key is in ``working``, each with static shapes for those batches alone.

    Files that none of them loads any more are deleted; the weights stay.
    """
    entries = tuple(entries)
    kept = tuple(
        entry.model_copy(
            update={
                "static_files": tuple(
                    each for each in entry.static_files if each.batch in static.get(entry.key, ())
                )
            }
        )
        for entry in entries
        if entry.key in working
    )
    for name in _files(entries) - _files(kept) - {WEIGHTS}:
        (workspace / name).unlink(missing_ok=True)
    return kept


def _files(entries: Iterable[ProgramEntry]) -> set[str]:
    runners = {entry.native_runner for entry in entries if entry.native_runner is not None}
    return runners.union(*(entry.loaded_files for entry in entries))
