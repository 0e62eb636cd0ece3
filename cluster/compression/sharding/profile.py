"""Where a finished model can be cut and what its parts cost, as the manifest keeps it."""

from __future__ import annotations

from cluster.artifact.layout import Profile, Segment
from cluster.compression.sharding.cutting import COST_BATCH, Cuttable
from cluster.parallel.graph import values_between


def profile(model: Cuttable) -> Profile:
    """Every segment between two cuts, with its measured cost and its bytes."""
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
        if node.op == "get_attr":  # a tensor that several segments read is in each
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
    )


def _tensors(model: Cuttable) -> list:
    return [*model.graph.named_parameters(), *model.graph.named_buffers()]
