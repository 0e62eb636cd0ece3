"""The cases of the compression benchmark: what each builds, and what it must reach.

A case takes a Builder and answers its builds and its goals. Where the time goes: the training
that all ResNet-56 cases share, then the recovery of what was pruned.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from benchmarks.compression_build import OPEN_GATE, Builder
from benchmarks.compression_results import Built
from benchmarks.goal import Goal
from cluster.config.recipe import Recipe
from cluster.config.steps import Fit

Measured = tuple[tuple[Built, ...], tuple[Goal, ...]]

TEACHER = "cifar-resnet56"


@dataclass(frozen=True)
class Case:
    """One row of the table of goals. ``minutes``: about how long it takes on 2 cores."""

    key: str
    title: str
    minutes: int
    run: Callable[[Builder], Measured]


def resnet56_int8(builder: Builder) -> Measured:
    """Static int8 against the fine-tuned model."""
    built = builder.build("int8", builder.recipe("cifar-resnet56-int8", gate=OPEN_GATE))
    return (built,), (_drop(built, 0.3),)


def resnet56_prune(builder: Builder) -> Measured:
    """Fewer channels, against the same network compiled whole: MACs alone are not latency."""
    whole = builder.build("whole, float32", builder.recipe(TEACHER, gate=OPEN_GATE))
    pruned = builder.build("pruned", builder.recipe("cifar-resnet56-prune", gate=OPEN_GATE))
    fewer = (pruned.eager_macs or 0) / (pruned.macs or 1)
    return (whole, pruned), (
        _at_least("multiply-accumulates, fewer by", fewer, 2.1),
        _drop(pruned, 0.3),
        *(
            _at_least(
                f"latency at batch {batch}, to the whole network compiled alike",
                whole.latency_ms[batch] / pruned.latency_ms[batch],
                1.6,
            )
            for batch in (1, 8)
        ),
    )


def resnet56_prune_int8(builder: Builder) -> Measured:
    """Both together, against eager float32."""
    built = builder.build(
        "pruned, int8", builder.recipe("cifar-resnet56-prune-int8", gate=OPEN_GATE)
    )
    goal = _at_least("throughput at batch 8, to eager float32", built.speedup(8), 6)
    return (built,), (goal,)


def resnet56_longer(builder: Builder) -> Measured:
    """What the recovery's epochs would have given the whole network: no goal, but a yardstick.

    A pruned model that lost nothing while its baseline could still have gained has lost that.
    """
    whole = builder.recipe(TEACHER)
    longer = [_trained_alike(step) for step in _plain(builder.recipe("cifar-resnet56-prune"))[2:]]
    recipe = builder.recipe(
        TEACHER, name="benchmark-cifar-resnet56-longer", gate=OPEN_GATE,
        steps=[*_plain(whole), *longer],
    )  # fmt: skip
    return (builder.build("whole, trained on for as long", recipe),), ()


def resnet20_distilled(builder: Builder) -> Measured:
    """From the published weights on: a teacher's answers against the labels alone."""
    (step,) = _plain(builder.recipe("cifar-resnet20-distilled"))
    return _distilled(builder, "", step, {})


def resnet20_distilled_from_scratch(builder: Builder) -> Measured:
    """The same from random weights, the same ones for both, and for longer."""
    recipe = builder.recipe("cifar-resnet20-distilled")
    (step,) = _plain(recipe)
    step |= {"epochs": 8, "learning_rate": 0.1}
    model = recipe.model.model_dump(mode="json") | {"weights": None}
    return _distilled(builder, "-scratch", step, {"model": model})


def _distilled(
    builder: Builder, suffix: str, step: dict[str, Any], changes: dict[str, Any]
) -> Measured:
    teacher = builder.build("the teacher, ResNet-56", builder.recipe(TEACHER, gate=OPEN_GATE))
    name = "cifar-resnet20-distilled"
    alone = builder.recipe(
        name, name=f"benchmark-cifar-resnet20-alone{suffix}", gate=OPEN_GATE,
        steps=[_trained_alike(step)], **changes,
    )  # fmt: skip
    taught = builder.recipe(
        name, name=f"benchmark-{name}{suffix}", gate=OPEN_GATE,
        steps=[step | {"teacher": {"artifact": f"benchmark-{TEACHER}"}}], **changes,
    )  # fmt: skip
    plain = builder.build("ResNet-20 from the labels", alone)
    learned = builder.build("ResNet-20 from the teacher", taught)
    gain = (learned.score - plain.score) * 100
    goal = _at_least("accuracy gained, same number of updates", gain, 0.5, " points")
    return (teacher, plain, learned), (goal,)


def minilm_int8(builder: Builder) -> Measured:
    """An encoder of sentences, 128 tokens."""
    built = builder.build("dynamic int8", builder.recipe("minilm-int8", gate=OPEN_GATE))
    return (built,), (
        _at_least("latency at batch 1, to eager float32", built.speedup(1), 2),
        _at_least("mean cosine to the original", built.score, 0.99, ""),
    )


SEARCH_LIMIT_S = 1200

BETTER = 1.05
"""Times that the search's model must be better by than the best technique alone: less is within
what timings vary."""


def resnet20_search(builder: Builder) -> Measured:
    """The search against every technique alone, under the same budget on the same samples."""
    name = "cifar-resnet20-search"
    recipe = builder.recipe(name)
    budget = recipe.gate.max_accuracy_drop
    found = builder.build("found by the search", recipe)
    alone = [
        builder.build(title, _single(builder, name, title, steps))
        for title, steps in _techniques(recipe).items()
    ]
    within = [each for each in alone if budget is None or each.drop_upper <= budget]
    title, cost = _objective(recipe)
    least = min((cost(each) for each in within), default=float("inf"))
    return (found, *alone), (
        _at_least(
            f"{title}, to the best of {len(within)} techniques alone within "
            f"{(budget or 0) * 100:g} points",
            least / cost(found),
            BETTER,
        ),
        Goal(
            claim="time of the search", measured=found.seconds.get("search", 0.0),
            limit=SEARCH_LIMIT_S, at_least=False, unit=" s",
        ),
    )  # fmt: skip


def _objective(recipe: Recipe) -> tuple[str, Callable[[Built], float]]:
    """What the search minimizes, in words and of a build."""
    if recipe.search is None or recipe.search.objective == "bytes":
        return "bytes", lambda built: built.size_bytes
    batch = recipe.search.batch
    return f"latency at batch {batch}", lambda built: built.latency_ms[batch]


def _techniques(recipe: Recipe) -> dict[str, list[dict[str, Any]]]:
    """Everything that the search may combine, each by itself, by title."""
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


def _single(builder: Builder, name: str, title: str, steps: list[dict[str, Any]]) -> Recipe:
    first = _plain(builder.recipe(name))
    slug = title.replace(", ", "-").replace(" ", "-")
    return builder.recipe(
        name, name=f"benchmark-resnet20-{slug}", search=None, gate=OPEN_GATE,
        steps=[*first, *steps],
    )  # fmt: skip


def _plain(recipe: Recipe) -> list[dict[str, Any]]:
    return [step.model_dump(mode="json") for step in recipe.steps]


def _trained_alike(step: dict[str, Any]) -> dict[str, Any]:
    """A train step of the same length, optimizer and augmentation as a distill step."""
    return {"kind": "train", **{key: step[key] for key in step.keys() & Fit.model_fields.keys()}}


def _drop(built: Built, points: float) -> Goal:
    return Goal(
        claim="accuracy drop", measured=built.drop * 100, limit=points, at_least=False,
        unit=" points",
    )  # fmt: skip


def _at_least(claim: str, measured: float, limit: float, unit: str = "×") -> Goal:
    return Goal(claim=claim, measured=measured, limit=limit, at_least=True, unit=unit)


CASES: dict[str, Case] = {
    case.key: case
    for case in (
        Case("resnet56-int8", "ResNet-56, CIFAR-10: static int8", 20, resnet56_int8),
        Case("resnet56-prune", "ResNet-56: structured pruning", 50, resnet56_prune),
        Case("resnet56-prune-int8", "ResNet-56: pruned and int8", 50, resnet56_prune_int8),
        Case("resnet56-longer", "ResNet-56: trained on, not pruned", 50, resnet56_longer),
        Case("resnet20-distilled", "ResNet-56 teaches ResNet-20", 25, resnet20_distilled),
        Case(
            "resnet20-distilled-scratch", "ResNet-56 teaches ResNet-20 from random weights", 45,
            resnet20_distilled_from_scratch,
        ),
        Case("minilm-int8", "MiniLM, 128 tokens: dynamic int8", 5, minilm_int8),
        Case("resnet20-search", "ResNet-20: search", 35, resnet20_search),
    )
}  # fmt: skip
"""By the name that ``--only`` takes."""
