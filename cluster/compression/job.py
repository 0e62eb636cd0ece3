"""One run of the compression job, from the recipe to a published artifact or a refusal.

    recipe ─ key ─→ finished before? ─→ that artifact
                 └→ model, data → trained → baseline → other steps ┬→ candidate.build → artifact
                                                                   └→ search → its front, the best

Everything is written below one directory of the store, which goes away with the job: what
is to stay becomes an artifact by one rename. Checkpoints and the search's journal lie beside,
where the same job finds them after a kill.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from hashlib import sha256
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import save_file

from cluster.artifact.artifact import TOKENIZER, Artifact
from cluster.artifact.store import ArtifactStore
from cluster.compression import labels, origin, steps
from cluster.compression.candidate import Built, Candidate, Clock, Site, build, publish
from cluster.compression.launch import InProcess, Launcher
from cluster.compression.programs import builder, requirements
from cluster.compression.record import SearchRecord, StepRecord
from cluster.compression.search import search
from cluster.compression.sharding.check import check as check_cuts
from cluster.compression.work import StepContext, Work
from cluster.config.recipe import Recipe
from cluster.data import LabelledData, PreparedSamples, load_data
from cluster.data.samples import Samples
from cluster.errors import CompressionError
from cluster.models import LoadedModel, load_model
from cluster.progress import Print

MOST_BEGUN = 2
"""Times that a model of a search's front is begun, if the job dies every time."""


@dataclass(frozen=True)
class Outcome:
    """How the job ended. ``artifact`` is None when the gate refused the build."""

    artifact: Artifact | None


def run(
    recipe: Recipe, store: ArtifactStore, out: Print, launcher: Launcher | None = None
) -> Outcome:
    """Build what the recipe asks for, unless the store holds it already.

    ``launcher``: where data-parallel training and trials run; None keeps them in this process.
    Raises SourceError for a model or data source that cannot be used and CompressionError for
    a step or program that cannot be made; the store then holds nothing new, but perhaps models
    of a search's front.
    """
    requirements.check(recipe.programs)
    data = load_data(recipe.data, recipe.seed)
    labels.check(recipe, data)
    identity = origin.of(recipe, data, store)
    key = sha256(f"{identity}\n{recipe.model_dump_json()}".encode()).hexdigest()
    with store.building(key) as room:  # a second job of the same recipe waits here
        if (done := store.find_build(key)) is not None:
            out(f"artifact {done.id} exists already: this recipe was built before")
            return Outcome(done)
        out(f"recipe   {recipe.name}: {recipe.model.source}")
        try:
            artifact = _build(
                recipe, key, identity, data, store, store.checkpoints(key), room, out,
                launcher or InProcess(),
            )  # fmt: skip
        except (OSError, SafetensorError) as error:
            raise CompressionError(
                f"the job's files cannot be written or read: {error}; the artifact was not "
                "published. Free space in the store, or choose another one"
            ) from error
        store.drop_checkpoints(key)
        return Outcome(artifact)


def _build(
    recipe: Recipe, key: str, identity: str, data: LabelledData, store: ArtifactStore,
    kept: Path, room: Path, out: Print, launcher: Launcher,
) -> Artifact | None:  # fmt: skip
    scratch = room / "scratch"
    scratch.mkdir()
    clock = Clock()
    started = builder.start(recipe)
    torch.manual_seed(recipe.seed)  # a new head starts from it
    model = load_model(recipe.model, data.labels)
    check_cuts(model, recipe)
    context = _context(recipe, data, model, store, kept, out, launcher)
    out(
        f"data     {len(context.train)} training, {len(context.validation)} validation and "
        f"{len(data.test)} held-out samples"
    )
    work = Work.of(model.module, model.inputs)
    split = steps.leading_training(recipe.steps)
    leading, rest = recipe.steps[:split], recipe.steps[split:]
    with clock.phase("train"):
        work, trained = steps.made(work, (), leading, context, identity, scratch)
    original = _baseline(recipe, work, data)
    baseline = scratch / "baseline.safetensors"
    save_file(original.weights(), baseline)
    context = _with_baseline(context, original)
    with clock.phase("compress"):
        quantizing = steps.float_steps(rest)
        work, shrunk = steps.made(work, leading, rest[:quantizing], context, identity, scratch)
        work, quantized = steps.run(work, rest[quantizing:], context)
    site = Site(recipe, model, data, identity, baseline, scratch, room, started, clock)
    records = (*trained, *shrunk, *quantized)
    if recipe.search is None:
        built = build(Candidate(recipe.name, key, work, records), site, context)
        return None if built is None else publish(built, context)
    with clock.phase("search"):
        found = search.run(recipe.search, work, context)
    return _Choice(found, key, records, site, context).publish()


@dataclass(frozen=True)
class _Choice:
    """A finished search, and what its models become artifacts with."""

    found: search.Found
    key: str
    records: tuple[StepRecord, ...]
    """Of the recipe's own steps."""

    site: Site
    context: StepContext

    def publish(self) -> Artifact | None:
        """The best model of the search that passes the gate, and beside it the rest of the front.

        The search chose by validation samples and one program; the gate has the last word. What
        is published under the job's key ends the job, so the best is built first and comes last.
        """
        trials = iter(self.found.feasible)
        chosen = self._best(trials)
        if chosen is None:
            return None
        best, built = chosen
        names: dict[int, str] = {}
        for trial in trials:
            if trial.on_front and (name := self._beside(trial, best.number, names)) is not None:
                names[trial.number] = name
        names[best.number] = built.manifest.name
        return publish(built, self.context, self.found.record(best.number, names))

    def _best(self, trials: Iterator[search.Trial]) -> tuple[search.Trial, Built] | None:
        failure: CompressionError | None = None
        for trial in trials:
            record = self.found.record(trial.number, {})
            try:
                built = self._build(trial, self.context.recipe.name, self.key, record)
            except CompressionError as error:  # the search measured one kind of program
                self.context.out(f"trial {trial.number} cannot be built: {error}")
                failure = error
                continue
            if built is not None:
                return trial, built
        if failure is not None:
            raise failure
        return None

    def _beside(self, trial: search.Trial, chosen: int, names: Mapping[int, str]) -> str | None:
        """Publish a model of the front, unless a killed job has; its name, or None without one."""
        context = self.context
        name = f"{context.recipe.name}.front-{trial.number}"
        made_by = json.dumps([step.model_dump(mode="json") for step in trial.steps])
        key = sha256(f"{self.key} {trial.number} {made_by}".encode()).hexdigest()
        record = self.found.record(chosen, {**names, trial.number: name})
        begun = context.checkpoints / f"front-{trial.number}.begun"
        try:
            if (done := context.store.find_build(key)) is not None:
                context.out(f"artifact {done.id} exists already: {name}")
                return name
            # One that takes the job's process with it must not do so for ever.
            times = len(begun.read_text()) if begun.is_file() else 0
            if times == MOST_BEGUN:
                context.out(f"{name} is left out: the job died {times} times while it was built")
                return None
            begun.write_text("." * (times + 1))
            built = self._build(trial, name, key, record)
            if built is not None:
                publish(built, context, record)
            begun.unlink()
        # Whatever foreign code raises on this one, the best model waits to be published.
        except Exception as error:  # noqa: BLE001
            reason = f"{type(error).__name__}: {error}"
            context.out(f"{name} cannot be published: {reason}")
            begun.unlink(missing_ok=True)
            return None
        return name if built is not None else None

    def _build(
        self, trial: search.Trial, name: str, key: str, record: SearchRecord
    ) -> Built | None:
        work, made = trial.build(self.context)
        candidate = Candidate(name, key, work, (*self.records, *made), record, trial.steps)
        return build(candidate, self.site, self.context)


def _context(
    recipe: Recipe, data: LabelledData, model: LoadedModel, store: ArtifactStore, kept: Path,
    out: Print, launcher: Launcher,
) -> StepContext:  # fmt: skip
    def prepared(samples: Samples) -> PreparedSamples:
        return PreparedSamples(samples, model.inputs, model.preprocess, model.files.get(TOKENIZER))

    return StepContext(
        recipe=recipe,
        train=prepared(data.train),
        validation=prepared(data.validation),
        launcher=launcher,
        checkpoints=kept,
        store=store,
        out=out,
        baseline=lambda: copy.deepcopy(model.module).eval(),
    )


def _baseline(recipe: Recipe, work: Work, data: LabelledData) -> Work:
    """What the result is measured against: the model as it is now, or the teacher it is to
    replace."""
    if recipe.baseline_source == recipe.model:
        return Work.of(copy.deepcopy(work.module), work.inputs)
    teacher = load_model(recipe.baseline_source, data.labels)
    return Work.of(teacher.module, teacher.inputs)


def _with_baseline(context: StepContext, baseline: Work) -> StepContext:
    return replace(context, baseline=lambda: copy.deepcopy(baseline.module).eval())
