"""Latency and bytes of a trial's model, as the compiled program that a replica would load.

    Work → builder.build, one kind → program.load_entry ─┬─ in turn → median, bytes
                        the uncompressed model's program ┘

A trial takes the kind that compiles in seconds where it can; the finished artifact gets all kinds
of the recipe. The uncompressed model's program is kept and timed beside every other, so that a
machine that is busier now than it was then slows both.
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from cluster.artifact.artifact import Artifact
from cluster.artifact.entries import ProgramEntry
from cluster.compression.draft import Draft
from cluster.compression.evaluation.measure import Run, latencies
from cluster.compression.programs import builder
from cluster.compression.work import Job, Work
from cluster.config.recipe import ProgramBuild, ProgramKindName
from cluster.config.steps import Step
from cluster.errors import CompressionError
from cluster.program import program as programs

KINDS: tuple[ProgramKindName, ...] = ("openvino", "aoti", "exported", "eager")
"""Order of preference of a trial: OpenVINO compiles in seconds, AOTInductor in tens of seconds."""

NO_KEY = "0" * 64
"""Recipe key of a draft that is never published."""


@dataclass(frozen=True)
class Timed:
    """Measurements of one program."""

    latency_ms: float
    """Median, on a machine as busy as it was when the reference was first measured."""

    size_bytes: int


@dataclass(frozen=True)
class Reference:
    """The uncompressed model's program, and the latency that it was first measured with."""

    folder: Path
    latency_ms: float


def measure(
    work: Work,
    steps: Sequence[Step],
    folder: Path,
    batch: int,
    reference: Reference | None,
    job: Job,
) -> Timed:
    """Compile ``work`` into the new directory ``folder`` and time it at ``batch``.

    ``steps``: those after the recipe's own. CompressionError if no kind of program that the recipe
    allows can be built.
    """
    shutil.rmtree(folder, ignore_errors=True)  # left by a process that was killed
    folder.mkdir(parents=True)
    draft = Draft.begin(folder, work, job, job.recipe.name, NO_KEY, steps)
    entry = _built(work, folder, job)
    draft = draft.update(programs=(entry,)).write()
    runs = {"trial": _run(Artifact(folder, draft.manifest, None), job)}
    if reference is not None:
        runs["reference"] = _run(Artifact.read(reference.folder), job)
    timed = latencies(
        runs, job.validation, (batch,), job.recipe.evaluation.repeats, lambda line: None
    )
    latency = timed["trial"][0].p50_ms
    if reference is not None:
        latency *= reference.latency_ms / timed["reference"][0].p50_ms
    files = (entry.file, *entry.other_files)
    return Timed(latency, sum((folder / name).stat().st_size for name in files))


def _built(work: Work, folder: Path, job: Job) -> ProgramEntry:
    """Return the program of the first kind that can be built for the recipe's first target."""
    wanted = job.recipe.programs[0]
    reasons, cause = list[str](), None
    for kind in KINDS:
        if kind not in (wanted.kinds or ("openvino", "aoti")):
            continue
        only = (ProgramBuild(target=wanted.target, kinds=(kind,)),)
        recipe = job.recipe.model_copy(update={"programs": only, "parallel": ()})
        shutil.rmtree(folder / "programs", ignore_errors=True)
        try:
            programs = builder.build(work, folder, replace(job, recipe=recipe))
        except CompressionError as error:
            reasons.append(f"{kind}: {error}")
            cause = error
            continue
        if programs.entries:
            return programs.entries[0]
        reasons += [f"{kind}: {reason}" for reason in programs.failed.values()]
    raise CompressionError(
        f"no program can be compiled for {wanted.target}: {'; '.join(reasons)}; name a kind that "
        "can in programs.kinds, or leave the scheme out of search.space.schemes"
    ) from cause


def _run(artifact: Artifact, job: Job) -> Run:
    threads = job.recipe.evaluation.compute_threads
    program = programs.load_entry(artifact, artifact.manifest.programs[0], threads)

    def run(arrays: list[np.ndarray]) -> np.ndarray:
        return program.run(arrays)[0]

    return run
