"""Cases of the compression benchmark for CPUs.

ReportingBuilder → CompressionCase.run → builds and goals

Most of the time is the training that all ResNet-56 cases share, then the recovery after pruning.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from benchmarks.artifacts.builder import OPEN_GATE
from benchmarks.compression.builds import Build, ReportingBuilder
from benchmarks.harness.goals import Goal, at_least, at_most
from cluster.config.recipe import Recipe
from cluster.config.steps import Fit

Outcome = tuple[tuple[Build, ...], tuple[Goal, ...]]
"""Builds of a case, and its goals."""

TEACHER = "cifar-resnet56"


@dataclass(frozen=True)
class CompressionCase:
    """Builds that belong together. ``minutes``: about how long they take on 2 cores."""

    key: str
    title: str
    minutes: int
    run: Callable[[ReportingBuilder], Outcome]


def resnet56_int8(builder: ReportingBuilder) -> Outcome:
    """Compare static int8 with the fine-tuned model."""
    build = builder.measure("int8", builder.recipe("cifar-resnet56-int8", gate=OPEN_GATE))
    return (build,), (_drop(build, 0.3),)


def resnet56_prune(builder: ReportingBuilder) -> Outcome:
    """Compare fewer channels with the whole network, compiled alike: MACs are not latency."""
    whole = builder.measure("whole, float32", builder.recipe(TEACHER, gate=OPEN_GATE))
    pruned = builder.measure("pruned", builder.recipe("cifar-resnet56-prune", gate=OPEN_GATE))
    fewer = (pruned.eager_macs or 0) / (pruned.macs or 1)
    return (whole, pruned), (
        at_least("multiply-accumulates, fewer by", fewer, 2.1),
        _drop(pruned, 0.3),
        *(
            at_least(
                f"latency at batch {batch}, to the whole network compiled alike",
                whole.latency_ms[batch] / pruned.latency_ms[batch],
                1.6,
            )
            for batch in (1, 8)
        ),
    )


def resnet56_prune_int8(builder: ReportingBuilder) -> Outcome:
    """Compare both together with eager float32."""
    build = builder.measure(
        "pruned, int8", builder.recipe("cifar-resnet56-prune-int8", gate=OPEN_GATE)
    )
    goal = at_least("throughput at batch 8, to eager float32", build.speedup(8), 6)
    return (build,), (goal,)


def resnet56_longer(builder: ReportingBuilder) -> Outcome:
    """Train the whole network for the recovery's epochs, as a yardstick without a goal.

    A pruned model that keeps its score has still lost what its baseline could have gained.
    """
    whole = builder.recipe(TEACHER)
    longer = [_trained_alike(step) for step in _plain(builder.recipe("cifar-resnet56-prune"))[2:]]
    recipe = builder.recipe(
        TEACHER,
        name="benchmark-cifar-resnet56-longer",
        gate=OPEN_GATE,
        steps=[*_plain(whole), *longer],
    )
    return (builder.measure("whole, trained on for as long", recipe),), ()


def resnet20_distilled(builder: ReportingBuilder) -> Outcome:
    """Compare a teacher's answers with the labels alone, from the published weights."""
    (step,) = _plain(builder.recipe("cifar-resnet20-distilled"))
    return _distilled(builder, "", step, {})


def resnet20_distilled_from_scratch(builder: ReportingBuilder) -> Outcome:
    """Compare the same from random weights, equal for both, and for longer."""
    recipe = builder.recipe("cifar-resnet20-distilled")
    (step,) = _plain(recipe)
    step |= {"epochs": 8, "learning_rate": 0.1}
    model = recipe.model.model_dump(mode="json") | {"weights": None}
    return _distilled(builder, "-scratch", step, {"model": model})


def _distilled(
    builder: ReportingBuilder, suffix: str, step: dict[str, Any], changes: dict[str, Any]
) -> Outcome:
    teacher = builder.measure("the teacher, ResNet-56", builder.recipe(TEACHER, gate=OPEN_GATE))
    name = "cifar-resnet20-distilled"
    alone = builder.recipe(
        name,
        name=f"benchmark-cifar-resnet20-alone{suffix}",
        gate=OPEN_GATE,
        steps=[_trained_alike(step)],
        **changes,
    )
    taught = builder.recipe(
        name,
        name=f"benchmark-{name}{suffix}",
        gate=OPEN_GATE,
        steps=[step | {"teacher": {"artifact": f"benchmark-{TEACHER}"}}],
        **changes,
    )
    plain = builder.measure("ResNet-20 from the labels", alone)
    learned = builder.measure("ResNet-20 from the teacher", taught)
    gain = (learned.score - plain.score) * 100
    goal = at_least("accuracy gained, same number of updates", gain, 0.5, " points")
    return (teacher, plain, learned), (goal,)


def minilm_int8(builder: ReportingBuilder) -> Outcome:
    """Compare an encoder of sentences, 128 tokens, with eager float32."""
    build = builder.measure("dynamic int8", builder.recipe("minilm-int8", gate=OPEN_GATE))
    return (build,), (
        at_least("latency at batch 1, to eager float32", build.speedup(1), 2),
        at_least("mean cosine to the original", build.score, 0.99, ""),
    )


SEARCH_LIMIT_S = 1200

BETTER = 1.05
"""Factor by which the search must beat the best technique alone; timings vary by less."""


def resnet20_search(builder: ReportingBuilder) -> Outcome:
    """Compare the search with every technique alone, with equal budget and samples."""
    name = "cifar-resnet20-search"
    recipe = builder.recipe(name)
    budget = recipe.gate.max_accuracy_drop
    searched = builder.measure("found by the search", recipe)
    alone = [
        builder.measure(title, _single(builder, name, title, steps))
        for title, steps in _techniques(recipe).items()
    ]
    within = [build for build in alone if budget is None or build.drop_upper <= budget]
    title, cost = _objective(recipe)
    least = min((cost(build) for build in within), default=float("inf"))
    return (searched, *alone), (
        at_least(
            f"{title}, to the best of {len(within)} techniques alone within "
            f"{(budget or 0) * 100:g} points",
            least / cost(searched),
            BETTER,
        ),
        at_most("time of the search", searched.seconds.get("search", 0.0), SEARCH_LIMIT_S, " s"),
    )


def _objective(recipe: Recipe) -> tuple[str, Callable[[Build], float]]:
    """Return the search's objective, as text and as a function of a build."""
    if recipe.search is None or recipe.search.objective == "bytes":
        return "bytes", lambda build: build.size_bytes
    batch = recipe.search.batch
    return f"latency at batch {batch}", lambda build: build.latency_ms[batch]


def _techniques(recipe: Recipe) -> dict[str, list[dict[str, Any]]]:
    """Return the steps of every technique that the search may combine, by title."""
    if recipe.search is None:
        return {}
    space = recipe.search.space
    alone: dict[str, list[dict[str, Any]]] = {"compiled, nothing else": []}
    for scheme in space.schemes:
        if scheme != "none":
            alone[scheme] = [{"kind": "quantize", "scheme": scheme}]
    if space.prune is not None:
        shared = space.prune.model_dump(mode="json", exclude={"ratios"})
        recovery = space.recovery.model_dump(mode="json")
        within, after = (None, [recovery]) if "kind" in recovery else (recovery, [])
        for ratio in space.prune.ratios:
            step = {"kind": "prune", "ratio": ratio, "recovery": within, **shared}
            alone[f"prune {ratio:g}"] = [step, *after]
    return alone


def _single(
    builder: ReportingBuilder, name: str, title: str, steps: list[dict[str, Any]]
) -> Recipe:
    first = _plain(builder.recipe(name))
    slug = title.replace(", ", "-").replace(" ", "-")
    return builder.recipe(
        name,
        name=f"benchmark-resnet20-{slug}",
        search=None,
        gate=OPEN_GATE,
        steps=[*first, *steps],
    )


def _plain(recipe: Recipe) -> list[dict[str, Any]]:
    return [step.model_dump(mode="json") for step in recipe.steps]


def _trained_alike(step: dict[str, Any]) -> dict[str, Any]:
    """Return a train step of equal length, optimizer and augmentation as a distill step."""
    return {"kind": "train", **{key: step[key] for key in step.keys() & Fit.model_fields.keys()}}


def _drop(build: Build, points: float) -> Goal:
    return at_most("accuracy drop", build.drop * 100, points, " points")


CASES: dict[str, CompressionCase] = {
    case.key: case
    for case in (
        CompressionCase("resnet56-int8", "ResNet-56, CIFAR-10: static int8", 20, resnet56_int8),
        CompressionCase("resnet56-prune", "ResNet-56: structured pruning", 50, resnet56_prune),
        CompressionCase(
            "resnet56-prune-int8", "ResNet-56: pruned and int8", 50, resnet56_prune_int8
        ),
        CompressionCase(
            "resnet56-longer", "ResNet-56: trained on, not pruned", 50, resnet56_longer
        ),
        CompressionCase(
            "resnet20-distilled", "ResNet-56 teaches ResNet-20", 25, resnet20_distilled
        ),
        CompressionCase(
            "resnet20-distilled-scratch",
            "ResNet-56 teaches ResNet-20 from random weights",
            45,
            resnet20_distilled_from_scratch,
        ),
        CompressionCase("minilm-int8", "MiniLM, 128 tokens: dynamic int8", 5, minilm_int8),
        CompressionCase("resnet20-search", "ResNet-20: search", 35, resnet20_search),
    )
}
"""Cases by the name that ``--only`` takes."""
