"""Stages compute what the whole model does, to the bit, wherever it is cut."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from models import FAMILIES, SkipsAStage, random_inputs
from torch import nn

from cluster.errors import PlanError
from cluster.parallel import graph
from cluster.parallel.pipeline import Stage, split
from cluster.tensors import TensorSpec

QUICK = ("bert", "gpt2", "skips", "resnet18 bf16")
EXAMPLES = 2
"""Sets of cuts per model: each has to be traced anew, in seconds."""


def outputs_of(module: nn.Module, specs: tuple[TensorSpec, ...]) -> tuple[TensorSpec, ...]:
    with torch.no_grad():
        answer = module(*random_inputs(specs, 1, 0))
    return (TensorSpec(name="logits", datatype="FP32", shape=(-1, *answer.shape[1:])),)


def chained(stages: list[Stage], inputs: list[torch.Tensor]) -> torch.Tensor:
    """What the stages compute one after the other, given no more than arrives at each."""
    arrived = dict(zip([spec.name for spec in stages[0].arrives], inputs, strict=True))
    for stage in stages:
        assert set(arrived) == {spec.name for spec in stage.arrives}
        with torch.no_grad():
            made = stage.module(*(arrived[spec.name] for spec in stage.inputs))
        known = arrived | dict(zip([s.name for s in stage.outputs], made, strict=True))
        for spec in stage.leaves:
            assert known[spec.name].shape[1:] == spec.item_shape
            assert str(known[spec.name].dtype) == f"torch.{spec.dtype.name}"
        arrived = {spec.name: known[spec.name] for spec in stage.leaves}
    (answer,) = arrived.values()
    return answer


@pytest.mark.parametrize(
    "family", [pytest.param(f, marks=() if f in QUICK else pytest.mark.slow) for f in FAMILIES]
)
@settings(max_examples=EXAMPLES, derandomize=True, database=None)
@given(data=st.data())
def test_stages_compute_the_whole_model_to_the_bit(family: str, data: st.DataObject) -> None:
    torch.manual_seed(0)
    module, specs = FAMILIES[family]()
    module.eval()
    outputs = outputs_of(module, specs)
    places = graph.cuts(graph.trace(module, specs).graph)
    indices = st.sets(st.integers(0, len(places) - 1), min_size=1, max_size=3)
    chosen = [places[index] for index in sorted(data.draw(indices, "cuts"))]
    stages = split(module, specs, outputs, chosen)
    assert len(stages) == len(chosen) + 1
    for batch in (1, data.draw(st.integers(2, 9), "batch")):
        inputs = random_inputs(specs, batch, seed=batch)
        with torch.no_grad():
            whole = module(*inputs)
        where = [place.after for place in chosen]
        assert torch.equal(chained(stages, inputs), whole), (where, batch)


def test_what_only_a_later_stage_needs_is_carried_past_the_ones_between() -> None:
    module = SkipsAStage().eval()
    specs = FAMILIES["skips"]()[1]
    places = graph.cuts(graph.trace(module, specs).graph)
    cuts = [place for place in places if len(place.carried) == 2][:3:2]
    stages = split(module, specs, outputs_of(module, specs), cuts)
    skipped = stages[0].leaves[0].name
    assert skipped in {spec.name for spec in stages[1].arrives}
    assert skipped in {spec.name for spec in stages[1].leaves}
    assert skipped not in {spec.name for spec in stages[1].inputs}
    assert skipped in {spec.name for spec in stages[2].inputs}


def test_each_stage_holds_its_own_weights_and_no_others() -> None:
    module, specs = FAMILIES["resnet18"]()
    module.eval()
    places = graph.cuts(graph.trace(module, specs).graph)
    cuts = [places[len(places) // 3], places[2 * len(places) // 3]]
    stages = split(module, specs, outputs_of(module, specs), cuts)
    sizes = [sum(p.numel() for p in stage.module.parameters()) for stage in stages]
    assert sum(sizes) == sum(p.numel() for p in module.parameters())
    assert all(sizes)


class Branches(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if x.sum() > 0:
            return x
        return -x


def test_a_model_that_cannot_be_one_graph_is_refused_with_the_line() -> None:
    spec = (TensorSpec(name="x", datatype="FP32", shape=(-1, 4)),)
    with pytest.raises(PlanError, match="cannot be exported as one graph") as refused:
        graph.trace(Branches(), spec)
    assert "test_pipeline.py" in str(refused.value)
    assert "x.sum() > 0" in str(refused.value)


def test_no_cut_parts_a_convolution_from_what_compilers_fuse_with_it() -> None:
    module, specs = FAMILIES["resnet18"]()
    traced = graph.trace(module.eval(), specs).graph
    following = {node.name: node.next for node in traced.nodes}
    for place in graph.cuts(traced):
        assert graph.operator_name(following[place.after]) not in ("batch_norm", "relu")


def test_indices_of_a_table_are_known_with_its_rows() -> None:
    module, specs = FAMILIES["bert"]()
    assert graph.index_limits(graph.trace(module.eval(), specs).graph, specs) == {"input_ids": 100}
