"""One run of the compression job, from the recipe to a published artifact or a refusal.

    recipe ─ key ─→ built before? ─→ that artifact
                 └→ Job: model, data → trained → baseline → other steps ┐
                        ┌──────────────── CompressedModel ──────────────┤
                        ↓                                               ↓
          packaging: programs, gate → artifact      search → Front: best model, Pareto front

Everything is written below one directory of the store, which is deleted with the job. An artifact
leaves it by one rename. Checkpoints and the search's journal lie in a directory of their own, where
the same job finds them after a kill.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from hashlib import sha256

from safetensors import SafetensorError
from safetensors.torch import save_file

from cluster.artifact.artifact import Artifact
from cluster.artifact.store import ArtifactStore
from cluster.compression import (
    feasibility,
    labels,
    meaning,
    origin,
    packaging,
    source_check,
    steps,
)
from cluster.compression.front import Front
from cluster.compression.launch import Launcher
from cluster.compression.packaging import CompressedModel, Rejection
from cluster.compression.programs import builder, requirements
from cluster.compression.record import StepRecord
from cluster.compression.search import search
from cluster.compression.sharding import layouts
from cluster.compression.work import Clock, Job, Work
from cluster.config.recipe import Recipe
from cluster.data import load_data
from cluster.errors import CompressionError
from cluster.models import copy_of, load_model
from cluster.progress import Print


@dataclass(frozen=True)
class Outcome:
    """Result of the job: the artifact, or None and the rejected build's report."""

    artifact: Artifact | None
    report: str = ""
    """Location of the report, in the store; of the last one that a search's gate rejects."""


def run(
    recipe: Recipe,
    store: ArtifactStore,
    out: Print,
    launcher: Launcher | None = None,
    clock: Clock | None = None,
) -> Outcome:
    """Build the recipe's artifact, unless the store has it already.

    ``launcher`` runs data-parallel training and trials; None runs them in this process.

    SourceError if the model or data source cannot be used. CompressionError if a step or program
    fails. After an error the store holds nothing new except models of a search's front.
    """
    requirements.check(recipe.programs)
    feasibility.check_recipe(recipe, out)
    data = load_data(recipe.data, recipe.seed)
    labels.check(recipe, data)
    identity = origin.of(recipe, data, store)
    key = sha256(f"{identity}\n{recipe.model_dump_json()}".encode()).hexdigest()
    with store.building(key) as workspace:  # a second job of the same recipe waits here
        if (artifact := store.find_build(key)) is not None:
            out(f"artifact {artifact.id} already exists: this recipe was built before")
            return Outcome(artifact)
        out(f"recipe   {recipe.name}: {recipe.model.source}")
        builder.start(recipe)
        try:
            job = Job.load(
                recipe,
                store,
                workspace=workspace,
                checkpoints=store.checkpoints(key),
                out=out,
                launcher=launcher,
                data=data,
                identity=identity,
                clock=clock,
            )
            outcome = _build(job, key)
        except (OSError, SafetensorError) as error:
            raise CompressionError(
                f"the job cannot read or write its files: {error}; the artifact was not "
                "published. Free space in the store, or choose another store"
            ) from error
        store.drop_checkpoints(key)
        return outcome


def _build(job: Job, key: str) -> Outcome:
    layouts.check(job.model, job.recipe)
    feasibility.check_model(job.recipe, job.model)
    feasibility.check_disk(job.recipe, job.model.module, job.workspace)
    job.out(
        f"data     {len(job.train)} training, {len(job.validation)} validation and "
        f"{len(job.data.test)} held-out samples"
    )
    meaning.check(job.recipe, job.data, job.model)
    job = job.checked()
    job = replace(job, source_check=source_check.check(job))
    job, work, records = _compressed(job)
    if job.recipe.search is None:
        build = packaging.build(CompressedModel(job.recipe.name, key, work, records), job)
        published = build if isinstance(build, Rejection) else packaging.publish(build, job)
    else:
        with job.clock.phase("search"):
            result = search.run(job.recipe.search, work, job)
        published = Front(result, key, records, job).publish()
    if isinstance(published, Rejection):
        return Outcome(None, published.report)
    return Outcome(published)


def _compressed(job: Job) -> tuple[Job, Work, tuple[StepRecord, ...]]:
    """Run the recipe's steps. Return the job with its baseline, the model and the records."""
    split = steps.leading_training(job.recipe.steps)
    leading, rest = job.recipe.steps[:split], job.recipe.steps[split:]
    with job.clock.phase("train"):
        work = Work.of(job.model.module, job.model.inputs)
        work, trained = steps.run_cached(work, (), leading, job)
    baseline = _baseline(work, job)
    save_file(baseline.weights(), job.baseline_weights)
    job = job.with_baseline(baseline.module)
    with job.clock.phase("compress"):
        quantizing = steps.float_steps(rest)
        work, shrunk = steps.run_cached(work, leading, rest[:quantizing], job)
        work, quantized = steps.run(work, rest[quantizing:], job)
    return job, work, (*trained, *shrunk, *quantized)


def _baseline(work: Work, job: Job) -> Work:
    """Return the model to compare with: the trained model, or the teacher that it replaces."""
    if job.recipe.baseline_source == job.recipe.model:
        return Work.of(copy_of(work.module), work.inputs)
    teacher = load_model(job.recipe.baseline_source, job.data.labels)
    return Work.of(teacher.module, teacher.inputs)
