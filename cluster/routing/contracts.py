"""Contract of each route: inputs, outputs and labels, derived from its targets before deployment.

    models' contracts ─┐
    routes            ─┴→ each after its targets → its contract, or a ConfigError

A contract is a model's metadata of the Open Inference Protocol, and the labels and the meaning of
the first output, which a combination of answers needs.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from enum import Enum
from itertools import pairwise
from typing import Any

from cluster.activation import OutputActivation
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
"""Output name of routes that combine distributions, float32 ``[-1, classes]``."""


class Scores(Enum):
    """Scale of the first output's scores for the labels."""

    NONE = "none"
    LOGITS = "logits"
    PROBABILITIES = "probabilities"


@dataclass(frozen=True)
class Contract:
    """Inputs and outputs of a target."""

    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    labels: tuple[str, ...]
    scores: Scores
    max_items: int | None
    """Maximum number of items of one request; None: limited only by the body."""

    activation: OutputActivation = "softmax"
    """Meaning of the scores: shares of one label, or of each label by itself."""


def contracts(
    routes: Sequence[Route], models: Mapping[str, Contract], served: Collection[str]
) -> dict[str, Contract]:
    """Return the contract of every route, by name.

    ``models``: contracts of the models that routes call. ``served``: names of all served models.

    ConfigError, naming the route, for an unknown target, a cycle, a route with the name of a model,
    and incompatible targets.
    """
    by_name = {route.name: route for route in routes}
    resolved: dict[str, Contract] = {}

    def resolve(name: str, path: tuple[str, ...]) -> Contract:
        if name in path:
            cycle = " → ".join([*path[path.index(name) :], name])
            raise ConfigError(f"route {path[-1]}: cycle {cycle}; remove one of these targets")
        if name in resolved:
            return resolved[name]
        route = by_name.get(name)
        if route is None:
            if name not in models:
                raise ConfigError(_unknown(path[-1], name, by_name, served))
            return models[name]
        targets = [resolve(target.target, (*path, name)) for target in route.all_targets]
        resolved[name] = _CONTRACTS[type(route)](route, targets)
        return resolved[name]

    for route in routes:
        if route.name in served:
            raise ConfigError(
                f"route {route.name}: a served model has the same name; give the route another name"
            )
        resolve(route.name, ())
        canaries = [inner for inner in _below(route, by_name) if isinstance(inner, Canary)]
        if route.cache_bytes and canaries:
            raise ConfigError(
                f"route {route.name}: cache_bytes would serve answers of the canary "
                f"{canaries[0].name} after its return to the old version; remove cache_bytes"
            )
    return resolved


def _below(route: Route, by_name: Mapping[str, Route]) -> list[Route]:
    """Return the route, and all routes that it calls; the routes have no cycle."""
    called = [by_name[target.target] for target in route.all_targets if target.target in by_name]
    return [route, *(below for inner in called for below in _below(inner, by_name))]


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
        return replace(
            same, outputs=route.outputs, labels=(), scores=Scores.NONE, activation="none"
        )
    if route.combine == "vote":
        _one_label(route, targets, "combine: vote counts the likeliest label; use combine: mean")
    return _distribution(route, targets, same)


def _cascade(route: Cascade, targets: list[Contract]) -> Contract:
    _one_label(route, targets, "thresholds compare the likeliest label; use an ensemble")
    return _distribution(route, targets, _same_inputs(route, targets))


def _multi_task(route: MultiTask, targets: list[Contract]) -> Contract:
    inputs: dict[str, TensorSpec] = {}
    for target, contract in zip(route.all_targets, targets, strict=True):
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
    return Contract(tuple(inputs.values()), outputs, (), Scores.NONE, _fewest(targets), "none")


def _pair(route: Hedge | Shadow | Canary, targets: list[Contract]) -> Contract:
    """Return the contract of two versions, of which either may answer: both must be equal."""
    first, second = targets
    same = _same_inputs(route, targets)
    if first.outputs != second.outputs:
        raise ConfigError(
            f"route {route.name}: {route.all_targets[0].target} answers {_specs(first.outputs)}, "
            f"{route.all_targets[1].target} {_specs(second.outputs)}; both must have the same "
            "outputs"
        )
    _same_labels(route, targets)
    _same_activation(route, targets)
    compares = isinstance(route, Shadow) or (
        isinstance(route, Canary) and route.max_disagreement is not None
    )
    if compares and first.scores is Scores.NONE:
        raise ConfigError(
            f"route {route.name}: {route.all_targets[0].target} {_numbers(first)}, so its answers "
            "cannot be compared by labels"
            + ("; remove max_disagreement" if isinstance(route, Canary) else "")
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
    """Return for every input of ``after`` the position of its output of ``before``.

    It is the output with the same name, or the only output for the only input. ConfigError if
    datatype or shape differ.
    """
    positions = []
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
                f"route {route}: input {spec.name} of {names[1]} is {_spec(spec)}, the output of "
                f"{names[0]} is {_spec(output)}; they must be equal"
            )
        positions.append(named[0])
    return tuple(positions)


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


# ---------------------------------------------------------------------- checks of several kinds


def _distribution(route: Route, targets: list[Contract], same: Contract) -> Contract:
    """Return the contract of a route whose output is probabilities of its targets' labels."""
    for target, contract in zip(route.all_targets, targets, strict=True):
        if contract.scores is Scores.NONE:
            raise ConfigError(
                f"route {route.name}: {target.target} {_numbers(contract)}, so there are no "
                "probabilities to combine; use combine: python:module:function"
            )
    _same_labels(route, targets)
    _same_activation(route, targets)
    output = TensorSpec(name=PROBABILITIES, datatype="FP32", shape=(BATCH, len(targets[0].labels)))
    return replace(same, outputs=(output,), scores=Scores.PROBABILITIES)


def _same_inputs(route: Route, targets: list[Contract]) -> Contract:
    first = targets[0]
    for target, contract in zip(route.all_targets, targets, strict=True):
        if contract.inputs != first.inputs:
            raise ConfigError(
                f"route {route.name}: {target.target} takes {_specs(contract.inputs)}, "
                f"{route.all_targets[0].target} {_specs(first.inputs)}; all targets must take the "
                "same inputs"
            )
    return replace(first, max_items=_fewest(targets))


def _same_labels(route: Route, targets: list[Contract]) -> None:
    first = targets[0].labels
    for target, contract in zip(route.all_targets, targets, strict=True):
        if contract.labels == first:
            continue
        if sorted(contract.labels) == sorted(first):
            differs = "the same labels in another order"
        else:
            differs = f"{len(contract.labels)} labels, {_few(contract.labels)}"
        raise ConfigError(
            f"route {route.name}: {target.target} has {differs}; {route.all_targets[0].target} has "
            f"{len(first)}, {_few(first)}; all targets must have the same in the same order"
        )


def _same_activation(route: Route, targets: list[Contract]) -> None:
    first = targets[0].activation
    for target, contract in zip(route.all_targets, targets, strict=True):
        if contract.activation != first:
            raise ConfigError(
                f"route {route.name}: {target.target} has the activation {contract.activation}, "
                f"{route.all_targets[0].target} {first}; all targets must have the same, see "
                "model.activation in their recipes"
            )


def _numbers(contract: Contract) -> str:
    if contract.labels:
        return "answers numbers (model.activation: none in its recipe)"
    return "has no labels"


def _one_label(route: Route, targets: list[Contract], reason: str) -> None:
    """Raise ConfigError, ending in ``reason``, if a target's labels are independent."""
    for target, contract in zip(route.all_targets, targets, strict=True):
        if contract.scores is not Scores.NONE and contract.activation == "sigmoid":
            raise ConfigError(
                f"route {route.name}: {target.target} decides each label by itself "
                f"(model.activation: sigmoid in its recipe), but {reason}"
            )


def _fewest(targets: Sequence[Contract]) -> int | None:
    return min((t.max_items for t in targets if t.max_items is not None), default=None)


def _few(labels: Sequence[str]) -> str:
    return ", ".join(map(repr, labels[:3])) + (", ..." if len(labels) > 3 else "")


def _spec(spec: TensorSpec) -> str:
    return f"{spec.datatype}{list(spec.shape)}"


def _specs(specs: Sequence[TensorSpec]) -> str:
    return ", ".join(f"{spec.name} {_spec(spec)}" for spec in specs)
