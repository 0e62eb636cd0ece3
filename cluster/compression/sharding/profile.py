"""Profile of a finished model for the manifest: places to cut, and costs of the parts."""

from __future__ import annotations

from collections.abc import Mapping

from torch import nn

from cluster.artifact.layout import Profile, Segment, TensorProfile
from cluster.compression.sharding.cutting import COST_BATCH, Cuttable
from cluster.config.parallel import Sliced
from cluster.errors import PlanError
from cluster.parallel import tensor
from cluster.parallel.graph import node_bytes, operator_name, values_between

MOST_RANKS = 16
"""Largest degree of tensor slices in a profile."""


def tensor_profile(
    model: Cuttable, module: nn.Module, slices: Mapping[str, Sliced] | None
) -> TensorProfile | None:
    """Return costs and bytes that tensor slices of the module would share; None without a plan."""
    try:
        plan = tensor.plan_for(module, slices)
    except PlanError:
        return None
    degrees = tuple(d for d in range(2, MOST_RANKS + 1) if tensor.fits(module, plan, d))
    owners = (*plan.layers, *plan.attentions)
    rows = [name for name, style in plan.layers.items() if style == "row"] + [*plan.attentions]
    sliced_ms, sliced, reduced = 0.0, set[str](), 0
    for node in model.graph.graph.nodes:
        read = {str(e.target) for e in node.all_input_nodes if e.op == "get_attr"}
        weights = {name for name in read if name.rpartition(".")[0].endswith(owners)}
        if weights or "attention" in operator_name(node):
            sliced |= weights
            sliced_ms += model.operator_ms.get(node.name, 0.0)
        if any(name.rpartition(".")[0].endswith(tuple(rows)) for name in weights):
            reduced = max(reduced, node_bytes(node))
    sizes = {name: value.numel() * value.element_size() for name, value in _tensors(model)}
    return TensorProfile(
        degrees=degrees,
        sliced_cost=sliced_ms / max(sum(model.operator_ms.values()), 1e-9),
        sliced_bytes=sum(sizes.get(name, 0) for name in sliced),
        reduces=len(rows),
        reduced_bytes=reduced,
    )


def profile(model: Cuttable, sliced: TensorProfile | None = None) -> Profile:
    """Return every segment between two cuts, with its measured cost and its bytes."""
    segment_of = model.segment_of()
    count = len(model.cuts) + 1
    cost, weights, alive = [0.0] * count, [0] * count, [0] * count
    for name, milliseconds in model.operator_ms.items():
        cost[segment_of[name]] += milliseconds
    sizes = {name: tensor.numel() * tensor.element_size() for name, tensor in _tensors(model)}
    nodes = list(model.graph.graph.nodes)
    for node, size in values_between(nodes):
        if node.op == "call_function":
            at = segment_of[node.name]
            alive[at] = max(alive[at], size)
    for node in nodes:
        if node.op == "get_attr":  # every segment that reads a tensor contains it
            for at in {segment_of[user.name] for user in node.users if user.op != "output"}:
                weights[at] += sizes.get(str(node.target), 0)
    last = [cut.after for cut in model.cuts] + [nodes[-1].name]
    carried = [cut.item_bytes for cut in model.cuts] + [0]
    return Profile(
        batch=COST_BATCH,
        segments=tuple(
            Segment(
                last=last[index],
                cost_ms=cost[index],
                weight_bytes=weights[index],
                activation_bytes=alive[index],
                carried_bytes=carried[index],
            )
            for index in range(count)
        ),
        tensor=sliced,
    )


def _tensors(model: Cuttable) -> list:
    return [*model.graph.named_parameters(), *model.graph.named_buffers()]
