"""Pipeline stages: one module per part of a model, cut where the caller says.

module → torch.distributed.pipelining.pipeline ─ split_policy ─→ stages
           the policy: a split behind each cut; behind it, the batch size, constants and
           parameters are made again instead of being sent

What one stage makes and a later one needs, such as a skip connection, crosses every cut between:
:class:`Stage` says what arrives and what leaves, and the runtime carries what a stage does not use.
"""

from __future__ import annotations

import contextlib
import operator
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import cast

import torch
from torch.distributed.pipelining import pipeline
from torch.fx import GraphModule, Node

from cluster.parallel.graph import Cut, counts, dependent, example
from cluster.tensors import TensorSpec


@dataclass(frozen=True)
class Stage:
    """One part of the model.

    ``module`` takes ``inputs`` positionally, each ``[batch, ...]``, and returns a tuple of
    ``outputs``. ``arrives`` and ``leaves`` are what crosses the cuts before and behind it, of which
    it may leave some alone.
    """

    module: torch.nn.Module
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    arrives: tuple[TensorSpec, ...]
    leaves: tuple[TensorSpec, ...]


def split(
    module: torch.nn.Module,
    inputs: tuple[TensorSpec, ...],
    outputs: tuple[TensorSpec, ...],
    cuts: Sequence[Cut],
) -> list[Stage]:
    """The model as ``len(cuts) + 1`` stages that together compute the same, bit for bit.

    ``cuts``: of :func:`cluster.parallel.graph.cuts` on the same module, in its order.
    """
    renamed: dict[str, str] = {}

    def policy(graph: GraphModule) -> GraphModule:
        _cut(graph, cuts, renamed)
        return graph

    with torch.no_grad(), _untied(module):
        pipe = pipeline(module, example(inputs), split_policy=policy)
    given = [each.name for each in pipe.split_gm.graph.nodes if each.op == "placeholder"]
    crossing = {spec.name: spec for cut in cuts for spec in cut.specs}
    known = {renamed.get(name, name): spec for name, spec in crossing.items()}
    # An input keeps the name that the model gives it, wherever it is needed.
    known |= dict(zip(given, inputs, strict=True))
    borders = [inputs, *(tuple(known[renamed.get(n, n)] for n in c.carried) for c in cuts), outputs]
    interfaces = _interfaces(pipe.split_gm)
    stages = []
    for index in range(len(cuts) + 1):
        part = pipe.get_stage_module(index)
        taken, made = interfaces[index]
        final = index == len(cuts)
        stages.append(
            Stage(
                module=_Tuple(part),
                inputs=tuple(known[name] for name in taken),
                outputs=outputs if final else tuple(known[name] for name in made),
                arrives=borders[index],
                leaves=borders[index + 1],
            )
        )
    return stages


@contextlib.contextmanager
def _untied(module: torch.nn.Module) -> Iterator[None]:
    """Meanwhile, a parameter that has several names, as tied embeddings have, is several.

    They share their memory. pipeline() looks one name up in every stage that uses any of them.
    """
    seen: set[int] = set()
    tied: list[tuple[torch.nn.Module, str, torch.nn.Parameter]] = []
    for owner in module.modules():
        for name, parameter in owner.named_parameters(recurse=False, remove_duplicate=False):
            if id(parameter) in seen:
                tied.append((owner, name, parameter))
            seen.add(id(parameter))
    for owner, name, parameter in tied:
        owner.register_parameter(name, torch.nn.Parameter(parameter.detach(), False))
    try:
        yield
    finally:
        for owner, name, parameter in tied:
            owner.register_parameter(name, parameter)


class _Tuple(torch.nn.Module):
    """Lets a stage answer a tuple, however many tensors it makes."""

    def __init__(self, part: torch.nn.Module) -> None:
        super().__init__()
        self.part = part

    def forward(self, *inputs: torch.Tensor) -> tuple[torch.Tensor, ...]:
        found = self.part(*inputs)
        return tuple(found) if isinstance(found, tuple | list) else (found,)


# ---------------------------------------------------------------------------- the split policy


def _cut(graph: GraphModule, cuts: Sequence[Cut], renamed: dict[str, str]) -> None:
    """Put a split behind each cut, and see to it that only its carried tensors cross it."""
    nodes = {node.name: node for node in graph.graph.nodes}
    _flatten(graph)
    stage_of, borders = _borders(graph, cuts)
    _cross_as_bits(graph, cuts, nodes, stage_of, borders, renamed)
    nodes = {node.name: node for node in graph.graph.nodes}
    varying = dependent(graph.graph)
    for index, border in enumerate(borders, start=1):
        entering = [nodes[renamed.get(name, name)] for name in cuts[index - 1].carried]
        own = [node for node in graph.graph.nodes if stage_of.get(node) == index]
        used = [each for each in entering if any(user in own for user in each.users)]
        _Rematerialized(graph, stage_of, varying, index, (used or entering)[0], border).apply(own)
    graph.graph.eliminate_dead_code()
    graph.recompile()


def _flatten(graph: GraphModule) -> None:
    """Forget which submodule an operator came from: a stage is one flat graph.

    pipeline() rebuilds submodules from it, and fails on operators that were put in between.
    """
    stacks = [n.meta.get("nn_module_stack") for n in graph.graph.nodes]
    root = next((dict([next(iter(stack.items()))]) for stack in stacks if stack), {})
    for node in graph.graph.nodes:
        node.meta["nn_module_stack"] = root


@dataclass(frozen=True)
class _Border:
    """Between two stages: the split, and the first operator behind it."""

    split: Node
    start: Node


def _borders(graph: GraphModule, cuts: Sequence[Cut]) -> tuple[dict[Node, int], list[_Border]]:
    """Insert the splits; the stage of every operator, and the borders."""
    ends = {cut.after for cut in cuts}
    stage, stage_of, borders, begins = 0, {}, [], False
    for node in list(graph.graph.nodes):
        if node.op not in ("call_function", "output"):
            continue
        if begins:
            with graph.graph.inserting_before(node):
                split = graph.graph.call_function(torch.ops.pippy._pipe_split.default, ())
            split.meta["nn_module_stack"] = node.meta["nn_module_stack"]
            borders.append(_Border(split, node))
            begins = False
        stage_of[node] = stage
        if node.name in ends:
            stage, begins = stage + 1, True
    return stage_of, borders


class _Rematerialized:
    """Makes again, inside one stage, what no tensor needs to carry there."""

    def __init__(
        self,
        graph: GraphModule,
        stage_of: dict[Node, int],
        varying: set[Node],
        stage: int,
        batched: Node,
        border: _Border,
    ) -> None:
        self._graph, self._stage_of, self._varying = graph.graph, stage_of, varying
        self._stage, self._batched, self._start = stage, batched, border.start
        self._made: dict[Node, Node] = {}

    def apply(self, own: Sequence[Node]) -> None:
        for node in own:
            for given in node.all_input_nodes:
                if self._foreign(given):
                    node.replace_input_with(given, self._again(given))

    def _foreign(self, node: Node) -> bool:
        earlier = self._stage_of.get(node, self._stage) < self._stage
        return earlier and node not in self._varying and node.op == "call_function"

    def _again(self, node: Node) -> Node:
        if node in self._made:
            return self._made[node]
        if counts(node) and node.meta["val"].node.expr.is_symbol:
            with self._graph.inserting_before(self._start):
                copy = self._graph.call_function(torch.ops.aten.sym_size.int, (self._batched, 0))
            copy.meta = dict(node.meta)
        else:
            inner = {
                each: self._again(each) for each in node.all_input_nodes if self._foreign(each)
            }
            with self._graph.inserting_before(self._start):
                copy = self._graph.node_copy(node, lambda each: inner.get(each, each))
        self._stage_of[copy] = self._stage
        self._made[node] = copy
        return copy


def _cross_as_bits(
    graph: GraphModule,
    cuts: Sequence[Cut],
    nodes: dict[str, Node],
    stage_of: dict[Node, int],
    borders: Sequence[_Border],
    renamed: dict[str, str],
) -> None:
    """Let bfloat16 values cross as INT16: NumPy, and with it the transport, has no such type."""
    for name in {name: None for cut in cuts for name in cut.carried}:
        node = nodes[name]
        if node.meta["val"].dtype != torch.bfloat16:
            continue
        own = stage_of.get(node, 0)
        with graph.graph.inserting_before(borders[own].split):
            bits = graph.graph.call_function(torch.ops.aten.view.dtype, (node, torch.int16))
        bits.meta = dict(node.meta)
        stage_of[bits] = own
        renamed[name] = bits.name
        for index, border in enumerate(borders, start=1):
            users = [user for user in node.users if stage_of.get(user) == index]
            if index <= own or not users:
                continue
            with graph.graph.inserting_before(border.start):
                back = graph.graph.call_function(torch.ops.aten.view.dtype, (bits, torch.bfloat16))
            back.meta = dict(node.meta)
            stage_of[back] = index
            for user in users:
                user.replace_input_with(node, back)


# ---------------------------------------------------------------------------- what was cut


def _interfaces(pipe: GraphModule) -> list[tuple[list[str], list[str]]]:
    """For each stage the names of what it takes and of what it makes, as they are called where
    they are taken; of what no stage takes, nothing."""
    calls = [node for node in pipe.graph.nodes if node.op == "call_module"]
    taken: dict[Node, list[str]] = {}
    for call in calls:
        inner = cast(GraphModule, pipe.get_submodule(str(call.target))).graph
        taken[call] = [node.name for node in inner.nodes if node.op == "placeholder"]
    found = []
    for call in calls:
        made: dict[int, str] = {}
        for user in call.users:
            picked = user.op == "call_function" and operator.getitem is user.target
            index, value = (int(user.args[1]), user) if picked else (0, call)
            for other in value.users:
                if other in taken:
                    made[index] = taken[other][list(other.args).index(value)]
        found.append((taken[call], [made[index] for index in sorted(made)]))
    return found
