"""Contracts of routes: inputs, outputs and labels, and every rejected route."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from cluster.config.base import parse
from cluster.config.routing import RouterArgs
from cluster.errors import ConfigError
from cluster.routing.contracts import Contract, Scores, contracts
from cluster.tensors import TensorSpec

IMAGE = TensorSpec(name="input", datatype="FP32", shape=(-1, 3, 8, 8))
LOGITS = TensorSpec(name="logits", datatype="FP32", shape=(-1, 2))
VECTOR = TensorSpec(name="vector", datatype="FP32", shape=(-1, 16))

CLASSIFIER = Contract((IMAGE,), (LOGITS,), ("no", "yes"), Scores.LOGITS, 8)
MODELS = {
    "small": CLASSIFIER,
    "large": replace(CLASSIFIER, max_items=4),
    "turned": replace(CLASSIFIER, labels=("yes", "no")),
    "three": replace(
        CLASSIFIER,
        outputs=(TensorSpec(name="logits", datatype="FP32", shape=(-1, 3)),),
        labels=("a", "b", "c"),
    ),
    "grey": replace(
        CLASSIFIER, inputs=(TensorSpec(name="input", datatype="FP32", shape=(-1, 1, 8, 8)),)
    ),
    "encoder": Contract((IMAGE,), (VECTOR,), (), Scores.NONE, 8, "none"),
    "tags": replace(CLASSIFIER, activation="sigmoid"),
    "prices": replace(CLASSIFIER, scores=Scores.NONE, activation="none"),
    "head": Contract((VECTOR,), (LOGITS,), ("no", "yes"), Scores.LOGITS, 16),
    "other_head": Contract(
        (TensorSpec(name="features", datatype="FP32", shape=(-1, 16)),),
        (LOGITS,),
        ("no", "yes"),
        Scores.LOGITS,
        16,
    ),
}


def contracts_of(*routes: dict[str, Any]) -> dict[str, Contract]:
    args = parse({"routes": list(routes)}, RouterArgs, "args")
    target_names = {target.target for route in args.routes for target in route.all_targets}
    models = {name: MODELS[name] for name in target_names & MODELS.keys()}
    return contracts(args.routes, models, set(MODELS))


def test_ensemble_returns_probabilities_with_smallest_batch() -> None:
    (contract,) = contracts_of(
        {"name": "r", "kind": "ensemble", "targets": ["small", "large"]}
    ).values()
    assert contract.inputs == (IMAGE,)
    assert [(o.name, o.datatype, o.shape) for o in contract.outputs] == [
        ("probabilities", "FP32", (-1, 2))
    ]
    assert contract.labels == ("no", "yes")
    assert contract.max_items == 4


def test_mean_of_independent_labels_keeps_their_meaning() -> None:
    (contract,) = contracts_of(
        {"name": "r", "kind": "ensemble", "targets": ["tags", "tags"]}
    ).values()
    assert (contract.scores, contract.activation) == (Scores.PROBABILITIES, "sigmoid")


def test_cascade_accepts_ensemble_as_target() -> None:
    contract = contracts_of(
        {"name": "r", "kind": "cascade", "targets": ["small", "both"], "thresholds": 0.9},
        {"name": "both", "kind": "ensemble", "targets": ["small", "large"]},
    )
    assert contract["r"].outputs == contract["both"].outputs
    assert contract["r"].scores is Scores.PROBABILITIES


def test_multi_task_joins_inputs_and_names_outputs() -> None:
    tasks = {"class": "small", "embed": "encoder", "head": "head"}
    (contract,) = contracts_of({"name": "r", "kind": "multi_task", "tasks": tasks}).values()
    assert [spec.name for spec in contract.inputs] == ["input", "vector"]
    assert [spec.name for spec in contract.outputs] == [
        "class.logits",
        "embed.vector",
        "head.logits",
    ]


@pytest.mark.parametrize("last", ["head", "other_head"])
def test_chain_feeds_by_name_or_only_tensor(last: str) -> None:
    (contract,) = contracts_of(
        {"name": "r", "kind": "chain", "targets": ["encoder", last]}
    ).values()
    assert (contract.inputs, contract.outputs) == ((IMAGE,), (LOGITS,))
    assert contract.max_items == 8
    assert contract.scores is Scores.LOGITS


def test_scatter_accepts_any_number_of_items() -> None:
    (contract,) = contracts_of({"name": "r", "kind": "scatter", "target": "small"}).values()
    assert contract == replace(CLASSIFIER, max_items=None)


def test_user_function_declares_its_outputs() -> None:
    (contract,) = contracts_of(
        {
            "name": "r",
            "kind": "ensemble",
            "targets": ["encoder", "encoder"],
            "combine": "python:my.module:concatenated",
            "outputs": [VECTOR.model_dump()],
        }
    ).values()
    assert (contract.outputs, contract.scores) == ((VECTOR,), Scores.NONE)


PAIR = {"kind": "ensemble", "targets": ["small", "large"]}


@pytest.mark.parametrize(
    ("routes", "message"),
    [
        (
            [{"name": "r", "kind": "hedge", "target": "smal"}],
            "route r: no model or route is called 'smal'; models served here: encoder, grey",
        ),
        (
            [
                {"name": "a", "kind": "ensemble", "targets": ["small", "b"]},
                {"name": "b", "kind": "chain", "targets": ["c", "small"]},
                {"name": "c", "kind": "hedge", "target": "b"},
            ],
            "route c: cycle b → c → b; remove one of these targets",
        ),
        ([{"name": "r", "kind": "hedge", "target": "r"}], "route r: cycle r → r"),
        ([{**PAIR, "name": "small"}], "route small: a served model has the same name"),
        (
            [{"name": "r", "kind": "ensemble", "targets": ["small", "grey"]}],
            r"route r: grey takes input FP32\[-1, 1, 8, 8\], small input FP32\[-1, 3, 8, 8\]",
        ),
        (
            [{"name": "r", "kind": "ensemble", "targets": ["small", "three"]}],
            "route r: three has 3 labels, 'a', 'b', 'c'; small has 2, 'no', 'yes'",
        ),
        (
            [{"name": "r", "kind": "quorum", "k": 1, "targets": ["small", "turned"]}],
            "route r: turned has the same labels in another order",
        ),
        (
            [{"name": "r", "kind": "cascade", "targets": ["small", "encoder"], "thresholds": 0.5}],
            "route r: encoder has no labels, so there are no probabilities",
        ),
        (
            [{"name": "r", "kind": "ensemble", "targets": ["small", "tags"]}],
            "route r: tags has the activation sigmoid, small softmax; .*model.activation",
        ),
        (
            [{"name": "r", "kind": "ensemble", "targets": ["tags", "tags"], "combine": "vote"}],
            "route r: tags decides each label by itself .*; use combine: mean",
        ),
        (
            [{"name": "r", "kind": "cascade", "targets": ["tags", "tags"], "thresholds": 0.5}],
            "route r: tags decides each label by itself .*thresholds compare the likeliest label",
        ),
        (
            [{"name": "r", "kind": "ensemble", "targets": ["prices", "prices"]}],
            "route r: prices answers numbers .*, so there are no probabilities to combine",
        ),
        (
            [{"name": "r", "kind": "shadow", "target": "prices", "shadow": "prices"}],
            "route r: prices answers numbers .*, so its answers cannot be compared",
        ),
        (
            [{"name": "r", "kind": "hedge", "target": "small", "backup": "tags"}],
            "route r: tags has the activation sigmoid, small softmax",
        ),
        (
            [{"name": "r", "kind": "hedge", "target": "small", "backup": "encoder"}],
            "route r: small answers logits .*, encoder vector .*; both must have the same outputs",
        ),
        (
            [{"name": "r", "kind": "canary", "target": "small", "candidate": "turned", "share": 0}],
            "route r: turned has the same labels in another order",
        ),
        (
            [{"name": "r", "kind": "shadow", "target": "encoder", "shadow": "encoder"}],
            "route r: encoder has no labels, so its answers cannot be compared",
        ),
        (
            [
                {
                    "name": "r",
                    "kind": "canary",
                    "target": "encoder",
                    "candidate": "encoder",
                    "share": 0.1,
                    "max_disagreement": 0.1,
                }
            ],
            "route r: encoder has no labels.*remove max_disagreement",
        ),
        (
            [{"name": "r", "kind": "chain", "targets": ["small", "head"]}],
            r"route r: input vector of head is FP32\[-1, 16\], the output of small is FP32",
        ),
        (
            [
                {"name": "r", "kind": "chain", "targets": ["both", "head"]},
                {"name": "both", "kind": "multi_task", "tasks": {"a": "small", "b": "encoder"}},
            ],
            "route r: head takes vector .*, but both answers .*: no output is called 'vector'",
        ),
        (
            [{"name": "r", "kind": "scatter", "target": "small", "part_items": 9}],
            "route r: part_items=9 is more than the 8 items that small takes at once",
        ),
        (
            [
                {"name": "r", "kind": "scatter", "target": "s"},
                {"name": "s", "kind": "scatter", "target": "small"},
            ],
            "route r: s takes any number of items; give part_items",
        ),
        (
            [{"name": "r", "kind": "multi_task", "tasks": {"a": "small", "b": "grey"}}],
            r"route r: input input is FP32\[-1, 1, 8, 8\] for grey and FP32\[-1, 3, 8, 8\]",
        ),
    ],
)
def test_invalid_route_is_rejected_with_its_name(
    routes: list[dict[str, Any]], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        contracts_of(*routes)


def test_route_to_canary_cannot_have_cache() -> None:
    canary = {
        "name": "new",
        "kind": "canary",
        "target": "small",
        "candidate": "large",
        "share": 0.1,
    }
    above = {"name": "above", "kind": "scatter", "target": "new"}
    contracts_of(canary, above)
    for routes in (({**canary, "cache_bytes": 1},), (canary, {**above, "cache_bytes": 1})):
        with pytest.raises(ConfigError, match=r"route (new|above): cache_bytes .* canary new"):
            contracts_of(*routes)
