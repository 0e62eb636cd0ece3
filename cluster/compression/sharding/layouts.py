"""The recipe's cuts, built: balanced by what was measured, then measured as built.

recipe.parallel ─→ kind → places, costs → balanced → shards → one_layout's process
                            ↑                                    │ a stage is too slow
                            └── costs of its operators, scaled ──┘

Compilers fuse and lay out what operators timed one by one do not show, so the first cut is rarely
the best: costs are scaled by what the stages took, and the model is cut again.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import geometric_mean

from safetensors.torch import save_file

from cluster.artifact.artifact import describe
from cluster.artifact.entries import ProgramEntry
from cluster.artifact.layout import Layout, Shard, name_of
from cluster.artifact.manifest import Manifest
from cluster.compression.evaluation import reference
from cluster.compression.evaluation.fresh_process import in_process
from cluster.compression.evaluation.one_layout import FoundLayout, LayoutTask
from cluster.compression.programs import builder
from cluster.compression.programs.place import Place
from cluster.compression.sharding.cutting import COST_BATCH, BuiltShard, Cuttable, Sliced, Traced
from cluster.compression.sharding.profile import profile, tensor_profile
from cluster.compression.work import StepContext, Work
from cluster.config.parallel import ParallelBuild
from cluster.config.recipe import Recipe
from cluster.errors import CompressionError, PlanError
from cluster.parallel import tensor
from cluster.parallel.balance import balance
from cluster.parallel.graph import index_limits
from cluster.parallel.link import LOOPBACK

ATTEMPTS = 4
"""Times that a model is cut, at most, to balance its stages."""

BALANCED = 0.03
"""Of the mean stage: how much longer the slowest may take to be left as it is."""

Write = Callable[[Manifest], None]
"""Writes the manifest into the workspace, with the hash of every file there."""


@dataclass(frozen=True)
class Shop:
    """What cutting one candidate needs."""

    work: Work
    recipe: Recipe
    manifest: Manifest
    workspace: Path
    expected: Path
    scratch: Path
    started: Mapping[str, builder.Wait]
    context: StepContext
    write: Write


def build(shop: Shop) -> Manifest:
    """The manifest with a layout per cut of the recipe, and what a trace tells of the model.

    CompressionError if one cannot be built, or does not compute the model; PlanError if it has not
    as many places to cut.
    """
    layouts: list[Layout] = []
    for cut in shop.recipe.parallel:
        target = cut.target or shop.recipe.programs[0].target
        kind = cut.kind or _kind(shop.manifest, target, cut)
        shop.context.out(f"cut      {name_of(cut.pipeline, cut.tensor)} of {kind} for {target}")
        model = _cuttable(shop, kind, target, cut)
        layouts.append(_built(shop, model, cut, target, layouts))
    return shop.manifest.model_copy(update={"layouts": tuple(layouts), **_traced(shop)})


def _traced(shop: Shop) -> dict[str, object]:
    """The profile of the whole model, for a planner, and the limits of its indices.

    Nothing, said so, of a model that cannot be traced.
    """
    model = Traced("exported", (shop.work,), shop.manifest.outputs, "", {}, shop.context)
    slices = next((cut.slices for cut in shop.recipe.parallel if cut.slices is not None), None)
    try:
        return {
            "index_limits": index_limits(model.graph.graph, shop.work.inputs),
            "profile": profile(model, tensor_profile(model, shop.work.module, slices)),
        }
    except PlanError as error:
        shop.context.out(f"cut      no profile: {error}")
        return {}


def _kind(manifest: Manifest, target: str, cut: ParallelBuild) -> str:
    """The kind that measured fastest among those that can be cut so."""
    able = ("aoti", "exported") if cut.tensor > 1 else ("aoti", "openvino", "exported")
    found = [
        (each.typical_ms, key.rpartition("/")[2])
        for key, each in manifest.measured.items()
        if key.startswith(f"{target}/") and key.rpartition("/")[2] in able
    ]
    return min(found)[1] if found else "aoti"


def _cuttable(shop: Shop, kind: str, target: str, cut: ParallelBuild) -> Cuttable:
    if kind == "openvino":
        whole = next((e for e in shop.manifest.programs if e.key == f"{target}/{kind}"), None)
        if whole is None:
            raise PlanError(
                f"kind openvino is cut out of the whole program, and there is none for {target}; "
                "add it to programs.kinds, or take aoti"
            )
        return Sliced(
            shop.work, shop.manifest.outputs, whole, Place(shop.workspace, "programs", target)
        )
    work = shop.work
    ranks: tuple[Work, ...] = (work,)
    if cut.tensor > 1:
        plan = tensor.plan_for(work.module, cut.slices)
        ranks = tuple(
            replace(work, module=tensor.shard_module(work.module, plan, rank, cut.tensor))
            for rank in range(cut.tensor)
        )
    return Traced(kind, ranks, shop.manifest.outputs, target, shop.started, shop.context)


def _built(
    shop: Shop, model: Cuttable, cut: ParallelBuild, target: str, before: Sequence[Layout]
) -> Layout:
    segment_of = model.segment_of()
    work = [0.0] * (len(model.cuts) + 1)
    for name, milliseconds in model.operator_ms.items():
        work[segment_of[name]] += milliseconds
    crossing = [LOOPBACK.ms(each.item_bytes * COST_BATCH) for each in model.cuts]
    best: _Attempt | None = None
    tried: set[tuple[int, ...]] = set()
    for number in range(ATTEMPTS):
        chosen = balance(work, crossing, cut.pipeline)
        if chosen in tried:
            break
        tried.add(chosen)
        attempt = _attempt(shop, model, cut, target, chosen, number, before)
        if best is None or attempt.imbalance < best.imbalance:
            best, worse = attempt, best
        else:
            worse = attempt
        if worse is not None:
            shutil.rmtree(shop.workspace / worse.folder)
        if attempt.imbalance <= BALANCED or cut.pipeline == 1:
            break
        work = _scaled(work, chosen, attempt.stage_ms)
    if best is None:
        raise ValueError("no attempt was made")
    shop.context.out(f"cut      slowest stage {best.imbalance:.1%} over the mean")
    return best.layout


@dataclass(frozen=True)
class _Attempt:
    layout: Layout
    folder: str
    stage_ms: tuple[float, ...]

    @property
    def imbalance(self) -> float:
        """How much longer than the mean the slowest stage takes, as a share."""
        return max(self.stage_ms) / (sum(self.stage_ms) / len(self.stage_ms)) - 1


def _attempt(
    shop: Shop, model: Cuttable, cut: ParallelBuild, target: str, chosen: Sequence[int],
    number: int, before: Sequence[Layout],
) -> _Attempt:  # fmt: skip
    name = f"{target}.{model.kind}.{name_of(cut.pipeline, cut.tensor)}"
    folder = f"shards/{name}/cut-{number}"
    (shop.workspace / folder).mkdir(parents=True)
    static = _static_batches(shop.manifest, f"{target}/{model.kind}") if cut.tensor == 1 else ()
    places = [
        [Place(shop.workspace, folder, f"stage-{s}.rank-{r}", static) for r in range(cut.tensor)]
        for s in range(cut.pipeline)
    ]
    built = model.build([model.cuts[index] for index in chosen], places)
    layout = _layout(shop, model, cut, target, chosen, places, built)
    shop.write(shop.manifest.model_copy(update={"layouts": (*before, layout)}))
    found = _measured(shop, layout)
    shards = tuple(
        shard.model_copy(update={"latency": found.stages[shard.stage]}) for shard in layout.shards
    )
    stage_ms = tuple(geometric_mean(e.p50_ms for e in entries) for entries in found.stages)
    return _Attempt(layout.model_copy(update={"shards": shards}), folder, stage_ms)


def _static_batches(manifest: Manifest, key: str) -> tuple[int, ...]:
    """Batch sizes for which the whole program keeps static shapes, because that is faster."""
    whole = next((entry for entry in manifest.programs if entry.key == key), None)
    return () if whole is None else tuple(each.batch for each in whole.static_files)


def _layout(
    shop: Shop, model: Cuttable, cut: ParallelBuild, target: str, chosen: Sequence[int],
    places: Sequence[Sequence[Place]], built: Sequence[Sequence[BuiltShard]],
) -> Layout:  # fmt: skip
    cuts = [model.cuts[index] for index in chosen]
    segments = profile(model).segments
    borders = [-1, *chosen, len(segments) - 1]
    shards = []
    for stage, ranks in enumerate(built):
        own = segments[borders[stage] + 1 : borders[stage + 1] + 1]
        for rank, each in enumerate(ranks):
            weights = places[stage][rank].name("safetensors")
            save_file(each.weights, shop.workspace / weights)
            shards.append(
                Shard(
                    stage=stage,
                    tp_rank=rank,
                    program=each.entry,
                    outputs=each.outputs,
                    weights=weights,
                    weight_bytes=_loaded_bytes(each.entry, shop.workspace),
                    activation_bytes=max(segment.activation_bytes for segment in own),
                )
            )
    return Layout(
        target=target,
        kind=model.kind,
        pipeline=cut.pipeline,
        tensor=cut.tensor,
        crossing=(model.inputs, *(each.specs for each in cuts), model.outputs),
        after=tuple(each.after for each in cuts),
        shards=tuple(shards),
        reduces=model.reduces(chosen),
        reduced_bytes=model.reduced_bytes,
    )


def _loaded_bytes(entry: ProgramEntry, workspace: Path) -> int:
    return sum(describe(workspace / name).size_bytes for name in entry.loaded_files)


def _measured(shop: Shop, layout: Layout) -> FoundLayout:
    settings = shop.recipe.evaluation
    task = LayoutTask(
        artifact=shop.workspace,
        layout=layout.key,
        expected=shop.expected,
        limit=reference.MAX_DIFFERENCE if shop.work.precision else reference.MAX_FLOAT_DIFFERENCE,
        batches=settings.batches,
        repeats=settings.repeats,
        compute_threads=settings.compute_threads,
        result=shop.scratch / "found-layout.json",
    )
    ended = in_process("one_layout", task, task.result, shop.scratch, shop.context.out)
    if ended.failure is not None:
        raise CompressionError(
            f"layout {layout.key} does not work: {ended.failure}\n{''.join(ended.tail)}"
        )
    return FoundLayout.model_validate_json(task.result.read_text())


def _scaled(work: Sequence[float], chosen: Sequence[int], stage_ms: Sequence[float]) -> list[float]:
    """The costs, each stage's scaled to what the stage took."""
    borders = [-1, *chosen, len(work) - 1]
    found: list[float] = []
    for stage, measured in enumerate(stage_ms):
        own = work[borders[stage] + 1 : borders[stage + 1] + 1]
        guessed = sum(own)
        found += [each * measured / guessed if guessed else measured / len(own) for each in own]
    return found
