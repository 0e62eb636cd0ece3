"""Pipeline stages: one module per part of a model, for chosen cuts.

module → torch.distributed.pipelining.pipeline ─ split_policy ─→ stages
           the policy: a split after each cut; after it, the batch size, constants and
           parameters are recomputed instead of transferred

A value that one stage computes and a later one needs, such as a skip connection, crosses every cut
between them. :class:`Stage` lists arriving and leaving tensors; the runtime carries unused ones.
"""

from __future__ import annotations

import contextlib
import operator
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import cast

import torch
from torch.distributed.pipelining import pipeline
from torch.fx import GraphModule, Node

from cluster.parallel.graph import CutPoint, counts, dependent, example
from cluster.tensors import TensorSpec


@dataclass(frozen=True)
class Stage:
    """One part of the model.

    ``module`` takes ``inputs`` positionally, each ``[batch, ...]``, and returns a tuple of
    ``outputs``. ``arrives`` and ``leaves``: tensors that cross the cuts before and after it, of
    which it may use only some.
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
    cuts: Sequence[CutPoint],
) -> list[Stage]:
    """Return the model as ``len(cuts) + 1`` stages that together compute bit-identical results.

    ``cuts``: of :func:`cluster.parallel.graph.cuts` on the same module, in its order.
    """
    renamed: dict[str, str] = {}

    def policy(graph: GraphModule) -> GraphModule:
        _cut(graph, cuts, renamed)
        return graph

    with torch.no_grad(), _untie(module):
        pipe = pipeline(module, example(inputs), split_policy=policy)
    placeholders = [node.name for node in pipe.split_gm.graph.nodes if node.op == "placeholder"]
    crossing = {spec.name: spec for cut in cuts for spec in cut.specs}
    specs = {renamed.get(name, name): spec for name, spec in crossing.items()}
    # An input keeps its name from the model in every stage.
    specs |= dict(zip(placeholders, inputs, strict=True))
    borders = [inputs, *(tuple(specs[renamed.get(n, n)] for n in c.carried) for c in cuts), outputs]
    interfaces = _interfaces(pipe.split_gm)
    stages = []
    for index in range(len(cuts) + 1):
        part = pipe.get_stage_module(index)
        input_names, output_names = interfaces[index]
        final = index == len(cuts)
        stages.append(
            Stage(
                module=_Tuple(part),
                inputs=tuple(specs[name] for name in input_names),
                outputs=outputs if final else tuple(specs[name] for name in output_names),
                arrives=borders[index],
                leaves=borders[index + 1],
            )
        )
    return stages


def joined(stages: Sequence[Stage]) -> Callable[..., tuple[torch.Tensor, ...]]:
    """Return the stages as one function of the model's inputs, in this process.

    Each stage gets copies, as over a transport.
    """

    def run(*inputs: torch.Tensor) -> tuple[torch.Tensor, ...]:
        values = {spec.name: x for spec, x in zip(stages[0].arrives, inputs, strict=True)}
        outputs: tuple[torch.Tensor, ...] = inputs
        for stage in stages:
            outputs = stage.module(*(values[spec.name].clone() for spec in stage.inputs))
            values |= {spec.name: x for spec, x in zip(stage.outputs, outputs, strict=True)}
        return outputs

    return run


@contextlib.contextmanager
def _untie(module: torch.nn.Module) -> Iterator[None]:
    """Separate parameters with several names, such as tied embeddings, inside the block.

    They share memory. pipeline() looks one name up in every stage that uses any of them.
    """
    registered: set[int] = set()
    tied: list[tuple[torch.nn.Module, str, torch.nn.Parameter]] = []
    for owner in module.modules():
        for name, parameter in owner.named_parameters(recurse=False, remove_duplicate=False):
            if id(parameter) in registered:
                tied.append((owner, name, parameter))
            registered.add(id(parameter))
    for owner, name, parameter in tied:
        owner.register_parameter(name, torch.nn.Parameter(parameter.detach(), False))
    try:
        yield
    finally:
        for owner, name, parameter in tied:
            owner.register_parameter(name, parameter)


class _Tuple(torch.nn.Module):
    """Wrapper whose stage always returns a tuple."""

    def __init__(self, part: torch.nn.Module) -> None:
        super().__init__()
        self.part = part

    def forward(self, *inputs: torch.Tensor) -> tuple[torch.Tensor, ...]:
        outputs = self.part(*inputs)
        return tuple(outputs) if isinstance(outputs, tuple | list) else (outputs,)


# ---------------------------------------------------------------------------- the split policy


def _cut(graph: GraphModule, cuts: Sequence[CutPoint], renamed: dict[str, str]) -> None:
    """Insert a split after each cut, so that only its carried tensors cross it."""
    nodes = {node.name: node for node in graph.graph.nodes}
    _flatten(graph)
    stage_of, borders = _borders(graph, cuts)
    _cross_as_bits(graph, cuts, nodes, stage_of, borders, renamed)
    nodes = {node.name: node for node in graph.graph.nodes}
    varying = dependent(graph.graph)
    for index, border in enumerate(borders, start=1):
        entering = [nodes[renamed.get(name, name)] for name in cuts[index - 1].carried]
        stage = [node for node in graph.graph.nodes if stage_of.get(node) == index]
        used = [value for value in entering if any(user in stage for user in value.users)]
        _Rematerialized(graph, stage_of, varying, index, (used or entering)[0], border).apply(stage)
    graph.graph.eliminate_dead_code()
    graph.recompile()


def _flatten(graph: GraphModule) -> None:
    """Discard the submodule structure: a stage is one flat graph.

    pipeline() rebuilds submodules from it, and fails on inserted operators.
    """
    stacks = [n.meta.get("nn_module_stack") for n in graph.graph.nodes]
    root = next((dict([next(iter(stack.items()))]) for stack in stacks if stack), {})
    for node in graph.graph.nodes:
        node.meta["nn_module_stack"] = root


@dataclass(frozen=True)
class _Border:
    """Border between two stages: the split, and the first operator after it."""

    split: Node
    start: Node


def _borders(graph: GraphModule, cuts: Sequence[CutPoint]) -> tuple[dict[Node, int], list[_Border]]:
    """Insert the splits; return the stage of every operator, and the borders."""
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
    """Recomputation of values inside one stage that need not be transferred."""

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
        self._copies: dict[Node, Node] = {}

    def apply(self, nodes: Sequence[Node]) -> None:
        for node in nodes:
            for source in node.all_input_nodes:
                if self._foreign(source):
                    node.replace_input_with(source, self._recompute(source))

    def _foreign(self, node: Node) -> bool:
        earlier = self._stage_of.get(node, self._stage) < self._stage
        return earlier and node not in self._varying and node.op == "call_function"

    def _recompute(self, node: Node) -> Node:
        if node in self._copies:
            return self._copies[node]
        if counts(node) and node.meta["val"].node.expr.is_symbol:
            with self._graph.inserting_before(self._start):
                copy = self._graph.call_function(torch.ops.aten.sym_size.int, (self._batched, 0))
            copy.meta = dict(node.meta)
        else:
            inner = {
                source: self._recompute(source)
                for source in node.all_input_nodes
                if self._foreign(source)
            }
            with self._graph.inserting_before(self._start):
                copy = self._graph.node_copy(node, lambda source: inner.get(source, source))
        self._stage_of[copy] = self._stage
        self._copies[node] = copy
        return copy


def _cross_as_bits(
    graph: GraphModule,
    cuts: Sequence[CutPoint],
    nodes: dict[str, Node],
    stage_of: dict[Node, int],
    borders: Sequence[_Border],
    renamed: dict[str, str],
) -> None:
    """Transfer bfloat16 values as INT16: NumPy, and hence the transport, has no bfloat16."""
    for name in {name: None for cut in cuts for name in cut.carried}:
        node = nodes[name]
        if node.meta["val"].dtype != torch.bfloat16:
            continue
        stage = stage_of.get(node, 0)
        with graph.graph.inserting_before(borders[stage].split):
            bits = graph.graph.call_function(torch.ops.aten.view.dtype, (node, torch.int16))
        bits.meta = dict(node.meta)
        stage_of[bits] = stage
        renamed[name] = bits.name
        for index, border in enumerate(borders, start=1):
            users = [user for user in node.users if stage_of.get(user) == index]
            if index <= stage or not users:
                continue
            with graph.graph.inserting_before(border.start):
                back = graph.graph.call_function(torch.ops.aten.view.dtype, (bits, torch.bfloat16))
            back.meta = dict(node.meta)
            stage_of[back] = index
            for user in users:
                user.replace_input_with(node, back)


# ---------------------------------------------------------------------------- interfaces


def _interfaces(pipe: GraphModule) -> list[tuple[list[str], list[str]]]:
    """Return each stage's input and output names, as the receiving stages call them.

    Outputs without a receiver are left out.
    """
    calls = [node for node in pipe.graph.nodes if node.op == "call_module"]
    inputs: dict[Node, list[str]] = {}
    for call in calls:
        inner = cast(GraphModule, pipe.get_submodule(str(call.target))).graph
        inputs[call] = [node.name for node in inner.nodes if node.op == "placeholder"]
    interfaces = []
    for call in calls:
        outputs: dict[int, str] = {}
        for user in call.users:
            indexed = user.op == "call_function" and operator.getitem is user.target
            index, value = (int(user.args[1]), user) if indexed else (0, call)
            for receiver in value.users:
                if receiver in inputs:
                    outputs[index] = inputs[receiver][list(receiver.args).index(value)]
        interfaces.append((inputs[call], [outputs[index] for index in sorted(outputs)]))
    return interfaces
