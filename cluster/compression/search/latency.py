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
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from safetensors.torch import save_file

from cluster.artifact.artifact import MANIFEST, WEIGHTS, Artifact, describe
from cluster.artifact.entries import ProgramEntry
from cluster.artifact.manifest import Manifest
from cluster.compression.evaluation.measure import Run, latencies
from cluster.compression.programs import builder
from cluster.compression.work import StepContext, Work
from cluster.config.recipe import ProgramBuild, ProgramKindName
from cluster.config.sources import ImageInput, TextInput
from cluster.config.steps import Step
from cluster.errors import CompressionError
from cluster.models import LoadedModel
from cluster.program import program as programs

KINDS: tuple[ProgramKindName, ...] = ("openvino", "aoti", "exported", "eager")
"""In the order in which a trial takes them: OpenVINO compiles in seconds, AOTInductor in tens."""


@dataclass(frozen=True)
class Timed:
    """What one program measured."""

    latency_ms: float
    """Median, on a machine as busy as it was when the reference was first measured."""

    size_bytes: int


@dataclass(frozen=True)
class Reference:
    """The uncompressed model's program, and the latency that it was first measured with."""

    folder: Path
    latency_ms: float


def measure(
    work: Work, steps: Sequence[Step], model: LoadedModel, folder: Path, batch: int,
    reference: Reference | None, context: StepContext,
) -> Timed:  # fmt: skip
    """Compile ``work`` into the new directory ``folder`` and time it at ``batch``.

    ``steps``: what was done to ``model`` after the recipe's own steps. CompressionError if no kind
    of program that the recipe allows can be built.
    """
    shutil.rmtree(folder, ignore_errors=True)  # left by a process that was killed
    folder.mkdir(parents=True)
    save_file(work.weights(), folder / WEIGHTS)
    for name, content in model.files.items():
        (folder / name).write_bytes(content)
    artifact = _artifact(work, steps, model, folder, context)
    entry = artifact.manifest.programs[0]
    runs = {"trial": _run(artifact, context)}
    if reference is not None:
        runs["reference"] = _run(Artifact.read(reference.folder), context)
    timed = latencies(
        runs, context.validation, (batch,), context.recipe.evaluation.repeats, lambda line: None
    )
    latency = timed["trial"][0].p50_ms
    if reference is not None:
        latency *= reference.latency_ms / timed["reference"][0].p50_ms
    files = (entry.file, *entry.other_files)
    return Timed(latency, sum((folder / name).stat().st_size for name in files))


def _artifact(
    work: Work, steps: Sequence[Step], model: LoadedModel, folder: Path, context: StepContext
) -> Artifact:
    """What loading a program needs: a directory like an artifact's, not measured and not proved."""
    entry = _built(work, folder, context)
    recipe = context.recipe.model_copy(
        update={"steps": (*context.recipe.steps, *steps), "search": None}
    )
    files = [path for path in sorted(folder.rglob("*")) if path.is_file()]
    manifest = Manifest(
        name=recipe.name,
        recipe=recipe.model_dump(mode="json"),
        recipe_key="0" * 64,  # of no build
        inputs=model.inputs,
        outputs=model.outputs,
        image=model.preprocess if isinstance(model.preprocess, ImageInput) else None,
        text=model.preprocess if isinstance(model.preprocess, TextInput) else None,
        labels=model.labels,
        files={str(path.relative_to(folder)): describe(path) for path in files},
        programs=(entry,),
        quantized_operators=work.quantized_operators,
    )
    (folder / MANIFEST).write_bytes(manifest.to_json())
    return Artifact(folder, manifest, None)


def _built(work: Work, folder: Path, context: StepContext) -> ProgramEntry:
    """The program of the first kind that can be built for the recipe's first target."""
    wanted = context.recipe.programs[0]
    reasons, cause = list[str](), None
    for kind in KINDS:
        if kind not in (wanted.kinds or ("openvino", "aoti")):
            continue
        only = (ProgramBuild(target=wanted.target, kinds=(kind,)),)
        recipe = context.recipe.model_copy(update={"programs": only, "parallel": ()})
        shutil.rmtree(folder / "programs", ignore_errors=True)
        try:
            built = builder.build(work, recipe, folder, builder.start(recipe), context)
        except CompressionError as error:
            reasons.append(f"{kind}: {error}")
            cause = error
            continue
        if built.entries:
            return built.entries[0]
        reasons += [f"{kind}: {reason}" for reason in built.failed.values()]
    raise CompressionError(
        f"no program can be compiled for {wanted.target}: {'; '.join(reasons)}; name a kind that "
        "can in programs.kinds, or leave the scheme out of search.space.schemes"
    ) from cause


def _run(artifact: Artifact, context: StepContext) -> Run:
    threads = context.recipe.evaluation.compute_threads
    program = programs.load_entry(artifact, artifact.manifest.programs[0], threads)

    def run(arrays: list[np.ndarray]) -> np.ndarray:
        return program.run(arrays)[0]

    return run
