"""What each route takes and gives, worked out from the models behind it, before any is deployed.

    models' contracts ─┐
    routes            ─┴→ each after the targets it asks → its contract, or a ConfigError

A contract is what the Open Inference Protocol calls a model's metadata, and what is needed beside
it to put answers together: labels, and whether the first output tells them apart.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from enum import Enum
from itertools import pairwise
from typing import Any

from cluster.config.routing import (
    Canary,
    Cascade,
    Chain,
    Ensemble,
    Hedge,
    MultiTask,
    Quorum,
    Route,
    Scatter,
    Shadow,
)
from cluster.errors import ConfigError
from cluster.tensors import BATCH, TensorSpec

PROBABILITIES = "probabilities"
"""Name of the output of routes that put distributions together, float32 ``[-1, classes]``."""


class Scores(Enum):
    """What the first output says of the labels."""

    NONE = "none"
    LOGITS = "logits"
    PROBABILITIES = "probabilities"


@dataclass(frozen=True)
class Contract:
    """What may be sent to a target, and what comes back."""

    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    labels: tuple[str, ...]
    scores: Scores
    max_items: int | None
    """Items of one request, at most; None: as many as fit the body."""


def contracts(
    routes: Sequence[Route], models: Mapping[str, Contract], served: Collection[str]
) -> dict[str, Contract]:
    """The contract of every route, by name; ``models``: those that a route asks, ``served``: the
    names of all there are.

    Raises ConfigError, naming the route, for a target that is neither a model nor a route, a
    circle, a route that is called as a model is, and targets that do not fit together.
    """
    by_name = {route.name: route for route in routes}
    found: dict[str, Contract] = {}

    def resolved(name: str, path: tuple[str, ...]) -> Contract:
        if name in path:
            circle = " → ".join([*path[path.index(name) :], name])
            raise ConfigError(f"route {path[-1]}: it asks itself: {circle}; break the circle")
        if name in found:
            return found[name]
        route = by_name.get(name)
        if route is None:
            if name not in models:
                raise ConfigError(_unknown(path[-1], name, by_name, served))
            return models[name]
        targets = [resolved(target.target, (*path, name)) for target in route.asked]
        found[name] = _CONTRACTS[type(route)](route, targets)
        return found[name]

    for route in routes:
        if route.name in served:
            raise ConfigError(
                f"route {route.name}: a model of that name is served, too; give the route another"
            )
        resolved(route.name, ())
        canaries = [each for each in _below(route, by_name) if isinstance(each, Canary)]
        if route.cache_bytes and canaries:
            raise ConfigError(
                f"route {route.name}: cache_bytes keeps answers of the canary {canaries[0].name} "
                "beyond its return to the old version; remove cache_bytes"
            )
    return found


def _below(route: Route, by_name: Mapping[str, Route]) -> list[Route]:
    """The route, and all routes that it asks; there is no circle."""
    asked = [by_name[target.target] for target in route.asked if target.target in by_name]
    return [route, *(each for inner in asked for each in _below(inner, by_name))]


def _unknown(route: str, name: str, routes: Mapping[str, Route], served: Collection[str]) -> str:
    others = ", ".join(sorted(set(routes) - {route})) or "none"
    return (
        f"route {route}: no model or route is called {name!r}; models served here: "
        f"{', '.join(sorted(served)) or 'none'}; other routes: {others}"
    )


# ---------------------------------------------------------------------- one function per kind


def _combined(route: Ensemble | Quorum, targets: list[Contract]) -> Contract:
    same = _same_inputs(route, targets)
    if route.combine.startswith("python:"):
        return replace(same, outputs=route.outputs, labels=(), scores=Scores.NONE)
    return _distribution(route, targets, same)


def _cascade(route: Cascade, targets: list[Contract]) -> Contract:
    return _distribution(route, targets, _same_inputs(route, targets))


def _multi_task(route: MultiTask, targets: list[Contract]) -> Contract:
    inputs: dict[str, TensorSpec] = {}
    for target, contract in zip(route.asked, targets, strict=True):
        for spec in contract.inputs:
            known = inputs.setdefault(spec.name, spec)
            if known != spec:
                raise ConfigError(
                    f"route {route.name}: input {spec.name} is {_spec(spec)} for {target.target} "
                    f"and {_spec(known)} for a target before it; one input cannot be both"
                )
    outputs = tuple(
        spec.model_copy(update={"name": f"{task}.{spec.name}"})
        for task, contract in zip(route.tasks, targets, strict=True)
        for spec in contract.outputs
    )
    return Contract(tuple(inputs.values()), outputs, (), Scores.NONE, _fewest(targets))


def _pair(route: Hedge | Shadow | Canary, targets: list[Contract]) -> Contract:
    """Two versions of which either may answer: whatever they give must be alike."""
    first, second = targets
    same = _same_inputs(route, targets)
    if first.outputs != second.outputs:
        raise ConfigError(
            f"route {route.name}: {route.asked[0].target} answers {_specs(first.outputs)}, "
            f"{route.asked[1].target} {_specs(second.outputs)}; both must answer alike"
        )
    _same_labels(route, targets)
    compares = isinstance(route, Shadow) or (
        isinstance(route, Canary) and route.max_disagreement is not None
    )
    if compares and first.scores is Scores.NONE:
        raise ConfigError(
            f"route {route.name}: {route.asked[0].target} has no labels, so its answers cannot be "
            "compared by them" + ("; remove max_disagreement" if isinstance(route, Canary) else "")
        )
    return same


def _scatter(route: Scatter, targets: list[Contract]) -> Contract:
    (target,) = targets
    most = target.max_items
    if route.part_items is not None and most is not None and route.part_items > most:
        raise ConfigError(
            f"route {route.name}: part_items={route.part_items} is more than the {most} items "
            f"that {route.target.target} takes at once; give at most {most}"
        )
    if route.part_items is None and most is None:
        raise ConfigError(
            f"route {route.name}: {route.target.target} takes any number of items; give part_items"
        )
    return replace(target, max_items=None)


def _chain(route: Chain, targets: list[Contract]) -> Contract:
    for index, (before, after) in enumerate(pairwise(targets)):
        links(route.name, [t.target for t in route.targets][index : index + 2], before, after)
    last = targets[-1]
    return replace(last, inputs=targets[0].inputs, max_items=_fewest(targets))


def links(route: str, names: Sequence[str], before: Contract, after: Contract) -> tuple[int, ...]:
    """For every input of ``after`` the position of the output of ``before`` that it takes: the one
    of its name, or the only one there is. ConfigError if datatype or shape differ."""
    taken = []
    for spec in after.inputs:
        named = [i for i, output in enumerate(before.outputs) if output.name == spec.name]
        if not named and len(before.outputs) == len(after.inputs) == 1:
            named = [0]
        if not named:
            raise ConfigError(
                f"route {route}: {names[1]} takes {_specs(after.inputs)}, but {names[0]} answers "
                f"{_specs(before.outputs)}: no output is called {spec.name!r}"
            )
        output = before.outputs[named[0]]
        if (output.datatype, output.shape) != (spec.datatype, spec.shape):
            raise ConfigError(
                f"route {route}: input {spec.name} of {names[1]} is {_spec(spec)}, what "
                f"{names[0]} answers is {_spec(output)}; they must be alike"
            )
        taken.append(named[0])
    return tuple(taken)


_CONTRACTS: dict[type, Callable[[Any, list[Contract]], Contract]] = {
    Ensemble: _combined,
    Quorum: _combined,
    Cascade: _cascade,
    MultiTask: _multi_task,
    Hedge: _pair,
    Shadow: _pair,
    Canary: _pair,
    Scatter: _scatter,
    Chain: _chain,
}


# ---------------------------------------------------------------------- what they share


def _distribution(route: Route, targets: list[Contract], same: Contract) -> Contract:
    """A route that answers probabilities of its targets' labels."""
    for target, contract in zip(route.asked, targets, strict=True):
        if contract.scores is Scores.NONE:
            raise ConfigError(
                f"route {route.name}: {target.target} has no labels, so there are no probabilities "
                "to put together; only a combine: python:module:function could"
            )
    _same_labels(route, targets)
    output = TensorSpec(name=PROBABILITIES, datatype="FP32", shape=(BATCH, len(targets[0].labels)))
    return replace(same, outputs=(output,), scores=Scores.PROBABILITIES)


def _same_inputs(route: Route, targets: list[Contract]) -> Contract:
    first = targets[0]
    for target, contract in zip(route.asked, targets, strict=True):
        if contract.inputs != first.inputs:
            raise ConfigError(
                f"route {route.name}: {target.target} takes {_specs(contract.inputs)}, "
                f"{route.asked[0].target} {_specs(first.inputs)}; all targets must take the same"
            )
    return replace(first, max_items=_fewest(targets))


def _same_labels(route: Route, targets: list[Contract]) -> None:
    first = targets[0].labels
    for target, contract in zip(route.asked, targets, strict=True):
        if contract.labels == first:
            continue
        if sorted(contract.labels) == sorted(first):
            differs = "the same labels in another order"
        else:
            differs = f"{len(contract.labels)} labels, {_few(contract.labels)}"
        raise ConfigError(
            f"route {route.name}: {target.target} has {differs}; {route.asked[0].target} has "
            f"{len(first)}, {_few(first)}; all targets must have the same in the same order"
        )


def _fewest(targets: Sequence[Contract]) -> int | None:
    return min((each.max_items for each in targets if each.max_items is not None), default=None)


def _few(labels: Sequence[str]) -> str:
    return ", ".join(map(repr, labels[:3])) + (", ..." if len(labels) > 3 else "")


def _spec(spec: TensorSpec) -> str:
    return f"{spec.datatype}{list(spec.shape)}"


def _specs(specs: Sequence[TensorSpec]) -> str:
    return ", ".join(f"{spec.name} {_spec(spec)}" for spec in specs)
