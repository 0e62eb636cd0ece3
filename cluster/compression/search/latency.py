"""Latency and bytes of a trial's model, as a compiled program like a replica's.

    Work → builder.build, one kind → program.load_entry ─┬─ in turn → median, bytes
                        the uncompressed model's program ┘

A trial uses the kind that compiles fastest; the finished artifact gets all kinds of the recipe. The
uncompressed model's program is timed again beside every other, so that a change of the machine's
load affects both.
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
class ProgramTiming:
    """Measurements of one program."""

    latency_ms: float
    """Median, scaled to the machine's load at the first measurement of the reference."""

    size_bytes: int


@dataclass(frozen=True)
class Reference:
    """Program of the uncompressed model, with its first measured latency."""

    folder: Path
    latency_ms: float


def measure(
    work: Work,
    steps: Sequence[Step],
    folder: Path,
    batch: int,
    reference: Reference | None,
    job: Job,
) -> ProgramTiming:
    """Compile ``work`` into the new directory ``folder`` and time it at ``batch``.

    ``steps``: the steps after the recipe's own. CompressionError if no kind of program that the
    recipe allows can be built.
    """
    shutil.rmtree(folder, ignore_errors=True)  # a killed process leaves one
    folder.mkdir(parents=True)
    draft = Draft.begin(folder, work, job, job.recipe.name, NO_KEY, steps)
    entry = _build_program(work, folder, job)
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
    return ProgramTiming(latency, sum((folder / name).stat().st_size for name in files))


def _build_program(work: Work, folder: Path, job: Job) -> ProgramEntry:
    """Return the program of the first kind that can be built for the recipe's first target."""
    target = job.recipe.programs[0]
    reasons, cause = list[str](), None
    for kind in KINDS:
        if kind not in (target.kinds or ("openvino", "aoti")):
            continue
        only = (ProgramBuild(target=target.target, kinds=(kind,)),)
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
        f"no program can be compiled for {target.target}: {'; '.join(reasons)}; add a kind that "
        "can be compiled to programs.kinds, or remove the scheme from search.space.schemes"
    ) from cause


def _run(artifact: Artifact, job: Job) -> Run:
    threads = job.recipe.evaluation.compute_threads
    program = programs.load_entry(artifact, artifact.manifest.programs[0], threads)

    def run(arrays: list[np.ndarray]) -> np.ndarray:
        return program.run(arrays)[0]

    return run
