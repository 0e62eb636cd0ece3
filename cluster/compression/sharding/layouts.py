"""Layouts of the recipe: cuts balanced by measured costs, then measured as built.

check: recipe.parallel, before training → PlanError, if the model cannot be cut like this
build: recipe.parallel ─→ kind → files, costs → balanced → shards → one_layout's process
                                    ↑                                    │ a stage is too slow
                                    └── costs of its operators, scaled ──┘

Compilers fuse operators and choose memory layouts, which costs of single operators do not show. So
costs are scaled by the measured time of the stages, and the model is cut again.
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import geometric_mean

from safetensors.torch import save_file

from cluster.artifact.artifact import describe
from cluster.artifact.entries import ProgramEntry
from cluster.artifact.layout import Layout, Profile, Shard, name_of
from cluster.artifact.manifest import Manifest
from cluster.compression.draft import Draft
from cluster.compression.evaluation import reference
from cluster.compression.evaluation.fresh_process import run_in_process
from cluster.compression.evaluation.one_layout import LayoutResult, LayoutTask
from cluster.compression.indexing.limits import Limits
from cluster.compression.programs import builder
from cluster.compression.programs.files import ProgramFiles
from cluster.compression.sharding.cutting import COST_BATCH, BuiltShard, Cuttable, Sliced, Traced
from cluster.compression.sharding.profile import profile, tensor_profile
from cluster.compression.work import Job, Work
from cluster.config.parallel import ParallelBuild
from cluster.config.recipe import Recipe
from cluster.errors import CompressionError, PlanError
from cluster.models import LoadedModel
from cluster.parallel import graph, tensor
from cluster.parallel.balance import balance
from cluster.parallel.link import LOOPBACK

ATTEMPTS = 4
"""Largest number of cuts of one model, to balance its stages."""

BALANCED = 0.03
"""Excess of the slowest stage over the mean, as a share, that is accepted as balanced."""


def check(model: LoadedModel, recipe: Recipe) -> None:
    """Check before any training that the model can be cut as the recipe says.

    PlanError, naming the layout, if it has too few places to cut or no such slices. Steps may
    change the model, so :func:`build` checks again.
    """
    if not recipe.parallel:
        return
    places = len(graph.cuts(graph.trace(model.module.eval(), model.inputs).graph))
    for position, cut in enumerate(recipe.parallel):
        if cut.pipeline > places + 1:
            raise PlanError(
                f"parallel[{position}]: pipeline={cut.pipeline} needs {cut.pipeline - 1} cuts, "
                f"the model has {places} places to cut; use at most {places + 1} stages"
            )
        if cut.tensor > 1:
            try:
                plan = tensor.plan_for(model.module, cut.slices)
                tensor.check_degree(model.module, plan, cut.tensor)
            except PlanError as error:
                raise PlanError(f"parallel[{position}]: {error}") from error


def build(draft: Draft, job: Job) -> Draft:
    """Return the draft with the recipe's layouts and the profile of the model.

    CompressionError if a layout cannot be built, or does not compute the model; PlanError if the
    model has too few places to cut.
    """
    for cut in job.recipe.parallel:
        target = cut.target or job.recipe.programs[0].target
        kind = cut.kind or _kind(draft.manifest, target, cut)
        job.out(f"cut      {name_of(cut.pipeline, cut.tensor)} of {kind} for {target}")
        layout = _balance(draft, _cuttable(draft, kind, target, cut, job), cut, job)
        draft = draft.update(layouts=(*draft.manifest.layouts, layout))
    return draft.update(profile=_profile(draft, job))


def _profile(draft: Draft, job: Job) -> Profile | None:
    """Return the profile of the whole model; None, with a message, if it cannot be traced."""
    work = draft.work
    model = Traced("exported", "", (work,), draft.manifest.outputs, job, Limits(work.inputs))
    slices = next((cut.slices for cut in job.recipe.parallel if cut.slices is not None), None)
    try:
        return profile(model, tensor_profile(model, work.module, slices))
    except PlanError as error:
        job.out(f"cut      no profile: {error}")
        return None


def _kind(manifest: Manifest, target: str, cut: ParallelBuild) -> str:
    """Return the fastest measured kind that can be cut like this."""
    able = ("aoti", "exported") if cut.tensor > 1 else ("aoti", "openvino", "exported")
    kinds = [
        (measurement.typical_ms, key.rpartition("/")[2])
        for key, measurement in manifest.measured.items()
        if key.startswith(f"{target}/") and key.rpartition("/")[2] in able
    ]
    return min(kinds)[1] if kinds else "aoti"


def _cuttable(draft: Draft, kind: str, target: str, cut: ParallelBuild, job: Job) -> Cuttable:
    work, outputs = draft.work, draft.manifest.outputs
    if kind == "openvino":
        whole = next((e for e in draft.manifest.programs if e.key == f"{target}/{kind}"), None)
        if whole is None:
            raise PlanError(
                f"kind openvino is cut out of the whole program, but {target} has no openvino "
                "program; add openvino to programs.kinds, or use aoti"
            )
        if whole.index_checks:
            raise PlanError(
                "kind openvino cannot be cut, because the model computes indices, whose checks "
                "cross the cuts; use aoti"
            )
        return Sliced(work, outputs, whole, ProgramFiles(draft.folder, "programs", target))
    ranks: tuple[Work, ...] = (work,)
    if cut.tensor > 1:
        plan = tensor.plan_for(work.module, cut.slices)
        ranks = tuple(
            replace(work, module=tensor.shard_module(work.module, plan, rank, cut.tensor))
            for rank in range(cut.tensor)
        )
    limits = Limits.of(work.inputs, draft.manifest.index_limits)
    return Traced(kind, target, ranks, outputs, job, limits)


def _balance(draft: Draft, model: Cuttable, cut: ParallelBuild, job: Job) -> Layout:
    """Build the layout, at most :data:`ATTEMPTS` times, and return the most balanced one."""
    segment_of = model.segment_of()
    work = [0.0] * (len(model.cuts) + 1)
    for name, milliseconds in model.operator_ms.items():
        work[segment_of[name]] += milliseconds
    crossing = [LOOPBACK.ms(place.item_bytes * COST_BATCH) for place in model.cuts]
    best: _Attempt | None = None
    tried: set[tuple[int, ...]] = set()
    for number in range(ATTEMPTS):
        chosen = balance(work, crossing, cut.pipeline)
        if chosen in tried:
            break
        tried.add(chosen)
        attempt = _attempt(draft, model, cut, chosen, number, job)
        if best is None or attempt.imbalance < best.imbalance:
            best, worse = attempt, best
        else:
            worse = attempt
        if worse is not None:
            shutil.rmtree(draft.folder / worse.folder)
        if attempt.imbalance <= BALANCED or cut.pipeline == 1:
            break
        work = _rescale(work, chosen, attempt.stage_ms)
    if best is None:
        raise ValueError(f"no attempt of {ATTEMPTS} was made")
    job.out(f"cut      slowest stage {best.imbalance:.1%} over the mean")
    return best.layout


@dataclass(frozen=True)
class _Attempt:
    layout: Layout
    folder: str
    stage_ms: tuple[float, ...]

    @property
    def imbalance(self) -> float:
        """Excess of the slowest stage over the mean, as a share."""
        return max(self.stage_ms) / (sum(self.stage_ms) / len(self.stage_ms)) - 1


def _attempt(
    draft: Draft, model: Cuttable, cut: ParallelBuild, chosen: Sequence[int], number: int, job: Job
) -> _Attempt:
    name = f"{model.target}.{model.kind}.{name_of(cut.pipeline, cut.tensor)}"
    folder = f"shards/{name}/cut-{number}"
    (draft.folder / folder).mkdir(parents=True)
    key = f"{model.target}/{model.kind}"
    static = _static_batches(draft.manifest, key) if cut.tensor == 1 else ()
    files = [
        [
            ProgramFiles(draft.folder, folder, f"stage-{s}.rank-{r}", static)
            for r in range(cut.tensor)
        ]
        for s in range(cut.pipeline)
    ]
    built = model.build([model.cuts[index] for index in chosen], files)
    layout = _layout(draft.folder, model, cut, chosen, files, built)
    draft.update(layouts=(*draft.manifest.layouts, layout)).write()
    measured = _measure(draft, layout, job)
    shards = tuple(
        shard.model_copy(update={"latency": measured.stages[shard.stage]})
        for shard in layout.shards
    )
    stage_ms = tuple(geometric_mean(e.p50_ms for e in entries) for entries in measured.stages)
    return _Attempt(layout.model_copy(update={"shards": shards}), folder, stage_ms)


def _static_batches(manifest: Manifest, key: str) -> tuple[int, ...]:
    """Return the batch sizes for which the whole program has static shapes, as they are faster."""
    whole = next((entry for entry in manifest.programs if entry.key == key), None)
    return () if whole is None else tuple(file.batch for file in whole.static_files)


def _layout(
    artifact: Path,
    model: Cuttable,
    cut: ParallelBuild,
    chosen: Sequence[int],
    files: Sequence[Sequence[ProgramFiles]],
    built: Sequence[Sequence[BuiltShard]],
) -> Layout:
    """Write the weights of the shards, and return the layout, not yet measured."""
    cuts = [model.cuts[index] for index in chosen]
    segments = profile(model).segments
    borders = [-1, *chosen, len(segments) - 1]
    shards = []
    for stage, ranks in enumerate(built):
        parts = segments[borders[stage] + 1 : borders[stage + 1] + 1]
        for rank, shard in enumerate(ranks):
            weights = files[stage][rank].name("safetensors")
            save_file(shard.weights, artifact / weights)
            shards.append(
                Shard(
                    stage=stage,
                    tp_rank=rank,
                    program=shard.entry,
                    outputs=shard.outputs,
                    weights=weights,
                    weight_bytes=_loaded_bytes(shard.entry, artifact),
                    activation_bytes=max(segment.activation_bytes for segment in parts),
                )
            )
    return Layout(
        target=model.target,
        kind=model.kind,
        pipeline=cut.pipeline,
        tensor=cut.tensor,
        crossing=(model.inputs, *(place.specs for place in cuts), model.outputs),
        after=tuple(place.after for place in cuts),
        shards=tuple(shards),
        reduces=model.reduces(chosen),
        reduced_bytes=model.reduced_bytes,
    )


def _loaded_bytes(entry: ProgramEntry, artifact: Path) -> int:
    return sum(describe(artifact / name).size_bytes for name in entry.loaded_files)


def _measure(draft: Draft, layout: Layout, job: Job) -> LayoutResult:
    settings = job.recipe.evaluation
    task = LayoutTask(
        artifact=draft.folder,
        layout=layout.key,
        expected=_expected(draft, layout, job),
        batches=settings.batches,
        repeats=settings.repeats,
        compute_threads=settings.compute_threads,
        result=job.workspace / "found-layout.json",
    )
    ended = run_in_process("one_layout", task, task.result, job.workspace, job.out)
    if ended.failure is not None:
        raise CompressionError(
            f"layout {layout.key} does not work: {ended.failure}\n{''.join(ended.tail)}"
        )
    return LayoutResult.model_validate_json(task.result.read_text())


def _expected(draft: Draft, layout: Layout, job: Job) -> Path:
    """Return the file of the whole program's outputs, or of the module's if it was not built."""
    key = f"{layout.target}/{layout.kind}"
    if (computed := draft.outputs_of(key).computed).is_file():
        return computed
    module = builder.BUILDERS[layout.kind].source(draft.work)
    return draft.record_expected(key, module, job.probes, reference.MAX_ROUNDING).expected


def _rescale(
    work: Sequence[float], chosen: Sequence[int], stage_ms: Sequence[float]
) -> list[float]:
    """Return the costs, scaled so that each stage sums to its measured time."""
    borders = [-1, *chosen, len(work) - 1]
    scaled: list[float] = []
    for stage, measured in enumerate(stage_ms):
        costs = work[borders[stage] + 1 : borders[stage + 1] + 1]
        estimate = sum(costs)
        scaled += [
            cost * measured / estimate if estimate else measured / len(costs) for cost in costs
        ]
    return scaled
